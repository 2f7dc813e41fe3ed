"""The row kernels compile for the GPUs that they are meant for, on a machine without one."""

from importlib.util import find_spec
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip('torch', reason='the extra model is not installed')
if find_spec('triton') is None:
    pytest.skip('triton comes with torch for CUDA, and with the extra dev', allow_module_level=True)

# In a process of its own: in this one Triton may have been told to interpret.
COMPILE = '''
import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cosmos3_ros.model import row_kernels

found = {}
for name, function, constants, warps in (
        ('norm', row_kernels._norm_rows, {'HAS_DELTA': True, 'QUANTISE': False, 'BLOCK': 4096}, 8),
        ('norm, float8', row_kernels._norm_rows, {'HAS_DELTA': True, 'QUANTISE': True, 'BLOCK': 4096}, 8),
        ('quantise', row_kernels._quantise_rows, {'BLOCK': 4096}, 8),
        ('silu', row_kernels._activate_rows, {'GATED': True, 'QUANTISE': False, 'BLOCK': 1024}, 4),
        ('silu, float8', row_kernels._activate_rows, {'GATED': True, 'QUANTISE': True, 'BLOCK': 16384}, 16),
        ('relu2', row_kernels._activate_rows, {'GATED': False, 'QUANTISE': False, 'BLOCK': 1024}, 4)):
    eight = constants.get('QUANTISE', True)
    kinds = {'scales': '*fp32', 'width': 'i32', 'eps': 'fp32', 'largest': 'fp32', 'smallest': 'fp32'}
    if eight:
        kinds |= {'out': '*fp8e4nv', 'normed': '*fp8e4nv'}
    names = function.arg_names
    signature = {n: 'constexpr' if n in constants else kinds.get(n, '*bf16') for n in names}
    source = ASTSource(function, signature, {(names.index(n),): value for n, value in constants.items()})
    target = GPUTarget('cuda', int(sys.argv[1]), 32)
    made = triton.compile(source, target=target, options={'num_warps': warps})
    found[name] = {
        'bytes': len(made.asm['cubin']), 'nan': '.NaN' in made.asm['ptx'],
        'float8': 'e4m3x2' in made.asm['ptx']}
print(json.dumps(found))
'''


@pytest.mark.parametrize('architecture', [89, 90, 120])
def test_row_kernels_compile(architecture, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    done = subprocess.run(
        [sys.executable, '-c', COMPILE, str(architecture)], capture_output=True, text=True, timeout=240,
        env=environment | {'TRITON_CACHE_DIR': str(tmp_path)}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert all(one['bytes'] > 0 for one in found.values()) and len(found) == 6
    for name, one in found.items():
        assert one['float8'] == ('float8' in name or name == 'quantise')
        # Clamps and relu keep what is not a number.
        assert one['nan'] or name in ('norm', 'silu')
