"""An observation for the policies behind a server."""

import numpy as np

from cosmos3_ros.contracts import Observation

JOINTS = tuple(f'panda_joint{i}' for i in range(1, 8))


def observation(joints=None, stamp_ns=5):
    picture = np.full((36, 64, 3), 90, np.uint8)
    return Observation(
        stamp_ns=stamp_ns, skew_ns=0, joint_names=JOINTS, gripper=0.25,
        joint_position=np.arange(7) / 10 if joints is None else joints,
        images=dict.fromkeys(('wrist', 'exterior_1', 'exterior_2'), picture))
