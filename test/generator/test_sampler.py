"""The closed form is the scheduler, to 1e-6."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.generator.guidance import Guidance
from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.generator.sampler import derive_schedule, schedule

torch = pytest.importorskip('torch', reason="the extra 'model' is not installed")


def run_scheduler(steps, shift, start, velocities):
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=shift, final_sigmas_type='zero')
    scheduler.set_timesteps(steps, sigmas=np.linspace(0.999, 0.0, steps + 1)[:-1])
    samples, sample = [], start[None]
    for timestep, velocity in zip(scheduler.timesteps, velocities, strict=True):
        sample = scheduler.step(velocity[None], timestep, sample, return_dict=False)[0]
        samples.append(sample[0])
    return scheduler, samples


@pytest.mark.parametrize('steps, shift', [
    (4, 5.0), (1, 5.0), (2, 5.0), (3, 5.0), (5, 5.0), (10, 5.0), (4, 10.0)])
def test_every_sample_agrees_with_diffusers(steps, shift):
    torch.manual_seed(steps)
    start = torch.randn(33, 8)
    velocities = [torch.randn(33, 8) for _ in range(steps)]
    scheduler, samples = run_scheduler(steps, shift, start, velocities)
    plan = schedule(steps, shift)
    assert plan.timesteps == tuple(scheduler.timesteps.tolist())
    np.testing.assert_allclose(plan.sigmas, scheduler.sigmas[:-1], atol=1e-7)
    for k, sample in enumerate(samples):
        ours = start.double() + sum(
            float(c) * v.double() for c, v in zip(plan.coefficients[k], velocities, strict=True))
        assert (ours - sample).abs().max() <= 2e-6


def test_the_written_constants_are_the_derived_ones():
    written, derived = schedule(4, 5.0), derive_schedule(4, 5.0)
    assert written.timesteps == derived.timesteps == (999, 937, 833, 624)
    np.testing.assert_allclose(written.coefficients, derived.coefficients, atol=1e-6)
    np.testing.assert_allclose(written.sigmas, derived.sigmas, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(steps=st.integers(1, 12), shift=st.sampled_from([1.0, 3.0, 5.0, 10.0]))
def test_a_constant_velocity_is_followed_exactly(steps, shift):
    # On a straight path the velocity is noise - data, so sigma[0] of it is what leads to the data.
    plan = schedule(steps, shift)
    np.testing.assert_allclose(plan.coefficients[-1].sum(), -plan.sigmas[0], atol=2e-5)
    for k in range(steps - 1):
        np.testing.assert_allclose(plan.coefficients[k].sum(), plan.sigmas[k + 1] - plan.sigmas[0], atol=2e-5)


@pytest.mark.parametrize('steps, shift, message', [
    (0, 5.0, 'steps: 0 arrived, 1 to 50'), (51, 5.0, 'steps: 51'), (4, 0.0, 'shift: 0.0 arrived'),
    (4, float('nan'), 'shift: nan')])
def test_bad_settings(steps, shift, message):
    with pytest.raises(PolicyError, match=message):
        schedule(steps, shift)


@settings(deadline=None)
@given(scale=st.floats(0, 20), c=st.floats(-10, 10), u=st.floats(-10, 10))
def test_guidance_goes_through_both_branches(scale, c, u):
    guidance = Guidance(scale)
    assert guidance.combine(c, u) == pytest.approx(u + scale * (c - u))
    assert Guidance(1.0).combine(c, u) == pytest.approx(c, abs=1e-12)


def test_the_interval_excludes_its_ends():
    gate = Guidance(3.0, (960, 1001))
    assert [gate.active(t) for t in (999, 937, 833, 624)] == [True, False, False, False]
    assert not Guidance(3.0, (960, 999)).active(999) and not Guidance(3.0, (999, 1001)).active(999)
    assert all(Guidance(3.0).active(t) for t in (0, 500, 999)) and not Guidance(1.0).active(999)


@pytest.mark.parametrize('scale, interval', [(-1, None), (float('nan'), None), (3, (5, 5)), (3, (9, 2000))])
def test_bad_guidance(scale, interval):
    with pytest.raises(PolicyError, match='guidance'):
        Guidance(scale, interval)
