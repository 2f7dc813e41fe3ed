"""A policy's request, end to end, at the exact shape of Cosmos3-Nano: compiled against diffusers.

Run ``python benchmarks/generator.py --device cuda:0 [--prompt-tokens 128 512] [--json FILE]``. Weights are
random and made on the device; pictures are noise. Prints a Markdown table and, as the last line, JSON.

A request starts with three uint8 pictures of 640 x 360 in host memory and ends with a chunk in host
memory. Each precision and length of prompt runs in a process of its own, so that the memory of its first row
is that of one policy alone. The floor is arithmetic alone: the multiplications of the generation tower and
its attention, at the rate that one large matrix product reached on the same device in the same run.
"""

import argparse
from functools import partial
import json
import logging
from pathlib import Path
import sys

import torch

from cosmos3_ros.generator.bench import Measurement, in_own_process, run_bench
from cosmos3_ros.generator.bench_variants import NANO_RANDOM, droid_variants
from cosmos3_ros.generator.composed_view import DROID_VIEW
from cosmos3_ros.generator.droid_joint import ROWS
from cosmos3_ros.model.layer_math import multiply, quantise_rows
from cosmos3_ros.model.nano_weights import NANO_CONFIG
from cosmos3_ros.model.sequence_pack import SequencePack
from cosmos3_ros.model.tower_shape import TowerShape

FORWARDS = {(4, None): 8, (4, (960, 1001)): 5, (2, None): 4}
RATE_SIZE = 8192
FRAMES = 9


def measure_rate(device: str, float8: bool) -> float:
    """Return operations per second of one large matrix product on random data, median of 20."""
    states = torch.randn(RATE_SIZE, RATE_SIZE, device=device, dtype=torch.bfloat16)
    weight, scale = torch.randn_like(states), None
    if float8:
        (states, row_scale), (weight, scale) = quantise_rows(states), quantise_rows(weight)

        def product() -> None:
            torch._scaled_mm(states, weight.t(), scale_a=row_scale, scale_b=scale.t().contiguous(),
                             out_dtype=torch.bfloat16, use_fast_accum=True)
    else:
        def product() -> None:
            multiply(states, weight, None)
    times = []
    for _ in range(25):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        product()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return float(2 * RATE_SIZE ** 3 / sorted(times[5:])[10])


def forward_operations(text_tokens: int) -> tuple[float, float]:
    """Return operations of one forward: of the matrices, and of attention."""
    shape = TowerShape.of(NANO_CONFIG)
    pack = SequencePack(text_tokens, (FRAMES, DROID_VIEW.latent_height, DROID_VIEW.latent_width), ROWS)
    tokens = pack.generated_tokens
    attention = 4 * tokens * (tokens + text_tokens) * shape.heads * shape.head_dim * shape.layers
    return 2.0 * shape.generation_parameters * tokens, float(attention)


def floor_ms(row: Measurement, rate: float, rate8: float) -> float:
    """Return the time that the arithmetic of a row takes at best."""
    matrices, attention = forward_operations(row.prompt_tokens)
    forwards = FORWARDS[row.variant.steps, row.variant.interval]
    fast = rate8 if row.variant.dtype == 'float8' else rate
    return forwards * (matrices / fast + attention / rate) * 1e3


def say(text: str) -> None:
    """Write a line of the report."""
    sys.stdout.write(text + '\n')
    sys.stdout.flush()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cuda:0')
    parser.add_argument('--prompt-tokens', type=int, nargs='+', default=[128, 512])
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--variants', nargs='+', help='names as in the table; all by default')
    parser.add_argument('--json', type=Path, help='also write the result here')
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
    rates = [in_own_process(partial(measure_rate, args.device, float8)) for float8 in (False, True)]
    rows: list[Measurement] = []

    def note(row: Measurement) -> None:
        rows.append(row)
        logging.info('%s, %d tokens: %.1f ms, %.2f GB resident, %.2f GB peak, %s', row.variant.name,
                     row.prompt_tokens, row.request_ms, row.resident_gb, row.peak_gb, row.stages_ms)

    result = run_bench(
        NANO_RANDOM, args.device, prompt_tokens=tuple(args.prompt_tokens), repeats=args.repeats, report=note,
        variants=tuple(v for v in droid_variants(args.device)
                       if args.variants is None or v.name in args.variants))
    result |= {'device': torch.cuda.get_device_name(args.device), 'torch': torch.__version__,
               'bf16_tflops': round(rates[0] / 1e12, 1), 'fp8_tflops': round(rates[1] / 1e12, 1)}
    say(f'{result["device"]}, torch {result["torch"]}; one {RATE_SIZE} cubed product: '
          f'{result["bf16_tflops"]} TFLOP/s BF16, {result["fp8_tflops"]} FP8 per row\n')
    say('| variant | prompt tokens | request ms | p99 | floor ms | x diffusers | resident GB | peak GB '
          '| new instruction s | same bytes |')
    say('|---|---:|---:|---:|---:|---:|---:|---:|---:|---|')
    for row, entry in zip(rows, result['rows'], strict=True):
        entry['floor_ms'] = round(floor_ms(row, *rates), 1)
        say(f'| {entry["variant"]} | {entry["prompt_tokens"]} | {entry["request_ms"]:.1f} '
              f'| {entry["request_p99_ms"]:.1f} | {entry["floor_ms"]} | {entry.get("speedup", 0):.2f} '
              f'| {entry["resident_gb"]:.1f} | {entry["peak_gb"]:.1f} | {entry["context_s"]:.2f} '
              f'| {"yes" if entry["deterministic"] else "NO"} |')
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    say(json.dumps(result))
    return 0 if result['deterministic'] else 1


if __name__ == '__main__':
    sys.exit(main())
