"""The values that cross the seams of the package: frozen dataclasses, checked where data enters."""

from .action_chunk import ActionChunk
from .arrays import ContractError, frozen_array
from .clip import Clip
from .controller_state import ControllerMode, ControllerState, StopReason
from .identity import ModelIdentity
from .joint_command import JointCommand
from .joint_state import JointMeasurement
from .observation import Observation, ObservationRefused
from .scene_report import Plausibility, SceneObject, SceneReport, TaskState

__all__ = [
    'ActionChunk', 'Clip', 'ContractError', 'ControllerMode', 'ControllerState', 'JointCommand',
    'JointMeasurement', 'ModelIdentity', 'Observation', 'ObservationRefused', 'Plausibility',
    'SceneObject', 'SceneReport', 'StopReason', 'TaskState', 'frozen_array',
]
