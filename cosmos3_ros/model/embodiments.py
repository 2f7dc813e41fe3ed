"""The embodiment domains that a Cosmos 3 checkpoint has action heads for.

Source: ``_EMBODIMENT_TO_DOMAIN_ID`` and ``_EMBODIMENT_TO_RAW_ACTION_DIM`` of diffusers 0.42.1
(``pipeline_cosmos3_omni.py``) and cosmos-framework's ``domain_utils.py``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Embodiment:
    """One action head.

    :param name: Name that NVIDIA's code uses for it.
    :param domain_id: Index of the head, 0..31.
    :param width: Channels of a raw action, or None where the dataset decides.
    """

    name: str
    domain_id: int
    width: int | None


EMBODIMENTS: dict[str, Embodiment] = {name: Embodiment(name, domain, width) for name, domain, width in (
    ('no_action', 0, None), ('av', 1, 9), ('camera_pose', 2, 9), ('hand_pose', 3, 57), ('pusht', 4, 2),
    ('libero', 5, None), ('umi', 6, 10), ('bridge_orig_lerobot', 7, 10), ('droid_lerobot', 8, 10),
    ('robomind-franka', 8, 10), ('galbot', 9, 30), ('robomind-franka-dual', 12, 20), ('robomind-ur', 13, 10),
    ('agibotworld', 15, 29), ('agibot_gear_gripper', 15, 29), ('agibot_gear_gripper_ext', 15, 29),
    ('fractal', 20, 10),
    # cosmos-framework only
    ('xdof_yam', 16, 20), ('molmoact2_yam', 16, 20), ('abc_yam', 16, 20), ('robotwin', 17, 14),
    ('drawanything', 21, 3), ('behavior1k_lerobot', 22, 23), ('maniparena', 23, 20),
)}


def embodiment(name: str) -> Embodiment:
    """Return the embodiment called ``name``.

    :raises ValueError: Unknown name; the text lists all.
    """
    if name not in EMBODIMENTS:
        raise ValueError(f'embodiment: {name!r} arrived, one of {", ".join(EMBODIMENTS)} is allowed')
    return EMBODIMENTS[name]
