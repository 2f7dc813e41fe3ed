"""The policy's backend tensorrt: its chunks are the compiled ones, and nothing starts past a closed gate."""

import numpy as np
import pytest
import torch

from cosmos3_ros.contracts import Observation
from cosmos3_ros.engine.executors import OnnxExecutor
from cosmos3_ros.generator.compiled_backend import CompiledBackend
from cosmos3_ros.generator.cosmos3_policy import create_cosmos3
from cosmos3_ros.generator.denoise import Request
from cosmos3_ros.generator.droid_joint import LAYOUT
from cosmos3_ros.generator.guidance import Guidance
from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.generator.prefix import Prefix
from cosmos3_ros.generator.sampler import schedule
from cosmos3_ros.generator.tensorrt_backend import open_tensorrt
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.weight_source import CheckpointWeights

# The first test that needs them waits for all plans; on a busy machine that is minutes.
pytestmark = pytest.mark.timeout(900)

JOINTS = tuple(f'panda_joint{i}' for i in range(1, 8))
TEXTS = tuple(range(7, 19)), (3, 1, 2)
PLAN, GUIDANCE = schedule(4, 5.0), Guidance(3.0)


@pytest.fixture(scope='module')
def opened(checkpoint):
    return Checkpoint.open(checkpoint.directory, contract='droid_joint')


@pytest.fixture(scope='module')
def plans(built, opened):
    return open_tensorrt(
        opened, str(built.request.out), 'bfloat16', 'cpu', PLAN, GUIDANCE, executor=OnnxExecutor())


@pytest.fixture(scope='module')
def compiled(opened):
    return CompiledBackend(
        CheckpointWeights(opened), 'cpu', torch.float32, opened.content_hash, PLAN, GUIDANCE)


def request(seed=0, prefix=None, layout=LAYOUT, latents=(3, 4)):
    stream = torch.Generator().manual_seed(seed)
    return Request(
        torch.randn(1, 48, 1, *latents, generator=stream), torch.randn(8, generator=stream).numpy(), 9, 64,
        seed, prefix, layout)


@pytest.mark.parametrize('seed', range(3))
def test_chunks_are_the_compiled_backends(plans, compiled, seed):
    wanted, got = (backend.denoise(*TEXTS, request(seed)) for backend in (compiled, plans))
    assert got.shape == wanted.shape == (33, 8) and got.dtype == np.float32
    assert np.abs(wanted[1:]).max() > 0.1
    assert np.abs(got - wanted).max() <= 1e-4
    assert plans.denoise(*TEXTS, request(seed)).tobytes() == got.tobytes()


def test_a_prefix_and_other_sampling_are_honoured(plans, compiled):
    rows = np.random.default_rng(0).normal(size=(33, 8))
    given = request(4, Prefix(rows, np.r_[0.0, np.linspace(0.8, 0.0, 32)]))
    free = plans.denoise(*TEXTS, request(4))
    wanted, got = (backend.denoise(*TEXTS, given) for backend in (compiled, plans))
    assert np.abs(got - wanted).max() <= 1e-4 < np.abs(got - free).max()
    for backend in (compiled, plans):
        backend.resample(schedule(2, 5.0), Guidance(1.0), batched=False)
    try:
        wanted, got = (backend.denoise(*TEXTS, request(4)) for backend in (compiled, plans))
    finally:
        for backend in (compiled, plans):
            backend.resample(PLAN, GUIDANCE, batched=False)
    assert np.abs(got - wanted).max() <= 1e-4 < np.abs(got - free).max()


def test_an_instruction_is_read_once(built, opened):
    backend = open_tensorrt(
        opened, str(built.request.out), 'bfloat16', 'cpu', PLAN, GUIDANCE, executor=OnnxExecutor())
    for seed in range(3):
        backend.denoise(*TEXTS, request(seed))
    assert backend.contexts.misses == 2
    backend.forget()
    assert backend.contexts.misses == 0


