"""One micro checkpoint and its plans, built once for all tests of the engine."""

from dataclasses import replace

from micro_engine import Built, Checkpoint
import pytest
import torch

from cosmos3_ros.engine.build import build
from cosmos3_ros.engine.compiler import BuildOptions
from cosmos3_ros.engine.dimensions import Dimensions
from cosmos3_ros.engine.weights import CheckpointWeights
from cosmos3_ros.model.checkpoint import content_hash
from cosmos3_ros.model.checkpoint_init import init_checkpoint


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
    request = checkpoint.request(tmp_path_factory.mktemp('bf16'), keep_onnx=True)
    progress = []
    return Built(request, build(request, progress.append), progress)


@pytest.fixture(scope='session')
def built_fp8(checkpoint, tmp_path_factory):
    """All towers in fp8, one layer of the quantised ones: exporting takes as long as there are layers."""
    request = checkpoint.request(
        tmp_path_factory.mktemp('fp8'), precision='fp8', check_onnx=False, prompts=0,
        dimensions=replace(checkpoint.dimensions, layers=1))
    progress = []
    return Built(request, build(request, progress.append), progress)


@pytest.fixture(scope='session')
def built_nvfp4(checkpoint, tmp_path_factory):
    """One generation layer in nvfp4, its ONNX file kept."""
    request = checkpoint.request(
        tmp_path_factory.mktemp('nvfp4'), precision='nvfp4', towers=('generation',), check_onnx=False,
        prompts=0, dimensions=replace(checkpoint.dimensions, layers=1), options=BuildOptions(('sm120',)),
        keep_onnx=True)
    progress = []
    return Built(request, build(request, progress.append), progress)
