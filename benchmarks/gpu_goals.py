"""The goals that were still open on a GPU, in one command of less than four minutes.

Run ``python -m benchmarks.gpu_goals [--seconds 225]`` in the repository's root. Each part runs in a process
of its own, with a limit of its own, and prints JSON lines as it goes (also to ``$OUT/gpu_goals.jsonl``):

- ``bfloat16`` and ``float8``: the compiled generator, 128 prompt tokens: time of a request, and what the
  process holds on the device, by what it is held for;
- ``diffusers``: the same request with the yardstick;
- ``reasoner``: first token of transformers and of ``compiled``, and what each choice in it is worth;
- ``two-devices``, where there are two: both texts of guidance at once, each on its device, against one after
  the other on the first: time, and whether the chunk is the same bytes;
- ``bfloat16-expandable`` and ``float8-expandable``, while time is left: memory once more with
  ``expandable_segments:True``.

Weights are random at the exact shape of Cosmos3-Nano and never leave the device: what a new instruction costs
is not measured here.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
import contextlib
from functools import partial
import gc
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

DEVICE = 'cuda:0'
GIGA = 1e9
PROMPT_TOKENS = 128
# Seconds that a part may take at most.
PARTS = {'bfloat16': 85, 'float8': 70, 'diffusers': 60, 'reasoner': 70, 'two-devices': 90,
         'float8-expandable': 45, 'bfloat16-expandable': 45}
LEAST_S = 12  # less is not worth a start


def emit(part: str, what: str, **values: Any) -> None:
    """Write one JSON line, also where results are collected."""
    line = json.dumps({'part': part, 'what': what, 't': round(time.perf_counter(), 1), **values})
    sys.stdout.write(line + '\n')
    sys.stdout.flush()
    if os.environ.get('OUT'):
        with (Path(os.environ['OUT']) / 'gpu_goals.jsonl').open('a', encoding='utf-8') as file:
            file.write(line + '\n')


def held_gb() -> dict[str, float]:
    """Return what the process holds: in all, outside of torch, and torch's pools with their holes."""
    import torch

    torch.cuda.synchronize(DEVICE)
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(DEVICE)
    used, reserved = total - free, torch.cuda.memory_reserved(DEVICE)
    sums: dict[str, int] = defaultdict(int)
    for segment in torch.cuda.memory_snapshot():
        pool = 'graphs' if tuple(segment.get('segment_pool_id', (0, 0))) != (0, 0) else 'plain'
        sums[pool] += segment['total_size']
        sums[f'{pool}_in_use'] += segment['allocated_size']
    return {name: round(value / GIGA, 3) for name, value in {
        'resident': used, 'outside_torch': used - reserved,
        'peak': torch.cuda.max_memory_reserved(DEVICE) + used - reserved, **sums}.items()}


def parts_gb(policy: Any) -> dict[str, float]:
    """Return what a policy's tensors take, by what they are."""
    import torch

    seen: set[int] = set()

    def size(tensors: Any) -> float:
        total = 0
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in seen:
                    seen.add(storage.data_ptr())
                    total += storage.nbytes()
        return round(total / GIGA, 3)

    backend = policy.backend
    tower, vae = backend._tower, policy._encoder._encoder._vae
    heads = (*tower._proj_in, *tower._proj_out, *(v for v in vars(tower).values()))
    loops = list(backend._loops.values())
    return {
        'layers': size(t for layer in tower.layers for t in layer), 'heads': size(heads),
        'picture_encoder': size([*vae.parameters(), *vae.buffers(), *vars(policy._encoder).values()]),
        'texts': size(t for loop in loops for b in loop._branches for t in (*vars(b).values(), *b.table)),
        'buffers': size(t for loop in loops for t in vars(loop).values()),
        'noise': size(t for pair in backend._noises.values() for t in pair)}


def device_source() -> Any:
    """Return random weights that never go to the host."""
    import torch

    from cosmos3_ros.model.nano_weights import RandomNano, random_tensor

    class DeviceNano(RandomNano):
        """Makes every tensor on the device whenever it is asked for."""

        def get(self, name: str) -> Any:
            """Return a bfloat16 tensor."""
            return random_tensor(name, self._shapes[name], self._device)

        def rows(self, name: str, ids: Any) -> Any:
            """Return some rows on the host, as a checkpoint's file gives them.

            Made whole on the device, the embedding's 1.2 GB would stay in the allocator with something
            small of the policy's in their midst.
            """
            picked = self.get(name)[list(ids)].cpu()
            torch.cuda.empty_cache()
            return picked

    return DeviceNano(DEVICE)


