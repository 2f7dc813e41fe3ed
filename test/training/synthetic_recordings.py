"""Small datasets in memory: a coloured square slides over grey while the joints follow it."""

import numpy as np

from cosmos3_ros.training.recording import Recording


def make_recording(height=54, width=64, episodes=4, frames=40, seed=0, texts=('go left', 'go to the right')):
    random = np.random.default_rng(seed)
    pictures = np.full((episodes * frames, height, width, 3), 110, np.uint8)
    state = np.zeros((episodes * frames, 8), np.float32)
    state[:, :7] = [0.0, -0.5, 0.1, -2.0, 0.2, 1.5, 0.7]
    episode = np.repeat(np.arange(episodes), frames)
    text_index = episode % len(texts)
    for i in range(episodes):
        start = random.integers(8, width - 24)
        for t in range(frames):
            row = i * frames + t
            x = int(np.clip(start + (t if text_index[row] else -t) // 2, 0, width - 12))
            pictures[row, 12:24, x:x + 12] = (200, 40, 40) if text_index[row] else (40, 40, 200)
            state[row, 0] += 0.01 * x
            state[row, 7] = 1.0
    action = np.concatenate([state[1:], state[-1:]])
    ends = (episode + 1) * frames
    action[ends - 1] = state[ends - 1]
    return Recording(
        name=f'synthetic{seed}', pictures=pictures, state=state, action=action, ends=ends.astype(np.int64),
        demonstration=np.ones(len(state), bool), episode=episode.astype(np.int64),
        text_index=text_index.astype(np.int64), texts=tuple(texts))
