"""The micro checkpoint's shapes and requests, shared by the tests of the engine."""

from dataclasses import dataclass
from pathlib import Path

from cosmos3_ros.engine.build import BuildRequest, BuildResult, Progress
from cosmos3_ros.engine.compiler import BuildOptions
from cosmos3_ros.engine.dimensions import Dimensions, Shapes
from cosmos3_ros.engine.weights import CheckpointWeights

SHAPES = Shapes(
    frame_grid=(4, 6), max_frames=2, max_prompt=48, cache=64, max_context=256, latent_grid=(9, 2, 2),
    action_rows=33)


@dataclass(frozen=True)
class Checkpoint:
    directory: Path
    dimensions: Dimensions
    weights: CheckpointWeights
    content_hash: str

    def request(self, out: Path, **changes) -> BuildRequest:
        settings = {
            'checkpoint': self.directory, 'checkpoint_hash': self.content_hash,
            'label': f'cosmos3-micro@{self.content_hash}', 'source': str(self.directory),
            'dimensions': self.dimensions, 'shapes': SHAPES, 'towers': ('vision', 'language', 'generation'),
            'precision': 'bf16', 'options': BuildOptions(('sm89', 'sm120')), 'out': out, 'isolate': False}
        return BuildRequest(**{**settings, **changes})


@dataclass(frozen=True)
class Built:
    request: BuildRequest
    result: BuildResult
    progress: list[Progress]

    def engine(self, tower):
        return next((d, m) for d, m in self.result.engines if m.key.tower == tower)