def run_generator(part: str) -> None:
    """Measure the compiled generator in one precision."""
    import torch

    from cosmos3_ros.generator import droid_joint
    from cosmos3_ros.generator.bench import measure
    from cosmos3_ros.generator.bench_variants import Variant, droid_observation, make_policy
    from cosmos3_ros.generator.cosmos3_policy import FLOAT8, branch_batching
    from cosmos3_ros.generator.guidance import Guidance
    from cosmos3_ros.generator.sampler import schedule

    dtype, memory_only = part.split('-')[0], part.endswith('-expandable')
    dtype = FLOAT8 if dtype == 'float8' else dtype
    torch.zeros(1, device=DEVICE)
    emit(part, 'memory, nothing loaded', **held_gb(), torch=torch.__version__,
         device=torch.cuda.get_device_name(DEVICE), cudnn=torch.backends.cudnn.version())
    with torch.no_grad():
        variant = Variant(f'compiled {dtype}', 'compiled', dtype)
        policy = make_policy('nano-random', DEVICE, variant, device_source(), None)
        emit(part, 'memory, loaded', **held_gb())
        policy.encode(droid_observation())
        emit(part, 'memory, picture encoded', **held_gb())
        row = measure(policy, variant, DEVICE, PROMPT_TOKENS, 3 if memory_only else 15, anew=False)
        emit(part, 'request', request_ms=round(row.request_ms, 2), p99_ms=round(row.request_p99_ms, 2),
             stages_ms=row.stages_ms, deterministic=row.deterministic, first_s=round(row.first_request_s, 1),
             resident_gb=round(row.resident_gb, 3), peak_gb=round(row.peak_gb, 3))
        emit(part, 'memory, at work', **held_gb(), parts=parts_gb(policy))
        if memory_only:
            return
        guarded(part, 'kernels', lambda: kernels(lambda: policy.generate(
            droid_observation(), f'prompt {PROMPT_TOKENS} tokens', seed=0)))
        other = not branch_batching('auto', dtype)
        policy.resample(schedule(droid_joint.STEPS, droid_joint.SHIFT), Guidance(droid_joint.GUIDANCE),
                        batched=other)
        row = measure(policy, variant, DEVICE, PROMPT_TOKENS, 8, anew=False)
        emit(part, 'request, batched' if other else 'request, sequential',
             request_ms=round(row.request_ms, 2), deterministic=row.deterministic, **held_gb())
        if dtype == 'bfloat16':
            guarded(part, 'products', product_rates)


def measure_alone(variant: Any, repeats: int) -> Any:
    """Measure a variant's request with a policy of its own, and let go of that."""
    import torch

    from cosmos3_ros.generator.bench import measure
    from cosmos3_ros.generator.bench_variants import make_policy

    with torch.no_grad():
        policy = make_policy('nano-random', DEVICE, variant, device_source(), None)
        row = measure(policy, variant, DEVICE, PROMPT_TOKENS, repeats, anew=False)
    del policy
    gc.collect()
    torch.cuda.empty_cache()
    return row


def run_diffusers(part: str) -> None:
    """Measure the yardstick."""
    from cosmos3_ros.generator.bench_variants import Variant

    row = measure_alone(Variant('diffusers BF16', 'diffusers', 'bfloat16'), 10)
    emit(part, 'request', request_ms=round(row.request_ms, 2), p99_ms=round(row.request_p99_ms, 2),
         stages_ms=row.stages_ms, resident_gb=round(row.resident_gb, 3), peak_gb=round(row.peak_gb, 3))


