"""Clips of noise with reports about them, for tests of the reasoner's training."""

import json

import numpy as np

from cosmos3_ros.training.clip_samples import ClipRecording
from cosmos3_ros.training.settings import OptimiserSettings, ReasonerSettings

SETTINGS = ReasonerSettings(
    OptimiserSettings(steps=8, batch=4, learning_rate=3e-3, ema_decay=0.5), cameras=('exterior_1', 'wrist'),
    frames=2, max_frame_pixels=4096)


def report(box, state):
    return json.dumps({
        'caption': 'A cube.', 'objects': [{'label': 'red cube', 'bbox_2d': box}], 'next_action': 'stay',
        'task_state': state, 'hazards': [], 'plausibility': 'possible'})


def make_clips(episodes=3, length=4):
    random = np.random.default_rng(0)
    count = episodes * length
    return ClipRecording(
        name='clips', episode=np.repeat(np.arange(episodes), length).astype(np.int64),
        begins=np.arange(0, count + 1, length),
        pictures={slot: random.integers(0, 256, (count, *size, 3), dtype=np.uint8)
                  for slot, size in (('exterior_1', (32, 64)), ('wrist', (64, 32)))},
        instructions=('push the red cube',) * count,
        reports=tuple(report([10 * i, 20, 300, 400], 'in_progress') for i in range(count)),
        statements=tuple(json.dumps([
            ['open', 'Semantic Alignment', 'Is the gripper open?', bool(i % 2)],
            ['supported', 'Physical Laws', 'Does every cube rest on something?', True]])
            for i in range(count)),
        things=tuple(json.dumps({
            'exterior_1': [{'label': 'red cube', 'bbox_2d': [10 * i, 20, 300, 400]}],
            'wrist': [{'label': 'gripper', 'bbox_2d': [100, 20, 300, 400]}]}) for i in range(count)))
