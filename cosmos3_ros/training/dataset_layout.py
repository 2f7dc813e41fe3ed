"""Which columns of a dataset mean what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..robots.camera import SLOTS
from .lerobot_format import DROID_ROBOT_TYPES, DatasetError


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """Names of the features of a dataset. The defaults are DROID's, which our own recordings share.

    Grippers are 0 open .. 1 closed in the dataset (DROID's convention); the model's rows carry
    1 - gripper, which is the trainer's to convert (``generator.droid_joint``).

    :param cameras: Camera slot to video feature.
    :param demonstration: Optional column, False in rows that are no example to follow.
    :param joints: Width of the joint columns.
    :param robot_types: Allowed values of ``robot_type``.
    """

    joint_position: str = 'observation.state.joint_positions'
    gripper: str = 'observation.state.gripper_position'
    action_position: str = 'action.joint_position'
    action_gripper: str = 'action.gripper_position'
    demonstration: str = 'annotation.is_demonstration'
    joints: int = 7
    robot_types: tuple[str, ...] = DROID_ROBOT_TYPES
    cameras: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({
        'wrist': 'observation.image.wrist_image_left',
        'exterior_1': 'observation.image.exterior_image_1_left',
        'exterior_2': 'observation.image.exterior_image_2_left',
    }))

    def __post_init__(self) -> None:
        """Refuse slots that no policy knows."""
        unknown = [slot for slot in self.cameras if slot not in SLOTS]
        if unknown or not self.cameras:
            raise DatasetError(f'layout: camera slots {unknown} arrived, {", ".join(SLOTS)} are allowed')


DROID_LAYOUT = DatasetLayout()
