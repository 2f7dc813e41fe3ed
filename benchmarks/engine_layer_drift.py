"""What FP8 and NVFP4 take away from one real-shape layer of each tower, in torch on a CPU.

One decoder layer, one vision block (whose matrices no plan quantises: this says why not to worry, or why
to leave it so) and one generation layer of Nano's shape, bfloat16 weights from a seed, against float32
torch on the gate's vectors. About three minutes of processor time and 5 GB. Prints one line of JSON a row.

    python benchmarks/engine_layer_drift.py [vision] [language] [generation]
"""

import json
import sys
from typing import Any

import torch

from cosmos3_ros.engine.dimensions import RANDOM, Shapes
from cosmos3_ros.engine.fidelity import measure
from cosmos3_ros.engine.modules import make_module
from cosmos3_ros.engine.precision import find_precision
from cosmos3_ros.engine.quantization import observed, quantise, quantised_names
from cosmos3_ros.engine.runners import TorchRunner
from cosmos3_ros.engine.segment_build import reference
from cosmos3_ros.engine.segments import TOWERS, Tower, as_tower, cut_tower
from cosmos3_ros.engine.vectors import first_inputs, seeded_inputs
from cosmos3_ros.engine.weights import SeededWeights

DIMENSIONS = RANDOM['random:nano-layer']
# Full width, few tokens: a CPU multiplies bfloat16 slowly.
SHAPES = Shapes(max_frames=1, latent_grid=(2, 8, 10))


def matrices(tower: Tower, module: Any) -> list[str]:
    """Return the matrices that are quantised here: a vision block's too."""
    if tower != 'vision':
        return quantised_names(module)
    return [name for name, part in module.named_modules()
            if isinstance(part, torch.nn.Linear) and name.startswith('blocks.')]


def drift(tower: Tower, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row per precision and case."""
    segment, = cut_tower(tower, DIMENSIONS, SHAPES)
    source = SeededWeights(seed)
    module = make_module(segment, DIMENSIONS, SHAPES, source)
    given = first_inputs(segment, seeded_inputs(tower, DIMENSIONS, SHAPES, source, seed))
    amax: dict[str, float] = {}
    names = matrices(tower, module)
    with observed(module, amax, names):
        inputs, outputs = reference(module, segment, given, {})
    del module
    rows = []
    for name in ('bf16', 'fp8', 'nvfp4'):
        precision = find_precision(name)
        rounded = make_module(segment, DIMENSIONS, SHAPES, source, precision.compute)
        if precision.matrices != 'plain':
            quantise(rounded, precision, amax, names)
        found = measure(segment, TorchRunner(rounded, segment), inputs, outputs, precision.compute)
        rows += [{
            'graph': tower, 'case': case, 'precision': name, 'matrices': len(names),
            'cosine_min': min(f.cosine for f in found if f.case == case),
            'deviation_max': max(f.deviation for f in found if f.case == case)} for case in inputs]
    return rows


if __name__ == '__main__':
    with torch.inference_mode():
        for tower in TOWERS if len(sys.argv) == 1 else [as_tower(name) for name in sys.argv[1:]]:
            for row in drift(tower):
                sys.stdout.write(json.dumps(row) + '\n')
                sys.stdout.flush()