def run_two_devices(part: str) -> None:
    """Measure both texts of guidance at once on two devices, in both precisions."""
    import numpy as np
    import torch

    from cosmos3_ros.generator.bench import same_chunk
    from cosmos3_ros.generator.bench_variants import Variant
    from cosmos3_ros.generator.cosmos3_policy import FLOAT8

    if torch.cuda.device_count() < 2:
        emit(part, 'left out', devices=torch.cuda.device_count())
        return
    for dtype in ('bfloat16', FLOAT8):
        one, two = (
            measure_alone(Variant(f'compiled {dtype}', 'compiled', dtype, branches='sequential',
                                  guidance_device=second), 15)
            for second in (None, 'cuda:1'))
        emit(part, f'request, {dtype}', one_ms=round(one.request_ms, 2), two_ms=round(two.request_ms, 2),
             two_p99_ms=round(two.request_p99_ms, 2), times=round(one.request_ms / two.request_ms, 3),
             same_bytes=same_chunk(one.chunk, two.chunk), deterministic=two.deterministic,
             max_diff_rad=float(np.abs(one.chunk.positions - two.chunk.positions).max()))


def guarded(part: str, what: str, work: Callable[[], dict[str, Any]]) -> None:
    """Emit what ``work`` returns, or why it could not."""
    try:
        emit(part, what, **work())
    except Exception as error:  # an extra must not cost what comes after it
        emit(part, what, failed=f'{type(error).__name__}: {error}'[:500])


def kernels(work: Callable[[], Any], most: int = 16) -> dict[str, Any]:
    """Return the kernels of ``work`` that took longest, milliseconds and count."""
    import torch

    work()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    rows = sorted(((e.self_device_time_total / 1e3, e.count, e.key[:90]) for e in profile.key_averages()),
                  reverse=True)
    return {'all_ms': round(sum(r[0] for r in rows), 2), 'count': sum(r[1] for r in rows),
            'longest': [[round(ms, 2), count, name] for ms, count, name in rows[:most]]}


def product_rates() -> dict[str, Any]:
    """Return TFLOP/s of a layer's products, each alone for 0.3 s, for one branch and for two together."""
    import torch

    from cosmos3_ros.reasoner.bench_timing import median_ms

    found: dict[str, Any] = {}
    for rows in (3093, 6186):
        for name, out, inner in (
                ('qkv', 6144, 4096), ('out', 4096, 4096), ('up', 24576, 4096), ('down', 4096, 12288)):
            x = torch.randn(rows, inner, device=DEVICE, dtype=torch.bfloat16)
            w = torch.randn(out, inner, device=DEVICE, dtype=torch.bfloat16)
            operations = 2.0 * rows * inner * out
            for library in ('cublas', 'cublaslt'):
                torch.backends.cuda.preferred_blas_library(library)
                ms = median_ms(partial(torch.nn.functional.linear, x, w), int(0.3 / (operations / 7e14)),
                               torch.device(DEVICE))
                found[f'{name} {rows} {library}'] = round(operations / ms / 1e9, 1)
    torch.backends.cuda.preferred_blas_library('default')
    return found


