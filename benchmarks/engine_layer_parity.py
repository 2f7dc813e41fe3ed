"""One real-shape layer of each tower on ONNX Runtime and in bfloat16, against float32 torch.

One decoder layer, one vision block and one generation layer of Nano's shape, bfloat16 weights from a seed,
on the gate's vectors; FP8 is what Q/DQ around the same matrices changes, again on ONNX Runtime. Plans never
quantise the vision tower. Three minutes of processor time and 4 GB. Prints one line of JSON a case; the
status is 1 if the float32 export on ONNX Runtime is further than 1e-4 or bfloat16 torch further than 2e-2
from float32 torch, relative to the output's largest magnitude.

    PYTHONPATH=. python benchmarks/engine_layer_parity.py [vision] [language] [generation]
"""

import json
from pathlib import Path
import platform
import subprocess
import sys
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch

from cosmos3_ros.engine.dimensions import RANDOM, Shapes
from cosmos3_ros.engine.export import export_segment
from cosmos3_ros.engine.fidelity import Fidelity, measure
from cosmos3_ros.engine.modules import make_module
from cosmos3_ros.engine.precision import find_precision
from cosmos3_ros.engine.quantization import convert
from cosmos3_ros.engine.runners import OnnxRunner, TorchRunner
from cosmos3_ros.engine.segment_build import reference
from cosmos3_ros.engine.segments import TOWERS, Tower, as_tower, cut_tower
from cosmos3_ros.engine.vectors import first_inputs, seeded_inputs
from cosmos3_ros.engine.weights import SeededWeights

DIMENSIONS = RANDOM['random:nano-layer']
# Full width, few tokens: a CPU multiplies bfloat16 slowly.
SHAPES = Shapes(max_frames=1, latent_grid=(2, 8, 10))
ONNX_MOST, BF16_MOST = 1e-4, 2e-2


def compare(tower: Tower, directory: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row per case."""
    segment, = cut_tower(tower, DIMENSIONS, SHAPES)
    source = SeededWeights(seed)
    module = make_module(segment, DIMENSIONS, SHAPES, source)
    given = first_inputs(segment, seeded_inputs(tower, DIMENSIONS, SHAPES, source, seed))
    amax: dict[str, float] = {}
    inputs, outputs = reference(module, segment, given, amax)

    def exported(name: str) -> list[Fidelity]:
        path = directory / f'{tower}.{name}.onnx'
        export_segment(module, segment, path, 'float32')
        return measure(segment, OnnxRunner(path, segment), inputs, outputs, 'float32')

    found = {'onnxruntime_fp32': exported('fp32')}
    if tower != 'vision':
        convert(module, find_precision('fp8_fp32'), amax)
        found['onnxruntime_fp8'] = exported('fp8_fp32')
    module = make_module(segment, DIMENSIONS, SHAPES, source, 'bfloat16')
    found['torch_bf16'] = measure(segment, TorchRunner(module, segment), inputs, outputs, 'bfloat16')
    return [_row(tower, case, found) for case in inputs]


def _row(tower: Tower, case: str, found: dict[str, list[Fidelity]]) -> dict[str, Any]:
    row: dict[str, Any] = {'graph': tower, 'case': case}
    for name, fidelities in found.items():
        row[name] = {'deviation_max': max(f.deviation for f in fidelities if f.case == case),
                     'cosine_min': min(f.cosine for f in fidelities if f.case == case)}
    row['passed'] = (row['onnxruntime_fp32']['deviation_max'] <= ONNX_MOST
                     and row['torch_bf16']['deviation_max'] <= BF16_MOST)
    return row


def _revision() -> str:
    asked = subprocess.run(
        ['git', 'describe', '--always', '--dirty'], cwd=Path(__file__).parent, capture_output=True, text=True,
        check=False)
    return asked.stdout.strip() or 'unknown'


def main() -> int:
    """Run and print."""
    about = {'revision': _revision(), 'torch': torch.__version__, 'onnxruntime': onnxruntime.__version__,
             'machine': platform.machine(), 'seed': 0}
    sys.stdout.write(json.dumps(about) + '\n')
    passed = True
    for tower in TOWERS if len(sys.argv) == 1 else [as_tower(name) for name in sys.argv[1:]]:
        with torch.no_grad(), TemporaryDirectory() as directory:
            rows = compare(tower, Path(directory))
        for row in rows:
            passed &= row['passed']
            sys.stdout.write(json.dumps(row) + '\n')
            sys.stdout.flush()
    return 0 if passed else 1


if __name__ == '__main__':
    sys.exit(main())
