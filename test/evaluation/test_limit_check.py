"""The independent check passes every admissible motion and catches every seeded violation."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.evaluation.geometry_check import link_poses, place, segment_distance
from cosmos3_ros.evaluation.limit_check import CommandLog, check_commands
from cosmos3_ros.evaluation.limit_file import LimitFileError, read_limits
from cosmos3_ros.evaluation.segment_check import check_segments

LIMITS = read_limits('panda', 'lab')
HOME = np.array([0.0, -0.6, 0.0, -2.2, 0.0, 1.6, 0.785])
START_NS = 1_700_000_000_000_000_000


def rest_to_rest(
    seed: int, count: int = 4, share: float = 0.999, speed_share: float = 0.3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Knots of a motion of ``count`` strokes; jerk pattern + - - + leaves velocity and acceleration zero."""
    random = np.random.RandomState(seed)
    times, q, v, a, jerks = [0.0], [HOME.copy()], [np.zeros(7)], [np.zeros(7)], []
    for _ in range(count):
        duration = random.uniform(0.05, 0.15)
        top = np.minimum.reduce([
            LIMITS.jerk, LIMITS.acceleration / duration, speed_share * LIMITS.velocity / duration**2])
        jerk = share * top * random.uniform(-1.0, 1.0, 7)
        # One joint at the very limit, so that a check with a wrong factor would fail.
        joint = random.randint(7)
        jerk[joint] = share * top[joint]
        for sign in (1.0, -1.0, -1.0, 1.0):
            j, h = sign * jerk, duration
            q.append(q[-1] + h * (v[-1] + h * (a[-1] / 2 + h * j / 6)))
            v.append(v[-1] + h * (a[-1] + h * j / 2))
            a.append(a[-1] + h * j)
            jerks.append(j)
            times.append(times[-1] + h)
        v[-1], a[-1] = np.zeros(7), np.zeros(7)
    return np.array(times), np.array(q), np.array(v), np.array(a), np.array(jerks)


def sample(
    knots: tuple[np.ndarray, ...], stamps_s: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    times, q, v, a, j = knots
    i = np.clip(np.searchsorted(times, stamps_s, side='right') - 1, 0, len(j) - 1)
    s = (np.clip(stamps_s, 0.0, times[-1]) - times[i])[:, None]
    return (
        q[i] + s * (v[i] + s * (a[i] / 2 + s * j[i] / 6)),
        v[i] + s * (a[i] + s * j[i] / 2), a[i] + s * j[i])


def log_of(knots: tuple[np.ndarray, ...], period_ns: int = 2_000_000, jitter_seed: int = 0) -> CommandLog:
    end_ns = int(knots[0][-1] * 1e9) + 20_000_000
    stamps = np.arange(0, end_ns, period_ns)
    stamps = stamps + np.random.RandomState(jitter_seed).randint(0, period_ns // 2, len(stamps))
    q, v, a = sample(knots, stamps * 1e-9)
    return CommandLog(LIMITS.joint_names, START_NS + stamps, q, v, a)


def only(violations: dict[str, int]) -> set[str]:
    return {name for name, count in violations.items() if count}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), period_ns=st.sampled_from([1_000_000, 2_000_000, 10_000_000]))
def test_admissible_motion_passes_at_any_stamps(seed: int, period_ns: int) -> None:
    log = log_of(rest_to_rest(seed), period_ns, seed)
    report = check_commands(log, LIMITS)
    assert report.total == 0, report.to_dict()
    assert report.samples == len(log.stamps_ns)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), share=st.floats(0.05, 1.0))
def test_dropped_messages_make_no_violation(seed: int, share: float) -> None:
    log = log_of(rest_to_rest(seed))
    keep = np.random.RandomState(seed).rand(len(log.stamps_ns)) < max(share, 0.3)
    keep[:2] = keep[-2:] = True
    thinned = CommandLog(
        log.joint_names, log.stamps_ns[keep], log.position[keep])
    assert check_commands(thinned, LIMITS).total == 0


