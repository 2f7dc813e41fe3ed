"""Films and inferred actions by command, from a recorded episode to a file and back."""

import importlib.util
import json
from pathlib import Path
import shutil

import av
import numpy as np
import pytest

from cosmos3_ros.cli.main import main
from cosmos3_ros.contracts import ActionChunk
from cosmos3_ros.generator.policy import PolicyError, create_policy

CALM = {'horizon': 8, 'clamp': False, 'statistics': {
    'q01': [-0.002] * 3 + [0.995, -0.01, -0.01, -0.01, 0.995, -0.01, 0.0],
    'q99': [0.002] * 3 + [1.0, 0.01, 0.01, 0.01, 1.0, 0.01, 1.0]}}


@pytest.fixture(scope='module')
def checkpoint(policy_checkpoint, tmp_path_factory):
    copy = tmp_path_factory.mktemp('film') / 'micro'
    shutil.copytree(policy_checkpoint, copy)
    path = copy / 'cosmos3_ros.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'contract': 'eef_delta', 'action': CALM}))
    return copy


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    # The writer of small datasets belongs to another area's tests.
    spec = importlib.util.spec_from_file_location(
        'lerobot_dataset', Path(__file__).parents[1] / 'evaluation' / 'lerobot_dataset.py')
    lerobot_dataset = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lerobot_dataset)
    root = tmp_path_factory.mktemp('data')
    start = np.array([0.0, -0.6, 0.0, -2.2, 0.0, 1.6, 0.785])
    lerobot_dataset.write_dataset(root, joints=start + np.cumsum(np.full((32, 7), 0.002), axis=0))
    return root


def test_a_film_is_written(checkpoint, dataset, tmp_path, capsys):
    film = tmp_path / 'film.mp4'
    assert main(['imagine', str(dataset), '--checkpoint', str(checkpoint), '--steps', '2', '--at', '0.2',
                 '--output', str(film), '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result['frames'], result['trained'], result['instruction']) == (9, False, 'push the red cube')
    assert result['size'] == [48, 64], 'the latents of the 54 x 64 view'
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert sum(1 for _ in container.decode(stream)) == 9 and stream.average_rate == 15


def test_actions_are_inferred(checkpoint, dataset, capsys):
    assert main(['imagine', str(dataset), '--checkpoint', str(checkpoint), '--steps', '2', '--json',
                 '--dynamics', 'inverse']) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result['rms_rad']) == 7 and max(result['rms_rad']) < 0.5
    still = 0.002 * np.sqrt(np.mean(np.arange(1, 9) ** 2))
    assert result['rms_of_standing_still_rad'][0] == pytest.approx(still)


@pytest.mark.parametrize('arguments, message', [
    (['--at', '1.0'], 'at: 1 s arrived, the episode lasts 1.27 s and a chunk 0.53 s'),
    (['--at', '-1'], 'at: -1 s arrived'), (['--episode', '7'], 'episode 7'),
    (['--robot', 'ur5e'], 'robot ur5e')])
def test_what_cannot_be_imagined(checkpoint, dataset, capsys, arguments, message):
    assert main(['imagine', str(dataset), '--checkpoint', str(checkpoint), '--json', *arguments]) == 1
    assert message in json.loads(capsys.readouterr().out)['error']


@pytest.mark.parametrize('backend', ['compiled', 'diffusers'])
def test_the_droid_contract_imagines_too(policy_checkpoint, droid_observation, backend):
    policy = create_policy(
        'cosmos3', checkpoint=str(policy_checkpoint), robot='panda', backend=backend, steps=2)
    chunk = policy.generate(droid_observation, 'go', seed=1)
    film = policy.imagination.imagine(droid_observation, chunk, seed=3)
    assert film.frames.shape == (33, 48, 64, 3) and film.stamp_ns == droid_observation.stamp_ns
    assert film.trace_id == chunk.trace_id and film.step_ns == policy.step_ns
    observations = [droid_observation] * 33
    inferred = policy.imagination.infer_actions(observations, 'go', seed=3)
    assert inferred.positions.shape == (32, 7) and inferred.contract == 'droid_joint'
    with pytest.raises(PolicyError, match='observations: 2 arrived, 33 are needed'):
        policy.imagination.infer_actions(observations[:2], 'go', seed=3)
    short = ActionChunk(**{**{name: getattr(chunk, name) for name in ActionChunk.__slots__},
                           'positions': chunk.positions[:4], 'gripper': chunk.gripper[:4]})
    with pytest.raises(PolicyError, match='4 rows of panda_joint1'):
        policy.imagination.imagine(droid_observation, short, seed=0)
