"""What is true in a frame, known because the simulator knows everything.

Facts are kept beside a dataset (``facts/``), one JSON object per frame. ``scene_facts_report`` turns them
into the answer that a reasoner should give, ``scene_facts_questions`` into yes/no questions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import json
from typing import Any

from ..contracts import TaskState
from ..sim.configuration import CUBE_COLOURS
from .lerobot_format import DatasetError

GRIPPER_LABEL = 'gripper'
ZONE_LABEL = 'white circle'
OBJECT_LABELS = (*(f'{colour} cube' for colour in CUBE_COLOURS), ZONE_LABEL, GRIPPER_LABEL)
"""What facts give boxes of, in the order of the renderer's numbers."""
ACTIVITIES = ('approach', 'descend', 'close', 'lift', 'carry', 'lower', 'release', 'push', 'retreat', 'done')
"""What the arm is doing: the phases of ``sim.expert.Expert``."""

PICTURE_CLEAN = 'clean'
PICTURES = (PICTURE_CLEAN, 'noise', 'black', 'frozen')
"""How a camera's picture is."""


@dataclass(frozen=True, slots=True)
class ObjectFact:
    """One thing that a camera shows.

    :param label: ``red cube``, ``white circle`` or ``gripper``.
    :param colour: Of the cube; empty for other things.
    :param box: x1, y1, x2, y2 as fractions of the picture's width and height, what is hidden left out.
    :param share: Share of the picture's pixels.
    """

    label: str
    colour: str
    camera: str
    box: tuple[float, float, float, float]
    share: float

    def box_px(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the box in pixels of a picture of this size."""
        x1, y1, x2, y2 = self.box
        return x1 * width, y1 * height, x2 * width, y2 * height

    @property
    def box_1000(self) -> tuple[int, int, int, int]:
        """The box as Cosmos 3 writes it: 0 to 1000 per axis."""
        x1, y1, x2, y2 = (round(1000 * value) for value in self.box)
        return x1, y1, x2, y2


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What is true in one frame.

    :param target: Colour of the cube that the instruction is about.
    :param objects: By camera, in the order of the camera slots.
    :param cubes: Colour to position as drawn, metres, base frame.
    :param zone: Position of the white circle.
    :param tool: Position of the tool.
    :param gripper: 0 open .. 1 closed, measured.
    :param held: Colour of the cube between both fingers, or empty.
    :param touched: Colours of cubes that the robot touches.
    :param doing: One of :data:`ACTIVITIES`.
    :param progress: 0 at the start .. 1 done.
    :param task_state: ``in_progress``, ``done`` or ``failed``.
    :param unsupported: Cubes that hang in the air with nothing below and no hand around them.
    :param jumped: Cubes that moved since the last frame as no contact could have moved them.
    :param vanished: Cubes of the scene that are not drawn.
    :param pictures: Camera slot to one of :data:`PICTURES`.
    :param statements: Key to whether it was true in the second up to this frame
        (``scene_facts_questions``).
    """

    instruction: str
    task: str
    target: str
    objects: tuple[ObjectFact, ...]
    cubes: Mapping[str, tuple[float, float, float]]
    zone: tuple[float, float]
    tool: tuple[float, float, float]
    gripper: float
    held: str
    touched: tuple[str, ...]
    doing: str
    progress: float
    task_state: str
    unsupported: tuple[str, ...]
    jumped: tuple[str, ...]
    vanished: tuple[str, ...]
    pictures: Mapping[str, str]
    statements: Mapping[str, bool]

    def __post_init__(self) -> None:
        """Refuse words that do not exist."""
        states = [state.name.lower() for state in TaskState if state is not TaskState.UNKNOWN]
        for name, value, allowed in (
                ('doing', self.doing, ACTIVITIES), ('task_state', self.task_state, states),
                *(('picture', picture, PICTURES) for picture in self.pictures.values())):
            if value not in allowed:
                raise DatasetError(f'facts: {name} {value!r} arrived, one of {", ".join(allowed)} is allowed')
        if not 0.0 <= self.progress <= 1.0 or not 0.0 <= self.gripper <= 1.0:
            raise DatasetError(
                f'facts: progress {self.progress}, gripper {self.gripper} arrived, 0 to 1 is allowed')

    def seen(self, camera: str) -> tuple[ObjectFact, ...]:
        """Return what a camera shows."""
        return tuple(thing for thing in self.objects if thing.camera == camera)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self) | {
            'objects': [asdict(thing) for thing in self.objects], 'cubes': dict(self.cubes),
            'pictures': dict(self.pictures), 'statements': dict(self.statements)},
            separators=(',', ':'), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> 'FrameFacts':
        """Read what :meth:`to_json` wrote.

        :raises DatasetError: Not that.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            objects = tuple(
                ObjectFact(**{**thing, 'box': tuple(thing['box'])}) for thing in document.pop('objects'))
            cubes = {colour: tuple(place) for colour, place in document.pop('cubes').items()}
            lists: dict[str, Any] = {name: tuple(document.pop(name)) for name in (
                'zone', 'tool', 'touched', 'unsupported', 'jumped', 'vanished')}
            return cls(objects=objects, cubes=cubes, **lists, **document)
        except (AttributeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise DatasetError(f'facts: not what this version writes ({error})') from error