@pytest.mark.parametrize('limit', ['velocity', 'acceleration', 'jerk'])
@pytest.mark.parametrize('with_fields', [True, False])
def test_motion_past_one_limit_is_caught(limit: str, with_fields: bool) -> None:
    knots = rest_to_rest(3)
    log = log_of(knots)
    if not with_fields:
        log = CommandLog(log.joint_names, log.stamps_ns, log.position)
    peak = {'velocity': np.abs(knots[2]), 'acceleration': np.abs(knots[3]), 'jerk': np.abs(knots[4])}[limit]
    # The same motion against a limit just below its own peak: only that limit may fail, and it must.
    tight = replace(LIMITS, **{limit: np.where(peak.max(axis=0) > 0, 0.97 * peak.max(axis=0), 1.0)})
    caught = only(check_commands(log, tight).violations)
    assert limit in caught
    assert caught <= {limit, 'rest', 'consistency'}


def test_each_position_limit_is_caught_where_it_is() -> None:
    log = log_of(rest_to_rest(5))
    for joint in range(7):
        for bound, sign in (('upper', 1.0), ('lower', -1.0)):
            edge = getattr(LIMITS, bound).copy()
            extreme = log.position[:, joint].max() if sign > 0 else log.position[:, joint].min()
            edge[joint] = extreme - sign * 1e-4
            report = check_commands(log, replace(LIMITS, **{bound: edge}))
            assert only(report.violations) == {'position'}
            assert report.worst['position'].where == LIMITS.joint_names[joint]
            assert report.worst['position'].margin == pytest.approx(-1e-4, rel=1e-6)


