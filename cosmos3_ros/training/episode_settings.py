"""What a recording is asked to be. The same settings make the same episodes."""

from dataclasses import asdict, dataclass, fields
import json
from typing import Any

from ..sim.configuration import CUBE_COLOURS, SimulationConfig
from ..sim.tasks import TASKS
from .lerobot_format import DatasetError

RATE_HZ = 15
"""DROID's rate, and that of the model's rows."""

LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class RecordingSettings:
    """Settings of ``cosmos3 sim record``.

    :param tasks: Of ``sim.tasks.TASKS``, in turn.
    :param width: Of the stored pictures, pixels; the cameras' own size (640 and 320) is scaled down to it
        as the policy would. 160 is what the view 144 x 160 of cosmos3-tiny needs.
    :param light_variation: 0 none .. 1 strong.
    :param colour_variation: Likewise; from 0.5 on, colours begin to look like each other.
    :param camera_variation: Likewise.
    :param fewest_cubes: On the table, 1 to 4; from 2 on there is a wrong cube to choose.
    :param most_cubes: Likewise.
    :param noise_rad: Standard deviation of the slow noise on the joints; the recorded action stays clean.
    :param lag_s: The arm trails its targets by up to this.
    :param disturbances: Times per episode, on average, that the arm is led astray and comes back.
    :param failure_share: Share of episodes that fail on purpose.
    :param anomaly_share: Share of episodes whose pictures show what cannot be, or a broken camera.
    :param facts: Whether to write down what is true about each frame. The policy needs none of it, and
        without it half of the drawing is saved.
    :param alternatives: At most so many other things asked for at one moment of an episode, see
        ``episode_alternatives``; 0: none.
    :param alternatives_every: Frames between two such moments.
    :param glances: 0: episodes. Otherwise what is recorded as an episode is so many unrelated moments, see
        ``scene_glances``; ``alternatives`` is then how many things are asked for at each.
    """

    tasks: tuple[str, ...] = TASKS
    episodes: int = 60
    seed: int = 0
    width: int = 160
    light_variation: float = 0.6
    colour_variation: float = 0.4
    camera_variation: float = 0.5
    fewest_cubes: int = 2
    most_cubes: int = 4
    noise_rad: float = 0.008
    lag_s: float = 0.08
    disturbances: float = 0.5
    failure_share: float = 0.1
    anomaly_share: float = 0.1
    facts: bool = True
    alternatives: int = 0
    alternatives_every: int = 6
    glances: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges.

        :raises DatasetError: Names the setting, what arrived and what is allowed.
        """
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise DatasetError(
                f'tasks: {list(self.tasks)} arrived, distinct ones of {list(TASKS)} are allowed')
        ranges = {
            'episodes': (1, 1_000_000), 'seed': (0, LARGEST_SEED), 'width': (64, 640),
            'light_variation': (0.0, 1.0), 'colour_variation': (0.0, 1.0), 'camera_variation': (0.0, 1.0),
            'fewest_cubes': (1, len(CUBE_COLOURS)), 'most_cubes': (self.fewest_cubes, len(CUBE_COLOURS)),
            'noise_rad': (0.0, 0.03), 'lag_s': (0.0, 0.15), 'disturbances': (0.0, 3.0),
            'failure_share': (0.0, 1.0), 'anomaly_share': (0.0, 1.0), 'alternatives': (0, 12),
            'alternatives_every': (1, 300), 'glances': (0, 300),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise DatasetError(f'{name}: {value} arrived, {low} to {high} is allowed')
        if self.width % 32:
            # 9/16 of it must be even for the codec, and a whole number.
            raise DatasetError(f'width: {self.width} arrived, a multiple of 32 is allowed')
        if self.failure_share + self.anomaly_share > 1.0:
            raise DatasetError(
                f'failure_share and anomaly_share: {self.failure_share} and {self.anomaly_share} arrived, '
                'at most 1 together is allowed')
        if self.glances and (self.facts or self.failure_share or self.anomaly_share or not self.alternatives):
            raise DatasetError(
                f'glances: {self.glances} arrived with facts {self.facts}, failure_share '
                f'{self.failure_share}, anomaly_share {self.anomaly_share} and alternatives '
                f'{self.alternatives}; False, 0, 0 and 1 or more are allowed with it')

    def simulation(self, cubes: tuple[str, ...]) -> SimulationConfig:
        """Return the world's settings with these cubes."""
        return SimulationConfig(
            cubes=cubes, light_variation=self.light_variation, colour_variation=self.colour_variation,
            camera_variation=self.camera_variation)

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_document(cls, document: Any, where: str) -> 'RecordingSettings':
        """Read what :meth:`to_json` wrote.

        :param where: How errors call the document.
        :raises DatasetError: Unknown or missing settings, or values that are not allowed.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or set(document) != names:
            raise DatasetError(f'{where}: not the settings of a recording by this version')
        return cls(**{**document, 'tasks': tuple(document['tasks'])})
