"""Everything about an episode that is drawn, drawn before it begins: a function of settings and number."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..sim.configuration import CAMERA_SLOTS, CUBE_COLOURS
from .episode_settings import RecordingSettings

FAILURES: dict[str, tuple[str, ...]] = {
    'reach': ('wrong_cube', 'gives_up'),
    'push': ('wrong_cube', 'gives_up', 'misses'),
    'pick_place': ('wrong_cube', 'gives_up', 'drops', 'misses'),
}
"""Task to the ways in which an episode can be made to fail."""

CUBE_ANOMALIES = ('floats', 'jumps', 'vanishes')
CAMERA_ANOMALIES = ('noise', 'black', 'frozen')

FIRST_WORLD_SEED = 1_000_000
"""Seeds below are left to evaluation: no recorded episode starts from one."""

_STREAM = 0xE9150DE


@dataclass(frozen=True, slots=True)
class Disturbance:
    """The arm is led astray from ``frame`` on.

    :param offset_m: Displacement of the tool.
    :param yaw_rad: And its turn.
    """

    frame: int
    frames: int
    offset_m: tuple[float, float, float]
    yaw_rad: float


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What the pictures show wrongly; the physics stays as it is.

    :param kind: One of :data:`CUBE_ANOMALIES` or :data:`CAMERA_ANOMALIES`.
    :param subject: Colour of the cube, or camera slot.
    :param first: Frame of its beginning, as a share of the episode's length.
    :param length: Frames that it lasts.
    :param shift_m: How far a cube jumps or how high it floats.
    """

    kind: str
    subject: str
    first: float
    length: int
    shift_m: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """One episode before it begins.

    :param world_seed: Draws the start state and the look, from :data:`FIRST_WORLD_SEED` on.
    :param noise_seed: Draws the noise and the wording.
    :param lag_s: Time constant with which the arm trails its targets.
    :param failure: Of :data:`FAILURES`, or empty.
    :param failure_frame: When a failure that begins at some time begins.
    :param tail: Frames recorded after the task is over.
    """

    index: int
    task: str
    cubes: tuple[str, ...]
    world_seed: int
    noise_seed: int
    noise_rad: float
    lag_s: float
    disturbances: tuple[Disturbance, ...]
    failure: str
    failure_frame: int
    anomaly: Anomaly | None
    tail: int

    def to_document(self) -> dict[str, Any]:
        """Return what JSON can carry."""
        return asdict(self)


def plan_episode(settings: RecordingSettings, index: int) -> EpisodePlan:
    """Draw the episode with this number."""
    rng = np.random.default_rng([_STREAM, settings.seed, index])
    task = settings.tasks[index % len(settings.tasks)]
    count = int(rng.integers(settings.fewest_cubes, settings.most_cubes + 1))
    chosen = set(rng.choice(len(CUBE_COLOURS), size=count, replace=False).tolist())
    cubes = tuple(colour for i, colour in enumerate(CUBE_COLOURS) if i in chosen)
    world_seed = FIRST_WORLD_SEED + int(rng.integers(2**31))
    noise_seed = int(rng.integers(2**31))
    lag_s = settings.lag_s * float(rng.random())
    fate = float(rng.random())
    failure = ''
    if fate < settings.failure_share:
        kinds = [kind for kind in FAILURES[task] if kind != 'wrong_cube' or count > 1]
        failure = kinds[int(rng.integers(len(kinds)))]
    failure_frame = int(rng.integers(6, 16 if task == 'reach' else 70))
    anomaly: Anomaly | None = _draw_anomaly(rng, cubes)
    if not settings.failure_share <= fate < settings.failure_share + settings.anomaly_share:
        anomaly = None
    disturbances = tuple(
        _draw_disturbance(rng, task) for _ in range(min(int(rng.poisson(settings.disturbances)), 3)))
    return EpisodePlan(
        index=index, task=task, cubes=cubes, world_seed=world_seed, noise_seed=noise_seed,
        noise_rad=settings.noise_rad, lag_s=lag_s,
        disturbances=tuple(sorted(disturbances, key=lambda d: d.frame)) if not failure else (),
        failure=failure, failure_frame=failure_frame, anomaly=anomaly, tail=int(rng.integers(8, 17)))


def _draw_disturbance(rng: np.random.Generator, task: str) -> Disturbance:
    offset = rng.uniform([-0.08, -0.08, -0.02], [0.08, 0.08, 0.08])
    x, y, z = (float(value) for value in offset)
    return Disturbance(
        frame=int(rng.integers(4, 25 if task == 'reach' else 90)), frames=int(rng.integers(8, 15)),
        offset_m=(x, y, z), yaw_rad=float(rng.uniform(-0.4, 0.4)))


def _draw_anomaly(rng: np.random.Generator, cubes: tuple[str, ...]) -> Anomaly:
    kinds = CUBE_ANOMALIES + CAMERA_ANOMALIES
    kind = kinds[int(rng.integers(len(kinds)))]
    subjects = cubes if kind in CUBE_ANOMALIES else CAMERA_SLOTS
    side = float(rng.choice([-1.0, 1.0]))
    shift = (0.0, 0.0, float(rng.uniform(0.08, 0.16)))
    if kind == 'jumps':
        shift = (float(rng.uniform(-0.04, 0.04)), side * float(rng.uniform(0.08, 0.15)), 0.0)
    return Anomaly(
        kind=kind, subject=subjects[int(rng.integers(len(subjects)))], first=float(rng.uniform(0.15, 0.7)),
        length=int(rng.integers(10, 31)), shift_m=shift)
