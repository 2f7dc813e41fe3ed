"""How the action channels of an embodiment domain are laid out, and what is known about its data.

A row is made of blocks: nine numbers of a pose's change and one of a gripper per arm, in some domains nine
more of the body before them. Sources: ``_EMBODIMENT_TO_RAW_ACTION_DIM`` of diffusers 0.42.1 (widths and what
they are made of); cosmos-framework ``domain_utils.py`` (width of ``maniparena``),
``droid_lerobot_dataset.py`` and ``normalizer_stats/droid_lerobot_stats.json`` (DROID's rate, frame, gripper
and statistics); facts sheet 1.4, 2a.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cosmos3_ros.model.embodiments import EMBODIMENTS, embodiment

from .policy import PolicyError

POSE_WIDTH = 9
_SINGLE = {'arm': 0}
_DUAL = {'first': 0, 'second': POSE_WIDTH + 1}
_BODY_AND_DUAL = {'first': POSE_WIDTH, 'second': 2 * POSE_WIDTH + 1}

# Domain to the first channel of each arm's pose; its gripper follows the pose. Domains that are missing move
# no arm (av, camera_pose), command joints (robotwin, behavior1k_lerobot), or their order is not public
# (galbot, hand_pose).
ARMS: Mapping[str, Mapping[str, int]] = MappingProxyType({
    **dict.fromkeys(('umi', 'bridge_orig_lerobot', 'droid_lerobot', 'robomind-franka', 'robomind-ur',
                     'fractal', 'libero'), _SINGLE),
    **dict.fromkeys(('robomind-franka-dual', 'xdof_yam', 'molmoact2_yam', 'abc_yam', 'maniparena'), _DUAL),
    **dict.fromkeys(('agibotworld', 'agibot_gear_gripper', 'agibot_gear_gripper_ext'), _BODY_AND_DUAL),
})
_LIBERO_WIDTH = POSE_WIDTH + 1  # with rot6d; NVIDIA's LIBERO fine-tuning uses it


@dataclass(frozen=True, slots=True)
class ArmChannels:
    """Channels of one arm in a domain's rows.

    :param width: Channels of a whole row.
    :param pose: First of the nine channels of the pose's change.
    :param gripper: Channel of the gripper.
    :param poses: First channels of all poses of the row, those of other arms and of the body too.
    """

    domain: str
    domain_id: int
    width: int
    pose: int
    gripper: int
    poses: tuple[int, ...]


def arm_channels(domain: str, arm: str | None = None) -> ArmChannels:
    """Return where an arm's channels stand.

    :param arm: Needed where a domain has two.
    :raises PolicyError: A domain without arms, or an arm that it does not have.
    """
    if domain not in EMBODIMENTS or domain not in ARMS:
        raise PolicyError(f'domain: {domain!r} arrived, one of {", ".join(ARMS)} is allowed')
    arms = ARMS[domain]
    chosen = next(iter(arms)) if arm is None and len(arms) == 1 else arm
    if chosen is None or chosen not in arms:
        raise PolicyError(f'arm: {arm!r} arrived, domain {domain} has {", ".join(arms)}')
    found = embodiment(domain)
    start = arms[chosen]
    return ArmChannels(
        domain, found.domain_id, found.width or _LIBERO_WIDTH, start, start + POSE_WIDTH,
        tuple(sorted({0, *arms.values()})))


# What is published about a domain's data; a checkpoint's own file and the policy's options go before it.
# The effector's frame is given in the arm's last link: the Franka's flange, turned by 90 degrees about z
# (``_DROID_TO_OPENCV``). The gripper counts 1 for open.
KNOWN: Mapping[str, Mapping[str, object]] = MappingProxyType({
    'droid_lerobot': MappingProxyType({
        'rate_hz': 15.0, 'horizon': 16, 'gripper_open': 1.0,
        'effector_xyz_m': (0.0, 0.0, 0.107), 'effector_rpy_rad': (0.0, 0.0, 1.5707963267948966),
        'normaliser': 'quantile', 'clamp': True,
        'statistics': MappingProxyType({
            'q01': (-0.0142, -0.013416, -0.015206, 0.998459, -0.047659, -0.034774, -0.047609, 0.998428,
                    -0.035553, 0.0),
            'q99': (0.014515, 0.011517, 0.01452, 1.0, 0.047596, 0.03466, 0.047654, 1.0, 0.038888, 1.0)}),
    }),
})
