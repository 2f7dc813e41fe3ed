"""What a set of plans is: one JSON file beside them, read and believed before any plan is."""

from dataclasses import asdict, dataclass, field, fields
import hashlib
import json
from pathlib import Path
import shlex
from typing import Any

from .dimensions import Shapes
from .errors import EngineError, EngineRefusedError
from .precision import Precision, find_precision
from .segments import TOWERS

FORMAT = 1
MANIFEST = 'manifest.json'
_LARGEST_MANIFEST = 4_000_000


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that makes two sets of plans different. Its hash names their directory.

    :param checkpoint: Content hash of the weights, see ``model.checkpoint.content_hash``.
    :param flavour: TensorRT flavour, with ``version``: plans are bound to both.
    :param targets: Architectures, in order: real ones, never ``current``.
    :param calibration: SHA-256 of the calibration file, which sets FP8's scales; empty without one.
    """

    checkpoint: str
    tower: str
    shapes: Shapes
    precision: str
    flavour: str
    version: str
    targets: tuple[str, ...]
    weight_streaming: bool = False
    refittable: bool = False
    calibration: str = ''

    @property
    def digest(self) -> str:
        """16 hexadecimal digits."""
        content = {**asdict(self), 'shapes': self.shapes.to_json(), 'format': FORMAT}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def directory(self) -> str:
        """Name of the directory that holds the plans."""
        return f'{self.tower}-{self.precision}-{self.digest}'


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """One plan.

    :param file: Name beside the manifest.
    :param sha256: Of the plan.
    :param onnx_sha256: Of the graph and weights that it was built from.
    :param seconds: Export and build together.
    :param peak_rss_bytes: Largest resident memory of the process that built it, so far.
    :param fidelity: What the gate's vectors gave on the building machine: one object per runner,
        output and case.
    :param vectors_sha256: Of the stored vectors; empty without.
    """

    name: str
    file: str
    size_bytes: int
    sha256: str
    onnx_sha256: str
    seconds: float
    peak_rss_bytes: int
    fidelity: tuple[dict[str, Any], ...] = ()
    vectors_sha256: str = ''


@dataclass(frozen=True, slots=True)
class Manifest:
    """A set of plans for one tower.

    :param source: What ``--checkpoint`` was, for the command to rebuild.
    :param checkpoint_label: Name and hash of the checkpoint.
    :param segment_bytes: ``--segment-bytes``: how the tower was cut.
    :param excluded: Matrices that the precision leaves in the compute type.
    :param prompts: Stored prompts (token ids) of the gate; ``answers`` are torch's greedy tokens.
    :param tokens_identical: Whether ONNX Runtime answered the prompts with torch's tokens, both in
        float32; None if it was not asked.
    :param least_cosine: Bound of the gate that the builder chose; None is the precision's.
        ``most_deviation`` alike.
    :param executed: Whether a GPU ran these plans and the gate passed there.
    """

    key: EngineKey
    source: str
    checkpoint_label: str
    segment_bytes: int
    plans: tuple[PlanEntry, ...]
    excluded: tuple[str, ...] = ()
    prompts: tuple[tuple[int, ...], ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    tokens_identical: bool | None = None
    executed: bool = False
    notes: tuple[str, ...] = field(default=())
    least_cosine: float | None = None
    most_deviation: float | None = None

    @property
    def precision(self) -> Precision:
        """The precision with the gate's bounds."""
        return find_precision(self.key.precision).bounded(self.least_cosine, self.most_deviation)

    @property
    def rebuild_command(self) -> str:
        """Return the command that builds these plans again."""
        return rebuild_command(self.source, self.key)

    def write(self, directory: Path) -> None:
        """Write ``manifest.json``, whole or not at all."""
        content = asdict(self)
        content['key']['shapes'] = self.key.shapes.to_json()
        content |= {'format': FORMAT, 'digest': self.key.digest, 'rebuild': self.rebuild_command}
        partial = directory / f'{MANIFEST}.partial'
        partial.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n', encoding='utf-8')
        partial.replace(directory / MANIFEST)

    @classmethod
    def read(cls, directory: Path) -> 'Manifest':
        """Read a manifest and check that it says what its directory's name promises.

        :raises EngineRefusedError: Missing, too large, not valid, or edited.
        """
        path = directory / MANIFEST
        if not path.is_file():
            raise EngineRefusedError(f'engine: {path} is missing; build with "cosmos3 engine build"')
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise EngineRefusedError(
                f'engine: {path} has {path.stat().st_size} bytes, at most {_LARGEST_MANIFEST} are allowed')
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            manifest = cls._from_json(content)
        except (ValueError, TypeError, KeyError, AttributeError, EngineError) as error:
            raise EngineRefusedError(f'engine: {path} is no manifest of plans: {error!r}') from error
        if content.get('digest') != manifest.key.digest:
            raise EngineRefusedError(
                f'engine: {path} names the key {content.get("digest")} but describes {manifest.key.digest}: '
                f'it was edited; build again: {manifest.rebuild_command}')
        return manifest

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> 'Manifest':
        if content['format'] != FORMAT:
            raise EngineError(f'format {content["format"]} arrived, {FORMAT} is allowed')
        key = dict(content['key'])
        key |= {'shapes': Shapes.from_json(key['shapes']), 'targets': tuple(key['targets'])}
        made = EngineKey(**key)
        if made.tower not in TOWERS:
            raise EngineError(f'tower {made.tower!r} arrived')
        find_precision(made.precision).bounded(content.get('least_cosine'), content.get('most_deviation'))
        plans = tuple(
            PlanEntry(**{**entry, 'fidelity': tuple(entry['fidelity'])}) for entry in content['plans'])
        for plan in plans:
            if Path(plan.file).name != plan.file:
                raise EngineError(f'plan {plan.file!r} lies elsewhere')
        return cls(
            made, str(content['source']), str(content['checkpoint_label']), int(content['segment_bytes']),
            plans, tuple(content['excluded']), tuple(tuple(p) for p in content['prompts']),
            tuple(tuple(a) for a in content['answers']), content['tokens_identical'],
            bool(content['executed']), tuple(content['notes']), content.get('least_cosine'),
            content.get('most_deviation'))


def rebuild_command(source: str, key: EngineKey) -> str:
    """Return the command line that builds the plans of ``key``."""
    parts = ['cosmos3', 'engine', 'build', '--checkpoint', source, '--tower', key.tower,
             '--precision', key.precision, '--flavour', key.flavour]
    # Classic TensorRT builds for the GPU of its machine and takes no other name.
    for target in ('current',) if key.flavour == 'classic' else key.targets:
        parts += ['--target', target]
    usual = Shapes()
    for part in fields(Shapes):
        value = getattr(key.shapes, part.name)
        # The command's own default of this one is the checkpoint's.
        if value != getattr(usual, part.name) or part.name == 'latent_grid':
            parts += [f'--{part.name.replace("_", "-")}']
            parts += map(str, value if isinstance(value, tuple) else (value,))
    parts += ['--calibration', 'scales.json'] * bool(key.calibration)
    parts += ['--weight-streaming'] * key.weight_streaming + ['--refittable'] * key.refittable
    return shlex.join(parts)
