"""The loop with a GPU's layers gives the reference's rows: on a GPU, else in Triton's interpreter."""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the extra model is not installed')
GPU = torch.cuda.is_available()
pytest.importorskip('triton', reason='triton comes with torch for CUDA, and with the extra dev')

from test_compiled_backend import build, request, texts  # noqa: E402

from cosmos3_ros.generator.compiled_backend import CompiledBackend  # noqa: E402
from cosmos3_ros.generator.diffusers_backend import DiffusersBackend  # noqa: E402
from cosmos3_ros.generator.guidance import Guidance  # noqa: E402
from cosmos3_ros.generator.sampler import schedule  # noqa: E402
from cosmos3_ros.model.layer_functions import LayerFunctions  # noqa: E402
from cosmos3_ros.model.weight_source import ModuleWeights  # noqa: E402


@pytest.mark.parametrize('name, batched', [('micro', True), ('micro', False), ('edge', False)])
def test_rows_with_a_gpus_layers_are_the_references(name, batched):
    model, plan, guidance = build(name), schedule(1, 5.0), Guidance(3.0)
    want = DiffusersBackend(model, plan, guidance).denoise(*texts(name), request(name))[:, :8]
    backend = CompiledBackend(
        ModuleWeights(model), 'cuda' if GPU else 'cpu', torch.float32, 'w', plan, guidance, batched=batched)
    backend._functions = LayerFunctions.of(torch.device('cuda'))
    loop = backend.prepare(*texts(name), request(name))
    for _ in range(2 if GPU else 1):
        with torch.no_grad():
            loop._fill()  # as it stands: the interpreter cannot be recorded
        assert np.abs(loop._result.cpu().numpy() - want).max() <= (1e-4 if GPU else 1e-5)
    assert np.abs(want[1:]).max() > 0.1
