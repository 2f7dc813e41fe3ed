"""Two questions about the generator on a GPU that its goals leave open.

Run ``python -m benchmarks.generator_questions where down`` in the repository's root. It prints JSON lines as
``gpu_goals`` does (also to ``$OUT/gpu_goals.jsonl``):

- ``where``, with two devices: which step of a layer comes out differently on the second when both are given
  the same. On two H200s the chunk in float8 was not that of one device, and once not in bfloat16 either;
- ``down``: whether the request gains from cuBLASLt in the feed-forward's last product alone. Measured apart
  (``gpu_goals``, ``products``) that product was 2 to 3 % faster with it, the others slower.
"""

import argparse
import gc
import sys
from typing import Any

from .gpu_goals import DEVICE, PROMPT_TOKENS, device_source, emit, measure_alone


def run_where(part: str) -> None:
    """Say which step of a layer comes out differently on the second device, given the first one's input."""
    import torch

    from cosmos3_ros.generator.bench_variants import Variant, droid_observation, make_policy
    from cosmos3_ros.generator.cosmos3_policy import FLOAT8

    if torch.cuda.device_count() < 2:
        emit(part, 'left out', devices=torch.cuda.device_count())
        return
    with torch.no_grad():
        for dtype in ('bfloat16', FLOAT8):
            policies = [
                make_policy('nano-random', device, Variant(f'compiled {dtype}', 'compiled', dtype,
                                                           branches='sequential'), device_source(), None)
                for device in (DEVICE, 'cuda:1')]
            for policy in policies:
                policy.generate(droid_observation(), f'prompt {PROMPT_TOKENS} tokens', seed=0)
            loops = [next(iter(policy.backend._loops.values())) for policy in policies]
            worst = compare_layers(*loops)
            emit(part, f'largest difference of a step, {dtype}', **worst)
            del policies, loops, policy
            gc.collect()
            torch.cuda.empty_cache()


def compare_layers(one: Any, other: Any) -> dict[str, float]:
    """Return the largest difference of each step of a layer between two loops, 0.0 for equal bytes.

    Every step of the second loop is given what the same step of the first was given.
    """
    import torch

    from cosmos3_ros.model.attention_order import cudnn_first
    from cosmos3_ros.model.layer_math import add

    branches, shape = (one._branches[0], other._branches[0]), one._tower.shape
    torch.manual_seed(0)
    hidden = torch.randn(one.pack.generated_tokens, shape.hidden).to(one._tower.device, one._tower.dtype)
    worst = dict.fromkeys(('project', 'place', 'attend', 'finish'), 0.0)

    def steps(index: int) -> Any:
        """Yield each step's name and function of (loop, branch, what the step before returned)."""
        def place(loop: Any, branch: Any, joined: Any, _: Any) -> tuple[Any, ...]:
            queries = loop._kernels.place(
                joined, branch.table, loop._tower.layers[index], shape, branch.text(index),
                branch.room(index))
            return queries, branch.keys, branch.values

        def attend(_: Any, branch: Any, queries: Any, keys: Any, values: Any) -> tuple[Any]:
            branch.keys.copy_(keys)
            branch.values.copy_(values)
            return (branch.attend(queries),)

        yield 'project', lambda loop, _, h: loop._kernels.project([h], loop._tower.layers[index], shape)
        yield 'place', place
        yield 'attend', attend
        yield 'finish', lambda loop, _, mixed: loop._kernels.finish(
            [mixed], [hidden.to(loop._tower.device)], loop._tower.layers[index], shape)

    for index in range(shape.layers):
        given: tuple[Any, ...] = (hidden,)
        for name, work in steps(index):
            results = []
            for loop, branch in zip((one, other), branches, strict=True):
                device = loop._tower.device
                with cudnn_first(device), torch.cuda.device(device if device.type == 'cuda' else -1):
                    results.append(work(loop, branch, *(g.to(device) for g in given)))
            for mine, theirs in zip(*results, strict=True):
                worst[name] = max(worst[name], float((mine.float().cpu() - theirs.float().cpu()).abs().max()))
            given = results[0]
        hidden = add(*given)
    return worst


def run_down(part: str) -> None:
    """Measure the request with one product by cuBLASLt, which alone was 3 % faster at it (``products``)."""
    import torch

    from cosmos3_ros.generator.bench_variants import Variant
    from cosmos3_ros.model import generation_tower, layer_math

    @torch.library.custom_op('cosmos3_benchmarks::multiply_lt', mutates_args=())  # type: ignore[untyped-decorator]
    def multiply_lt(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        torch.backends.cuda.preferred_blas_library('cublaslt')
        product = torch.nn.functional.linear(states, weight)
        torch.backends.cuda.preferred_blas_library('default')
        return product

    @multiply_lt.register_fake  # type: ignore[untyped-decorator]
    def _(states: Any, weight: Any) -> Any:
        return states.new_empty((len(states), len(weight)))

    def feed_forward(states: Any, up: Any, down: Any, shape: Any) -> Any:
        return multiply_lt(layer_math.activate(layer_math.multiply(states, *up), shape), down[0])

    variant = Variant('compiled BF16', 'compiled', 'bfloat16')
    tower: Any = generation_tower
    kept = tower.feed_forward
    for name, chosen in (
            ('as it is', kept), ('down by cuBLASLt', feed_forward), ('as it is, again', kept)):
        tower.feed_forward = chosen
        torch.compiler.reset()
        row = measure_alone(variant, 15)
        emit(part, name, request_ms=round(row.request_ms, 2), deterministic=row.deterministic)


def main() -> int:
    """Ask the questions that were named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('questions', nargs='+', choices=('where', 'down'))
    for question in parser.parse_args().questions:
        {'where': run_where, 'down': run_down}[question](question)
    return 0


if __name__ == '__main__':
    sys.exit(main())
