"""Chunks are the same everywhere, on both backends, and depend on everything that they should."""

import hashlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cosmos3_ros.contracts import ActionChunk, ContractError, Observation
from cosmos3_ros.generator.cosmos3_policy import choose_sampling
from cosmos3_ros.generator.policy import Policy, PolicyError, create_policy
from cosmos3_ros.model.checkpoint import CheckpointError
from cosmos3_ros.model.sampling import Sampling

JOINTS = tuple(f'panda_joint{i}' for i in range(1, 8))

pytest.importorskip('torch', reason="the extra 'model' is not installed")


@pytest.fixture(scope='module')
def policies(policy_checkpoint):
    return {
        backend: create_policy(
            'cosmos3', checkpoint=str(policy_checkpoint), joint_names=JOINTS, backend=backend)
        for backend in ('compiled', 'diffusers')}


@pytest.fixture(params=['compiled', 'diffusers'])
def policy(policies, request):
    return policies[request.param]


def test_a_chunk(policy, droid_observation):
    assert isinstance(policy, Policy)
    policy.warm_up()
    chunk = policy.generate(droid_observation, 'reach the red cube', seed=4)
    assert isinstance(chunk, ActionChunk)
    assert chunk.positions.shape == (32, 7) and chunk.joint_names == JOINTS
    assert (chunk.stamp_ns, chunk.step_ns, chunk.horizon) == (droid_observation.stamp_ns, 66_666_667, 32)
    assert abs(chunk.end_ns - droid_observation.stamp_ns - 32e9 / 15) < 100
    assert (chunk.contract, chunk.seed, chunk.steps, chunk.guidance, chunk.policy) == (
        'droid_joint', 4, 4, 3.0, 'cosmos3')
    assert not chunk.identity.trained and chunk.identity.checkpoint.startswith('cosmos3-micro@')
    assert chunk.latency_s > 0.0


def test_the_same_request_gives_the_same_bytes(policy, droid_observation):
    one, other, again = (policy.generate(droid_observation, 'go', seed=s) for s in (1, 2, 1))
    assert one.positions.tobytes() == again.positions.tobytes()
    assert one.gripper.tobytes() == again.gripper.tobytes()
    assert one.trace_id != again.trace_id
    assert (one.positions != other.positions).all()


def test_another_process_gives_the_same_bytes(policies, policy_checkpoint, droid_observation, tmp_path):
    np.savez(tmp_path / 'images.npz', **droid_observation.images)
    code = f'''
import hashlib, sys, numpy as np
from cosmos3_ros.contracts import Observation
from cosmos3_ros.generator.policy import create_policy
images = dict(np.load(sys.argv[1]))
policy = create_policy('cosmos3', checkpoint=sys.argv[2], joint_names={JOINTS!r})
chunk = policy.generate(Observation(
    {droid_observation.stamp_ns}, images, {JOINTS!r},
    np.array({droid_observation.joint_position.tolist()}), {droid_observation.gripper}, 0),
    'push the blue cube', seed=77)
print(hashlib.sha256(chunk.positions.tobytes() + chunk.gripper.tobytes()).hexdigest())
'''
    answer = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'images.npz'), str(policy_checkpoint)],
        check=True, capture_output=True, text=True).stdout.strip()
    chunk = policies['compiled'].generate(droid_observation, 'push the blue cube', seed=77)
    assert answer == hashlib.sha256(chunk.positions.tobytes() + chunk.gripper.tobytes()).hexdigest()


@pytest.mark.parametrize('options', [
    {}, {'guidance': 1.0}, {'guidance_interval': [960, 1001]}, {'steps': 2}, {'prompt_variant': 'plain'}])
def test_backends_agree(policy_checkpoint, droid_observation, options):
    chunks = [
        create_policy(
            'cosmos3', checkpoint=str(policy_checkpoint), joint_names=JOINTS, backend=backend, **options,
        ).generate(droid_observation, 'pick up the green cube', seed=9)
        for backend in ('compiled', 'diffusers')]
    assert np.abs(chunks[0].positions - chunks[1].positions).max() <= 1e-5
    assert np.abs(chunks[0].gripper - chunks[1].gripper).max() <= 1e-5


def test_the_full_droid_view_runs(policy_checkpoint, droid_observation, tmp_path):
    # 540 x 640 on a canvas of 544 x 736, latents 33 x 40, 3093 generated tokens; one step, no guidance.
    copy = shutil.copytree(policy_checkpoint, tmp_path / 'droid')
    path = copy / 'cosmos3_ros.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'view': [540, 640]}))
    chunks = [
        create_policy(
            'cosmos3', checkpoint=str(copy), joint_names=JOINTS, backend=backend, steps=1, guidance=1.0,
        ).generate(droid_observation, 'go', seed=0)
        for backend in ('compiled', 'diffusers')]
    assert np.abs(chunks[0].positions - chunks[1].positions).max() <= 1e-5


