"""How fast, how large and how repeatable is a policy's request?

A request is what a node makes: pictures in host memory in, a chunk in host memory out. The yardstick is
the backend ``diffusers`` with the same weights, steps and guidance.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
import gc
from hashlib import sha256
import logging
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from cosmos3_ros.contracts import ActionChunk
from cosmos3_ros.model.nano_weights import RandomNano
from cosmos3_ros.resources import require

from .bench_variants import (
    NANO_RANDOM,
    Variant,
    droid_observation,
    droid_variants,
    instruction_of,
    make_policy,
)
from .checkpoint_policy import Cosmos3Policy
from .cosmos3_policy import FLOAT8
from .policy import PolicyError

torch = require('torch', 'model')
logger = logging.getLogger(__name__)

GIGA = 1e9
Result = TypeVar('Result')


@dataclass(slots=True)
class Measurement:
    """What one variant gave, times in milliseconds, sizes in gigabytes (1e9 bytes)."""

    variant: Variant
    prompt_tokens: int
    request_ms: float
    request_p99_ms: float
    stages_ms: dict[str, float]
    first_request_s: float
    context_s: float
    resident_gb: float
    peak_gb: float
    deterministic: bool
    chunk: ActionChunk = field(repr=False)


def run_bench(
    checkpoint: str, device: str, *, prompt_tokens: tuple[int, ...] = (128,), repeats: int = 20,
    variants: tuple[Variant, ...] | None = None, report: Callable[[Measurement], None] | None = None,
    apart: bool | None = None,
) -> dict[str, Any]:
    """Measure all variants and return the summary that ``cosmos3 bench generator`` prints.

    :param checkpoint: As for :func:`create_cosmos3`, or ``nano-random``: random weights at the exact
        shape of Cosmos3-Nano, made on the device.
    :param prompt_tokens: Lengths of the prompt; of a real checkpoint, words are added until it has them.
    :param repeats: Timed requests per row, after two that are not.
    :param report: Called with each row as it is there.
    :param apart: Each precision and prompt gets a process of its own, so that memory is what a node with
        this policy holds, and nothing of the one measured before; None: on CUDA. Variants of one precision
        share theirs: of the second on, peak and resident memory count what the ones before left.
    :raises PolicyError: No request can be made.
    """
    if repeats < 3:
        raise PolicyError(f'repeats: {repeats} arrived, at least 3 are needed')
    chosen = variants or droid_variants(device)
    apart = device.startswith('cuda') if apart is None else apart
    rows: list[Measurement] = []
    context_difference = 0.0
    for group in _grouped(chosen):
        for tokens in [(count,) for count in prompt_tokens] if apart else [prompt_tokens]:
            job = partial(_measure_group, checkpoint, device, group, tokens, repeats)
            found, difference = in_own_process(job) if apart else job()
            context_difference = max(context_difference, difference)
            rows += found
            if report is not None:
                for row in found:
                    report(row)
    return {**_summary(rows), 'context_max_diff': context_difference}


def in_own_process(work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns in a new process: nothing of it stays on the device.

    :param work: Can be pickled, as its result and its exceptions.
    :raises concurrent.futures.process.BrokenProcessPool: The process was killed.
    """
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(work).result()


def _measure_group(
    checkpoint: str, device: str, group: list[Variant], prompt_tokens: tuple[int, ...], repeats: int,
) -> tuple[list[Measurement], float]:
    """Return the rows of variants that share weights, and the largest difference between two contexts."""
    gc.collect()
    _reset_memory(device)
    source = RandomNano(device) if checkpoint == NANO_RANDOM else None
    policy: Any = None
    rows = []
    for variant in group:
        policy = make_policy(checkpoint, device, variant, source, policy)
        rows += [measure(policy, variant, device, tokens, repeats, anew=variant is group[0])
                 for tokens in prompt_tokens]
    differences = [
        context_repeats(policy, tokens) for tokens in prompt_tokens if group[0].backend == 'compiled']
    return rows, max(differences, default=0.0)


def _grouped(variants: tuple[Variant, ...]) -> list[list[Variant]]:
    """Variants that share resident weights stand together: those are loaded once."""
    groups: dict[tuple[str, str], list[Variant]] = {}
    for variant in variants:
        groups.setdefault((variant.backend, variant.dtype), []).append(variant)
    return list(groups.values())


