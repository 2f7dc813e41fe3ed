"""The gripper: range and direction of its joint, and when a wish to close counts."""

from dataclasses import dataclass

from .errors import RobotError

CLOSING_INCREASES = 'closing_increases'
CLOSING_DECREASES = 'closing_decreases'


@dataclass(frozen=True, slots=True)
class GripperSpec:
    """One gripper joint.

    :param joint_name: Name in ``joint_states``.
    :param open_position: Joint position when fully open, radians or metres as the driver says.
    :param closed_position: Joint position when fully closed.
    :param polarity: ``closing_increases`` or ``closing_decreases``; must fit the positions, so that
        numbers entered the wrong way round are noticed.
    :param threshold_close: Normalised command at or above which an open gripper closes.
    :param threshold_open: Normalised command at or below which a closed gripper opens.
    :param min_dwell_s: Least time between two switches.
    """

    joint_name: str
    open_position: float
    closed_position: float
    polarity: str
    threshold_close: float
    threshold_open: float
    min_dwell_s: float

    def __post_init__(self) -> None:
        """Check range, polarity and hysteresis."""
        if self.polarity not in (CLOSING_INCREASES, CLOSING_DECREASES):
            raise RobotError(
                f'gripper polarity: {self.polarity!r} arrived, '
                f'{CLOSING_INCREASES} or {CLOSING_DECREASES} is allowed')
        if self.open_position == self.closed_position:
            raise RobotError(f'gripper: open and closed position are both {self.open_position:g}')
        if (self.closed_position > self.open_position) != (self.polarity == CLOSING_INCREASES):
            raise RobotError(
                f'gripper: open {self.open_position:g} and closed {self.closed_position:g} '
                f'contradict the polarity {self.polarity}')
        if not 0.0 <= self.threshold_open < self.threshold_close <= 1.0:
            raise RobotError(
                f'gripper: threshold_open {self.threshold_open:g} and threshold_close '
                f'{self.threshold_close:g} arrived, 0 <= open < close <= 1 is needed')
        if self.min_dwell_s < 0.0:
            raise RobotError(f'gripper: min_dwell_s {self.min_dwell_s:g} arrived, 0 or more is needed')

    def to_normalized(self, joint_position: float) -> float:
        """Return 0 (open) to 1 (closed) for a joint position; positions past an end count as that end."""
        span = self.closed_position - self.open_position
        # Plain floats, and in this order, so that NaN stays NaN: numpy's clip takes ten times as long.
        return min(max(float(joint_position - self.open_position) / span, 0.0), 1.0)

    def to_joint(self, normalized: float) -> float:
        """Return the joint position for 0 (open) to 1 (closed); values outside count as the nearer end."""
        fraction = min(max(float(normalized), 0.0), 1.0)
        return self.open_position + fraction * (self.closed_position - self.open_position)

    def decide(self, normalized: float, closed: bool, since_switch_s: float) -> bool:
        """Return whether the gripper shall be closed now.

        :param normalized: The wish, 0 open .. 1 closed.
        :param closed: What it was told last.
        :param since_switch_s: Seconds since it was told something new.
        """
        if since_switch_s < self.min_dwell_s:
            return closed
        if closed:
            return not normalized <= self.threshold_open
        return normalized >= self.threshold_close