def test_a_checkpoint_says_how_it_is_sampled(policy_checkpoint, droid_observation, tmp_path):
    copy = shutil.copytree(policy_checkpoint, tmp_path / 'copy')
    about = json.loads((copy / 'cosmos3_ros.json').read_text())
    (copy / 'cosmos3_ros.json').write_text(json.dumps(about | {'sampling': {'guidance': 1.0, 'steps': 2}}))

    def make(**asked):
        return create_policy('cosmos3', checkpoint=str(copy), joint_names=JOINTS, **asked)

    policy = make()
    chunk = policy.generate(droid_observation, 'go', seed=0)
    assert (chunk.steps, chunk.guidance) == (2, 1.0)
    assert policy.backend.contexts.misses == 1  # guidance is off: nothing was computed of the empty text
    asked = make(guidance=3.0).generate(droid_observation, 'go', seed=0)
    assert (asked.steps, asked.guidance) == (2, 3.0)


def test_what_is_asked_for_goes_before_the_checkpoint_and_that_before_the_contract():
    def chosen(sampling, contract='droid_joint', **asked):
        plan, guidance = choose_sampling(SimpleNamespace(contract=contract, sampling=sampling), **asked)
        return plan.steps, guidance.scale, guidance.interval

    assert chosen(Sampling()) == (4, 3.0, None)
    assert chosen(Sampling(), 'eef_delta') == (30, 1.0, None)
    own = Sampling(steps=3, guidance=1.5, guidance_interval=(960, 1001))
    assert chosen(own) == (3, 1.5, (960, 1001))
    assert chosen(own, guidance=2.0, guidance_interval=[0, 1001]) == (3, 2.0, (0, 1001))


@pytest.mark.parametrize('backend', ['compiled', 'diffusers'])
def test_bfloat16_is_near_float32(policies, policy_checkpoint, droid_observation, backend):
    half = create_policy(
        'cosmos3', checkpoint=str(policy_checkpoint), joint_names=JOINTS, backend=backend, dtype='bfloat16')
    half.warm_up()
    assert half.identity.engine == f'{backend}/bfloat16/cpu'
    drift = np.abs(half.generate(droid_observation, 'go', seed=0).positions
                   - policies[backend].generate(droid_observation, 'go', seed=0).positions)
    assert 0.0 < drift.mean() < 0.1


def test_every_input_matters(policy, droid_observation):
    def ask(instruction='go', **changes):
        fields = {name: getattr(droid_observation, name) for name in (
            'stamp_ns', 'images', 'joint_names', 'joint_position', 'gripper', 'skew_ns')}
        return policy.generate(Observation(**(fields | changes)), instruction, seed=0).positions

    base = ask()
    moved = droid_observation.joint_position + np.eye(7)[3] * 0.1
    assert (ask(instruction='stop') != base).any()
    assert (ask(joint_position=moved) != base).any()
    assert (ask(gripper=0.5) != base).any()
    black = np.zeros((36, 64, 3), np.uint8)
    for slot in droid_observation.images:
        assert (ask(images=dict(droid_observation.images) | {slot: black}) != base).any()
    assert (ask(stamp_ns=5) == base).all()


def test_joints_in_another_order_are_sorted_out(policy, droid_observation):
    order = [6, 2, 0, 4, 1, 5, 3]
    shuffled = Observation(
        droid_observation.stamp_ns, droid_observation.images, tuple(JOINTS[i] for i in order),
        droid_observation.joint_position[order], droid_observation.gripper, 0)
    one, other = (policy.generate(o, 'go', seed=0) for o in (droid_observation, shuffled))
    assert (one.positions == other.positions).all() and other.joint_names == JOINTS


def test_instructions_are_remembered_and_do_not_leak(policies, droid_observation):
    policy = policies['compiled']
    contexts = policy.backend.contexts
    first = policy.generate(droid_observation, 'one', seed=0).positions
    before = contexts.misses
    policy.generate(droid_observation, 'two', seed=0)
    assert contexts.misses == before + 1
    assert (policy.generate(droid_observation, 'one', seed=0).positions == first).all()
    assert contexts.misses == before + 1
    for i in range(12):  # more than are kept
        policy.generate(droid_observation, f'task {i}', seed=0)
    assert (policy.generate(droid_observation, 'one', seed=0).positions == first).all()
    assert len(policy.backend._loops) <= 8