def test_the_whole_policy_agrees(plans, checkpoint):
    policy = create_cosmos3(checkpoint=str(checkpoint.directory), joint_names=JOINTS)
    random = np.random.default_rng(5)
    observation = Observation(
        stamp_ns=1, skew_ns=0, joint_names=JOINTS, gripper=0.25, joint_position=np.zeros(7),
        images={slot: random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for slot in policy.camera_slots})
    wanted = policy.generate(observation, 'push the cube', seed=3)
    policy.backend = plans
    got = policy.generate(observation, 'push the cube', seed=3)
    assert np.abs(got.positions - wanted.positions).max() <= 1e-4
    assert np.abs(got.gripper - wanted.gripper).max() <= 1e-4


@pytest.mark.parametrize(('changes', 'words'), [
    ({'latents': (5, 4)}, 'the plans take .*build with another --latent-grid'),
    ({'layout': LAYOUT.of_mode('inverse_dynamics')}, 'given frames arrived'),
])
def test_requests_that_the_plans_do_not_take_are_refused(plans, changes, words):
    with pytest.raises(PolicyError, match=words):
        plans.denoise(*TEXTS, request(**changes))


def test_another_domain_and_video_are_refused(plans):
    from dataclasses import replace
    with pytest.raises(PolicyError, match='build with --domain 7 --action-channels 8'):
        plans.denoise(*TEXTS, request(layout=replace(LAYOUT, domain_id=7)))
    with pytest.raises(PolicyError, match='plans are built for the mode policy'):
        plans.imagine(*TEXTS, request(layout=LAYOUT.of_mode('forward_dynamics')))
    with pytest.raises(PolicyError, match='300 tokens arrived, up to 256 are allowed'):
        plans.denoise(tuple(range(300)), TEXTS[1], request())


def create(checkpoint, **options):
    return create_cosmos3(
        checkpoint=str(checkpoint.directory), joint_names=JOINTS, backend='tensorrt', **options)


@pytest.mark.parametrize(('options', 'words'), [
    ({}, 'dtype: float32 arrived, one of bfloat16, float8, nvfp4 is allowed with the backend tensorrt'),
    ({'dtype': 'bfloat16'}, 'engines: none arrived'),
    ({'dtype': 'bfloat16', 'engines': 'engines'}, 'device: cpu arrived, the backend tensorrt needs a GPU'),
])
def test_settings_that_do_not_fit_are_refused(checkpoint, options, words):
    with pytest.raises(PolicyError, match=words):
        create(checkpoint, **options)


def test_a_machine_without_a_driver_is_refused_and_nothing_else_tried(built, checkpoint, opened):
    if torch.cuda.is_available():
        pytest.skip('says what a machine without a GPU says')
    with pytest.raises(ValueError, match="device: 'cuda' arrived, one of cpu is here"):
        create(checkpoint, dtype='bfloat16', device='cuda', engines=str(built.request.out))
    with pytest.raises(PolicyError, match=r'backend tensorrt: .*this machine has no GPU'):
        open_tensorrt(opened, str(built.request.out), 'bfloat16', 'cuda', PLAN, GUIDANCE)


def test_plans_that_are_missing_or_drift_are_refused(built, checkpoint, opened, tmp_path):
    import shutil
    with pytest.raises(PolicyError, match='holds no plans of the tower generation in fp8'):
        open_tensorrt(
            opened, str(built.request.out), 'float8', 'cpu', PLAN, GUIDANCE, executor=OnnxExecutor())
    source, _ = built.engine('generation')
    directory = shutil.copytree(source, tmp_path / source.name)
    path = directory / 'generation-1-of-1.vectors.safetensors'
    path.write_bytes(path.read_bytes()[:-2000] + bytes(2000))
    with pytest.raises(PolicyError, match=r'backend tensorrt: .*stage generation-1-of-1 drifted'):
        open_tensorrt(opened, str(tmp_path), 'bfloat16', 'cpu', PLAN, GUIDANCE, executor=OnnxExecutor())