def run_reasoner(part: str) -> None:
    """Measure the first token, and what each choice is worth."""
    import numpy as np
    import torch

    from cosmos3_ros.contracts import Clip
    from cosmos3_ros.reasoner import bench, bench_timing, fused_math, static_decoder, vision_tower
    from cosmos3_ros.reasoner.bench_parity import count_matches
    from cosmos3_ros.reasoner.compiled_backend import create_math, decoder_input
    from cosmos3_ros.reasoner.language_weights import take_weights
    from cosmos3_ros.reasoner.video_prompt import VideoSettings, patch_clip

    clip = Clip('exterior_1', np.random.RandomState(0).randint(
        0, 255, (bench.FRAMES, bench.HEIGHT, bench.WIDTH, 3)).astype(np.uint8),
        np.arange(bench.FRAMES, dtype=np.int64) * 250_000_000)
    with torch.inference_mode():
        model = bench_timing.random_model(
            bench_timing.NANO, DEVICE, torch.bfloat16, bench_timing.NANO_VISION)
        _, grid = patch_clip(clip, VideoSettings(max_clip_pixels=bench.MAX_CLIP_PIXELS))
        prompt = bench_timing.random_prompt(model, grid, bench.PROMPT_TOKENS)
        device = model.device
        timing = bench_timing.time_reference(model, prompt, 20)
        emit(part, 'transformers', ttft_ms=round(timing.ttft_ms, 2),
             back_to_back_ms=round(timing.back_to_back_ttft_ms, 2), vision_ms=round(timing.vision_ms, 2),
             prefill_ms=round(timing.prefill_ms, 2), decode_ms=round(timing.decode_ms, 2))
        given = bench_timing.on_device(decoder_input(model, prompt), device, model.dtype)
        theirs = torch.cat(list(model.model.get_video_features(
            given.pixels, prompt.video_grid_thw.to(device), return_dict=True).pooler_output)).float()
        taken = take_weights(model)
        math, most = create_math(taken), bench_timing.REPORT_TOKENS

        def first_token(name: str, *, joins_gelu: bool = True, profile: bool = False) -> float:
            tower = vision_tower.VisionTower(model, True)
            tower._joins_gelu = tower._joins_gelu and joins_gelu
            decoder = static_decoder.StaticDecoder(taken, tower, math)
            cache, vision = decoder.begin(given, most), decoder.see(given)
            assert vision.merged is not None
            error = float((vision.merged.float() - theirs).norm() / theirs.norm())
            times = [bench_timing.median_ms(work, 30, device) for work in (
                lambda: decoder.begin(given, most), lambda: decoder.see(given),
                lambda: decoder.read(given, vision, cache, most))]
            emit(part, f'compiled, {name}', token=int(cache.token), vision_error=round(error, 5), **dict(zip(
                ('ttft_ms', 'vision_ms', 'prefill_ms'), (round(t, 3) for t in times), strict=True)))
            if profile:
                guarded(part, 'kernels', lambda: kernels(lambda: decoder.begin(given, most), 22))
            return times[0]

        usual = first_token('as it is')
        emit(part, 'speedup, back to back', times=round(timing.back_to_back_ttft_ms / usual, 3))
        choices: dict[str, tuple[Any, str, Any]] = {
            'vision flash': (vision_tower, 'CUDNN', False), 'prompt flash': (fused_math, 'CUDNN', False),
            'prompt filled to 8': (static_decoder, 'PROMPT_STEP', 8)}
        better: list[tuple[Any, str, Any]] = []
        for name, (module, constant, value) in choices.items():
            kept = getattr(module, constant)
            setattr(module, constant, value)
            with contextlib.suppress(RuntimeError):
                if first_token(name) < usual - 0.03:
                    better.append(choices[name])
            setattr(module, constant, kept)
        gelu = not first_token('gelu apart', joins_gelu=False) < usual - 0.03
        torch.backends.cuda.preferred_blas_library('cublaslt')
        if first_token('cublaslt') >= usual - 0.03:
            torch.backends.cuda.preferred_blas_library('default')
        for module, constant, value in better:
            setattr(module, constant, value)
        best = first_token('the best of these together', joins_gelu=gelu, profile=True)
        emit(part, 'speedup, back to back, best', times=round(timing.back_to_back_ttft_ms / best, 3))
        torch.backends.cuda.preferred_blas_library('default')
    guarded(part, 'tokens of transformers, float32', lambda: dict(zip(
        ('compared', 'equal'), count_matches('narrow', 'cuda', 4, 24), strict=True)))


def run_all(seconds: float, chosen: list[str]) -> int:
    """Run the parts one after the other while time is left."""
    end = time.monotonic() + seconds
    failed = 0
    for part in chosen:
        left = end - time.monotonic()
        if left < LEAST_S:
            emit(part, 'left out: no time')
            continue
        begin = time.monotonic()
        environment = dict(os.environ)
        if part.endswith('-expandable'):
            for name in ('PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_ALLOC_CONF'):
                environment[name] = 'expandable_segments:True'
        child = subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.gpu_goals', '--part', part], env=environment,
            start_new_session=True)
        try:
            code: int | str = child.wait(min(PARTS[part], left))
        except subprocess.TimeoutExpired:
            code = 'out of time'
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        failed += code != 0
        emit(part, 'end', code=code, seconds=round(time.monotonic() - begin, 1))
    return 1 if failed else 0


def main() -> int:
    """Run one part, or all of them in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=225.0, help='for all parts together')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--part', choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part is None:
        return run_all(args.seconds, args.parts)
    if args.part == 'diffusers':
        run_diffusers(args.part)
    elif args.part == 'reasoner':
        run_reasoner(args.part)
    elif args.part == 'two-devices':
        run_two_devices(args.part)
    else:
        run_generator(args.part)
    return 0


if __name__ == '__main__':
    sys.exit(main())