@pytest.mark.parametrize('change, error, message', [
    ({'joint_names': JOINTS[:6]}, PolicyError, 'its arm has the 6 joints'),
    ({'backend': 'magic'}, PolicyError, "backend: 'magic' arrived, one of compiled, diffusers"),
    ({'understanding': 'gone'}, PolicyError, "understanding: 'gone' arrived, one of streamed, resident"),
    ({'branches': 'two'}, PolicyError, "branches: 'two' arrived, one of auto, batched, sequential"),
    ({'dtype': 'float8', 'backend': 'diffusers'}, PolicyError, 'the backend diffusers has no such form'),
    ({'steps': 0}, PolicyError, 'steps: 0'),
    ({'steps': 'four'}, PolicyError, "steps: 'four' arrived, a whole number"),
    ({'steps': 4.0}, PolicyError, 'steps: 4.0 arrived, a whole number'),
    ({'steps': True}, PolicyError, 'steps: True arrived'),
    ({'guidance': 'high'}, PolicyError, "guidance: 'high' arrived, a number"),
    ({'guidance_interval': [1, 2, 3]}, PolicyError, 'a list of two numbers'),
    ({'guidance_interval': 960}, PolicyError, 'guidance_interval: 960 arrived'),
    ({'guidance_interval': [1001, 960]}, PolicyError, 'two ascending timesteps'),
    ({'torch_threads': -1}, PolicyError, 'torch_threads: -1'),
    ({'checkpoint': ''}, PolicyError, "checkpoint: '' arrived, a text"),
    ({'checkpoint': 3}, PolicyError, 'checkpoint: 3 arrived, a text'),
    ({'guidance': -3.0}, PolicyError, 'guidance: -3.0'),
    ({'prompt_variant': 'xml'}, PolicyError, "prompt_variant: 'xml'"),
    ({'checkpoint': 'no/such/place'}, CheckpointError, 'is no directory'),
    ({'checkpoint': 'cosmos3-huge'}, CheckpointError, 'allowed are a directory, cosmos3-tiny'),
    ({'device': 'tpu'}, CheckpointError, "device: 'tpu'"),
    ({'dtype': 'int4'}, CheckpointError, "dtype: 'int4'"),
])
def test_bad_settings(policy_checkpoint, change, error, message):
    with pytest.raises(error, match=message):
        create_policy('cosmos3', **({'checkpoint': str(policy_checkpoint), 'joint_names': JOINTS} | change))


def test_without_the_extra_it_says_which_to_install(policy_checkpoint):
    code = '''
import sys
sys.modules['torch'] = None
from cosmos3_ros.generator.policy import create_policy
from cosmos3_ros.resources import MissingDependencyError
try:
    create_policy('cosmos3', checkpoint=sys.argv[1], joint_names=[str(i) for i in range(7)])
except MissingDependencyError as error:
    print(error)
'''
    text = subprocess.run(
        [sys.executable, '-c', code, str(policy_checkpoint)], check=True, capture_output=True,
        text=True).stdout
    assert "pip install 'cosmos3_ros[model]'" in text


def test_a_checkpoint_of_another_contract_is_refused(policy_checkpoint, tmp_path):
    copy = shutil.copytree(policy_checkpoint, tmp_path / 'other')
    path = copy / 'cosmos3_ros.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'contract': 'eef_delta'}))
    with pytest.raises(PolicyError, match='robot: none is named; a checkpoint with the contract eef_delta'):
        create_policy('cosmos3', checkpoint=str(copy), joint_names=JOINTS)


@pytest.mark.parametrize('view', [[144, 161], [145, 160], 'wide', [144], [0, 0]])
def test_a_checkpoint_with_an_impossible_view_is_refused(policy_checkpoint, tmp_path, view):
    copy = shutil.copytree(policy_checkpoint, tmp_path / 'other')
    path = copy / 'cosmos3_ros.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'view': view}))
    with pytest.raises((PolicyError, CheckpointError), match='view'):
        create_policy('cosmos3', checkpoint=str(copy), joint_names=JOINTS)


def test_bad_requests(policy, droid_observation):
    with pytest.raises(PolicyError, match='instruction: an empty text'):
        policy.generate(droid_observation, ' ', seed=0)
    with pytest.raises(PolicyError, match='seed: -1'):
        policy.generate(droid_observation, 'go', seed=-1)
    partial = {slot: droid_observation.images[slot] for slot in ('wrist', 'exterior_1')}
    with pytest.raises(PolicyError, match='no image for camera slot exterior_2'):
        policy.generate(Observation(0, partial, JOINTS, np.zeros(7), 0.0, 0), 'go', seed=0)
    with pytest.raises(ContractError):
        Observation(0, partial, JOINTS, np.full(7, np.nan), 0.0, 0)


def test_a_closed_policy_says_so(policy_checkpoint, droid_observation):
    policy = create_policy('cosmos3', checkpoint=str(policy_checkpoint), joint_names=JOINTS)
    policy.close()
    policy.close()
    with pytest.raises(PolicyError, match='it is closed'):
        policy.generate(droid_observation, 'go', seed=0)
