"""One micro checkpoint and its plans, built once for all tests of the engine."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cosmos3_ros.engine.build import BuildRequest, BuildResult, Progress, build
from cosmos3_ros.engine.compiler import BuildOptions
from cosmos3_ros.engine.dimensions import Dimensions, Shapes
from cosmos3_ros.engine.weights import CheckpointWeights
from cosmos3_ros.model.checkpoint import content_hash
from cosmos3_ros.model.checkpoint_init import init_checkpoint

SHAPES = Shapes(
    frame_grid=(4, 6), max_frames=2, max_prompt=48, cache=64, max_context=16, latent_grid=(3, 2, 2),
    action_rows=5)


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


@pytest.fixture(scope='session', autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp('engine') / 'micro'
    init_checkpoint(directory, 'micro', 0)
    return Checkpoint(
        directory, Dimensions.read(directory), CheckpointWeights(directory), content_hash(directory))


@pytest.fixture(scope='session')
def built(checkpoint, tmp_path_factory):
    """All towers in bf16, with float32 exports held to torch on ONNX Runtime."""
    request = checkpoint.request(tmp_path_factory.mktemp('bf16'))
    progress = []
    return Built(request, build(request, progress.append), progress)


@pytest.fixture(scope='session')
def built_fp8(checkpoint, tmp_path_factory):
    """The quantised towers in fp8."""
    request = checkpoint.request(
        tmp_path_factory.mktemp('fp8'), precision='fp8', towers=('language', 'generation'), check_onnx=False,
        prompts=0)
    progress = []
    return Built(request, build(request, progress.append), progress)