def measure(
    policy: Cosmos3Policy, variant: Variant, device: str, tokens: int, repeats: int, *,
    anew: bool,
) -> Measurement:
    """Time requests with a prompt of ``tokens`` tokens.

    :param anew: Also forget everything that is kept for an instruction, and compare.
    """
    instruction = instruction_of(policy, tokens)
    observation = droid_observation()
    started = perf_counter()
    chunk = policy.generate(observation, instruction, seed=0)
    first_s = perf_counter() - started
    policy.generate(observation, instruction, seed=0)
    times, stages = [], []
    same = True
    for _ in range(repeats):
        started = perf_counter()
        again = policy.generate(observation, instruction, seed=0)
        times.append((perf_counter() - started) * 1e3)
        stages.append(dict(policy.stages_ms))
        same &= same_chunk(chunk, again)
    context_s = 0.0
    if variant.backend == 'compiled' and anew:
        # Forgotten and computed anew: another graph, another context, the same bytes.
        backend = policy.backend
        backend.forget()
        same &= same_chunk(chunk, policy.generate(observation, instruction, seed=0))
        context_s = backend.context_s
    resident, peak = memory(device)
    return Measurement(
        variant=variant, prompt_tokens=len(policy.tokens_of(instruction)), request_ms=median(times),
        request_p99_ms=float(np.percentile(times, 99)),
        stages_ms={name: round(median(s[name] for s in stages), 3) for name in stages[0]},
        first_request_s=first_s, context_s=context_s, resident_gb=resident, peak_gb=peak,
        deterministic=same, chunk=chunk)


def same_chunk(one: ActionChunk, other: ActionChunk) -> bool:
    """Whether two chunks are the same bytes."""
    return (one.positions.tobytes() == other.positions.tobytes()
            and one.gripper.tobytes() == other.gripper.tobytes())


def context_repeats(policy: Cosmos3Policy, tokens: int) -> float:
    """Return the largest difference between a prompt's cached context and the same one computed again."""
    backend = policy.backend
    ids = policy.tokens_of(instruction_of(policy, tokens))
    kept = backend.contexts.get(ids)
    again = backend.compute_context(ids)
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(
        (*kept.keys, *kept.values), (*again.keys, *again.values), strict=True))


def _reset_memory(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.init()  # a new process has no statistics to reset
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _used_gb(device: str) -> float:
    free, total = torch.cuda.mem_get_info(device)
    return float(total - free) / GIGA


def memory(device: str) -> tuple[float, float]:
    """Return resident and peak memory in GB: on CUDA of the whole process, its context included."""
    if not device.startswith('cuda'):
        process = require('psutil', 'model').Process()
        resident = process.memory_info().rss / GIGA
        peak = require('resource', 'model').getrusage(0).ru_maxrss * 1024 / GIGA
        return resident, peak
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    outside = _used_gb(device) - torch.cuda.memory_reserved(device) / GIGA
    return _used_gb(device), torch.cuda.max_memory_reserved(device) / GIGA + outside


def _summary(rows: list[Measurement]) -> dict[str, Any]:
    """Compare each row with the yardstick of the same prompt; the first row is the headline."""
    yard = {r.prompt_tokens: r for r in rows if r.variant.backend == 'diffusers'}
    first = rows[0]
    base = {(r.variant.dtype, r.variant.steps, r.prompt_tokens): r for r in rows
            if r.variant.backend == 'compiled' and r.variant.interval is None}
    table = []
    for row in rows:
        reference = yard.get(row.prompt_tokens)
        exact = base.get(('bfloat16', row.variant.steps, row.prompt_tokens))
        entry: dict[str, Any] = {
            'variant': row.variant.name, 'prompt_tokens': row.prompt_tokens,
            'request_ms': round(row.request_ms, 2), 'request_p99_ms': round(row.request_p99_ms, 2),
            'stages_ms': row.stages_ms, 'first_request_s': round(row.first_request_s, 2),
            'context_s': round(row.context_s, 3), 'resident_gb': round(row.resident_gb, 2),
            'peak_gb': round(row.peak_gb, 2), 'deterministic': row.deterministic,
            'chunk_sha256': sha256(
                row.chunk.positions.tobytes() + row.chunk.gripper.tobytes()).hexdigest()[:16]}
        if reference is not None:
            entry['speedup'] = round(reference.request_ms / row.request_ms, 3)
            if row.variant.interval is None and row.variant.steps == reference.variant.steps:
                entry['max_diff_rad'] = float(
                    np.abs(row.chunk.positions - reference.chunk.positions).max())
        if row.variant.dtype == FLOAT8 and exact is not None and row.variant.interval is None:
            drift = np.abs(row.chunk.positions - exact.chunk.positions)
            entry['drift_rms_rad'] = [round(float(x), 5) for x in np.sqrt((drift ** 2).mean(axis=0))]
            entry['drift_max_rad'] = [round(float(x), 5) for x in drift.max(axis=0)]
        table.append(entry)
    head = table[0]
    return {
        'request_ms': head['request_ms'], 'speedup_vs_diffusers': head.get('speedup'),
        'chunk_max_diff_rad': head.get('max_diff_rad'),
        'deterministic': all(r.deterministic for r in rows),
        'peak_memory_gb': round(first.peak_gb, 2), 'rows': table}


