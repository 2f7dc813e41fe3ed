"""Settings of the simulated world. Plain values, checked once."""

from dataclasses import dataclass

from cosmos3_ros.contracts import ContractError

CUBE_COLOURS: tuple[str, ...] = ('red', 'green', 'blue', 'yellow')
CAMERA_SLOTS: tuple[str, ...] = ('wrist', 'exterior_1', 'exterior_2')
ROBOT = 'panda'
FIRST_EVALUATION_SEED = 10_000
"""Episodes from here on are what results are reported of; no recording uses them."""

# Names and travel in assets/panda.xml; config/robots/panda.yaml agrees (a test compares them).
ARM_JOINTS: tuple[str, ...] = tuple(f'panda_joint{i}' for i in range(1, 8))
FINGER_JOINTS = ('left_finger', 'right_finger')
FINGER_TRAVEL_M = 0.0425


class SimulationError(ContractError):
    """The simulator was asked for something it does not have. The text says what is allowed."""


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """How the world is built and how it moves.

    :param physics_rate_hz: Integration steps per simulated second, 250 to 1000; below 500 for rollouts
        only. Must divide 1e9.
    :param cubes: Colours of the cubes on the table, of :data:`CUBE_COLOURS`.
    :param command_timeout_s: Without a command for this long the arm brakes and holds.
    :param brake_rad_s2: Deceleration of that braking, per joint.
    :param max_command_jump_rad: A commanded position farther than this from the measured one is
        refused, as the real arm's interface refuses it.
    :param gripper_speed_m_s: Speed of one finger (Robotiq 2F-85 manual: up to 75 mm/s each).
    :param start_noise_m: Standard deviation of the tool's start position around home, seeded.
    :param light_variation: 0 none .. 1 strong; seeded per episode.
    :param colour_variation: 0 none .. 1 strong; seeded per episode.
    :param camera_variation: 0 none .. 1 strong; seeded per episode.
    :param image_width: Pixels of the wrist camera.
    :param image_height: Pixels of the wrist camera.
    :param exterior_divisor: The exterior cameras' pictures are this much smaller, 1 to 4. The policy sees
        them at half size (generator/composed_view.py), so a full picture would be drawn in vain.
    :param shadows: Cast shadows; about three times the rendering cost.
    """

    physics_rate_hz: int = 500
    cubes: tuple[str, ...] = CUBE_COLOURS
    command_timeout_s: float = 0.1
    brake_rad_s2: float = 5.0
    max_command_jump_rad: float = 0.25
    gripper_speed_m_s: float = 0.06
    start_noise_m: float = 0.02
    light_variation: float = 0.0
    colour_variation: float = 0.0
    camera_variation: float = 0.0
    image_width: int = 640
    image_height: int = 360
    exterior_divisor: int = 2
    shadows: bool = False

    def __post_init__(self) -> None:
        """Refuse values outside their ranges.

        :raises SimulationError: Names the parameter, what arrived and what is allowed.
        """
        if not 250 <= self.physics_rate_hz <= 1000 or 1_000_000_000 % self.physics_rate_hz:
            raise SimulationError(
                f'physics_rate_hz: {self.physics_rate_hz} arrived, 250 to 1000 and a divisor of 1e9 '
                'is allowed (250, 500, 625, 800, 1000)')
        unknown = [c for c in self.cubes if c not in CUBE_COLOURS]
        if unknown or not self.cubes or len(set(self.cubes)) != len(self.cubes):
            raise SimulationError(
                f'cubes: {list(self.cubes)} arrived, distinct colours of {list(CUBE_COLOURS)} are allowed')
        ranges = {
            'command_timeout_s': (0.005, 10.0), 'brake_rad_s2': (0.5, 20.0),
            'max_command_jump_rad': (0.01, 10.0), 'gripper_speed_m_s': (0.01, 0.2),
            'start_noise_m': (0.0, 0.05), 'light_variation': (0.0, 1.0), 'colour_variation': (0.0, 1.0),
            'camera_variation': (0.0, 1.0),
            'image_width': (64, 1280), 'image_height': (64, 720),
            'exterior_divisor': (1, 4),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise SimulationError(f'{name}: {value} arrived, {low} to {high} is allowed')

    def picture_size(self, camera: str) -> tuple[int, int]:
        """Return width and height in pixels of a camera slot's pictures."""
        divisor = 1 if camera == 'wrist' else self.exterior_divisor
        return self.image_width // divisor, self.image_height // divisor

    @property
    def step_ns(self) -> int:
        """Nanoseconds of one integration step."""
        return 1_000_000_000 // self.physics_rate_hz