def test_single_step_in_position_is_caught() -> None:
    log = log_of(rest_to_rest(7))
    position = log.position.copy()
    position[len(position) // 2:] += 1e-3
    report = check_commands(CommandLog(log.joint_names, log.stamps_ns, position), LIMITS)
    assert {'jerk', 'acceleration'} <= only(report.violations)


def test_velocity_that_is_not_the_derivative_is_caught() -> None:
    log = log_of(rest_to_rest(8))
    assert log.velocity is not None
    report = check_commands(replace(log, velocity=0.9 * log.velocity), LIMITS)
    assert 'consistency' in only(report.violations)


def test_jump_hidden_in_a_pause_is_caught() -> None:
    moving = log_of(rest_to_rest(9, count=1))
    middle = len(moving.stamps_ns) // 2
    stamps = moving.stamps_ns.copy()
    stamps[middle:] += 500_000_000
    report = check_commands(CommandLog(moving.joint_names, stamps, moving.position), LIMITS)
    assert 'rest' in only(report.violations)
    assert report.segments == 2


def test_reset_between_episodes_is_no_violation() -> None:
    first, second = log_of(rest_to_rest(10)), log_of(rest_to_rest(11))
    shift = first.stamps_ns[-1] + 2_000_000 - second.stamps_ns[0]
    offset = np.array([0.3, 0.1, 0.0, 0.1, 0.0, 0.0, 0.2])
    both = CommandLog(
        first.joint_names, np.concatenate([first.stamps_ns, second.stamps_ns + shift]),
        np.concatenate([first.position, second.position + offset]))
    assert check_commands(both, LIMITS).total > 0
    breaks = (int(second.stamps_ns[0] + shift),)
    assert check_commands(both, LIMITS, breaks_ns=breaks).total == 0


def test_nan_is_a_violation_not_a_crash() -> None:
    log = log_of(rest_to_rest(12))
    position = log.position.copy()
    position[40, 2] = np.nan
    report = check_commands(CommandLog(log.joint_names, log.stamps_ns, position), LIMITS)
    assert report.violations['position'] == 1
    assert report.violations['jerk'] > 0


def test_regressing_stamps_are_counted() -> None:
    log = log_of(rest_to_rest(13))
    stamps = log.stamps_ns.copy()
    stamps[50] = stamps[48]
    report = check_commands(CommandLog(log.joint_names, stamps, log.position), LIMITS)
    assert report.violations['stamp'] == 1


def test_tcp_speed_is_caught_by_own_kinematics() -> None:
    log = log_of(rest_to_rest(14))
    tool = LIMITS.points[0]
    path = place(link_poses(LIMITS, log.position), tool[1], tool[2])
    top = (np.linalg.norm(np.diff(path, axis=0), axis=1) / (np.diff(log.stamps_ns) * 1e-9)).max()
    tight = replace(LIMITS, points=((tool[0], tool[1], tool[2], 0.98 * top), *LIMITS.points[1:]))
    assert only(check_commands(log, tight).violations) == {'tcp_speed'}


def test_table_and_box_and_self_collision_are_caught() -> None:
    down = np.array([0.0, 1.2, 0.0, -1.6, 0.0, 2.8, 0.785])
    folded = np.array([0.0, -1.7, 0.0, -3.0, 0.0, -0.01, 0.785])
    stamps = START_NS + np.arange(20) * 2_000_000
    for pose, name in ((down, 'plane'), (folded, 'self_collision')):
        report = check_commands(CommandLog(LIMITS.joint_names, stamps, np.tile(pose, (20, 1))), LIMITS)
        assert name in only(report.violations), report.to_dict()
    small = replace(LIMITS, box=np.array([[-0.6, -0.8, -0.05], [0.4, 0.8, 1.35]]))
    report = check_commands(CommandLog(LIMITS.joint_names, stamps, np.tile(HOME, (20, 1))), small)
    assert only(report.violations) == {'workspace'}


def test_velocity_envelope_of_the_fr3_is_caught() -> None:
    limits = read_limits('fr3', 'hardware')
    stamps = START_NS + np.arange(30) * 2_000_000
    position = np.tile(np.array([0.0, -0.6, 0.0, -2.2, 0.0, 1.6, 0.785]), (30, 1))
    position[:, 0] = 2.60 + np.arange(30) * 0.002 * 1.0
    velocity = np.zeros_like(position)
    velocity[:, 0] = 1.0
    report = check_commands(CommandLog(limits.joint_names, stamps, position, velocity), limits)
    # sqrt(12 (2.7501 - q)) - 0.3 is 1.04 rad/s at 2.60 rad and 0.73 rad/s at 2.66 rad.
    assert report.violations['velocity_envelope'] > 0
    assert report.violations['velocity'] == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_analytic_extrema_are_those_of_dense_samples(seed: int) -> None:
    knots = rest_to_rest(seed, share=1.5)
    q, v, _ = sample(knots, np.linspace(0.0, knots[0][-1], 20_001))
    report = check_segments(*knots, LIMITS)
    speed = (np.abs(v) - LIMITS.velocity).max()
    assert report.worst['velocity'].margin == pytest.approx(-speed, abs=1e-5)
    room = np.minimum(q - LIMITS.lower, LIMITS.upper - q).min()
    assert report.worst['position'].margin == pytest.approx(room, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_admissible_segments_pass_and_broken_ones_do_not(seed: int) -> None:
    times, q, v, a, j = rest_to_rest(seed)
    assert check_segments(times, q, v, a, j, LIMITS).total == 0
    jumped = q.copy()
    jumped[5:] += 1e-6
    assert only(check_segments(times, jumped, v, a, j, LIMITS).violations) == {'continuity'}
    assert check_segments(times[:3], q[:3], v[:3], a[:3], j[:2], LIMITS).violations['rest'] > 0


def test_overshoot_between_knots_is_caught() -> None:
    # Both knots are inside the limit, the turning point between them is not.
    times = np.array([0.0, 1.0])
    q, v, a, j = (np.zeros((2, 7)) for _ in range(4))
    q[:] = HOME
    v[0, 0], v[1, 0], a[:, 0] = 0.5, -0.5, -1.0
    edge = LIMITS.upper.copy()
    edge[0] = HOME[0] + 0.12  # the turn is at v^2 / 2a = 0.125
    report = check_segments(times, q, v, a, j[:1], replace(LIMITS, upper=edge), ends_at_rest=False)
    assert only(report.violations) == {'position'}
    assert report.worst['position'].margin == pytest.approx(-0.005)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_segment_distance_is_the_minimum_of_a_grid(seed: int) -> None:
    a0, a1, b0, b1 = np.random.RandomState(seed).uniform(-1, 1, (4, 1, 3))
    s = np.linspace(0.0, 1.0, 201)[:, None]
    first, second = a0 + s * (a1 - a0), b0 + s * (b1 - b0)
    grid = np.linalg.norm(first[:, None] - second[None], axis=-1).min()
    found = segment_distance(a0, a1, b0, b1)[0]
    assert found <= grid + 1e-12
    assert found == pytest.approx(grid, abs=2e-2)


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(LimitFileError, match=r"'kuka' is unknown; allowed: .*panda"):
        read_limits('kuka', 'lab')
    with pytest.raises(LimitFileError, match=r"'fast' is unknown; allowed: commissioning, lab"):
        read_limits('panda', 'fast')


def test_joints_of_another_robot_are_refused() -> None:
    log = CommandLog(('a',) * 1, np.array([1]), np.zeros((1, 1)))
    with pytest.raises(ContractError, match='the limits of panda'):
        check_commands(log, LIMITS)
