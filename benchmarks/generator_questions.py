"""Two questions about the generator on a GPU that its goals leave open.

Run ``python -m benchmarks.generator_questions where products`` in the repository's root. It prints JSON lines
as ``gpu_goals`` does (also to ``$OUT/gpu_goals.jsonl``):

- ``where``, with two devices: which step of a layer comes out differently on the second when both are given
  the same. Nothing does since the package has its own kernels (two H200s); with Inductor's, chunks differed;
- ``products``: which library is faster at the products that add to the residual, and whether that is faster
  than a sum of its own, for both branches of guidance one after the other and together.
"""

import argparse
import gc
import sys
from typing import Any

from .gpu_goals import DEVICE, PROMPT_TOKENS, device_source, emit, guarded, kernels


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
    from cosmos3_ros.model.generation_tower import sum_terms

    branches, shape = (one._branches[0], other._branches[0]), one._tower.shape
    torch.manual_seed(0)
    hidden = torch.randn(one.pack.generated_tokens, shape.hidden).to(one._tower.device, one._tower.dtype)
    worst = dict.fromkeys(('project', 'place', 'attend', 'finish'), 0.0)

    def steps(index: int) -> Any:
        """Yield each step's name and function of (loop, branch, what the step before returned)."""
        def place(loop: Any, branch: Any, joined: Any, _: Any) -> tuple[Any, ...]:
            queries = loop._functions.place(
                joined, branch.table, loop._tower.layers[index], shape, branch.text(index),
                branch.room(index))
            return queries, branch.keys, branch.values

        def attend(_: Any, branch: Any, queries: Any, keys: Any, values: Any) -> tuple[Any]:
            branch.keys.copy_(keys)
            branch.values.copy_(values)
            return (branch.attend(queries),)

        yield 'project', lambda loop, _, h: loop._functions.project([h], loop._tower.layers[index], shape)
        yield 'place', place
        yield 'attend', attend
        yield 'finish', lambda loop, _, mixed: loop._functions.finish(
            [mixed], [hidden.to(loop._tower.device, copy=True)], loop._tower.layers[index], shape)

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
        hidden = sum_terms(given)
    return worst


def run_products(part: str) -> None:
    """Measure the request with the products that add to the residual by each of the two libraries."""
    import torch

    from cosmos3_ros.generator import droid_joint
    from cosmos3_ros.generator.bench import measure
    from cosmos3_ros.generator.bench_variants import Variant, droid_observation, make_policy
    from cosmos3_ros.generator.guidance import Guidance
    from cosmos3_ros.generator.sampler import schedule
    from cosmos3_ros.model import device_layers

    def by_lt(states: Any, factor: Any, weight: Any) -> None:
        torch.backends.cuda.preferred_blas_library('cublaslt')
        usual(states, factor, weight)
        torch.backends.cuda.preferred_blas_library('default')

    def down_by_lt(states: Any, factor: Any, weight: Any) -> None:
        (by_lt if factor.shape[1] > states.shape[1] else usual)(states, factor, weight)

    def apart(states: Any, factor: Any, weight: Any) -> None:
        states += torch.nn.functional.linear(factor, weight)

    module: Any = device_layers
    usual = module.add_product
    variant = Variant('compiled BF16', 'compiled', 'bfloat16')
    with torch.no_grad():
        policy = make_policy('nano-random', DEVICE, variant, device_source(), None)
        plan = schedule(droid_joint.STEPS, droid_joint.SHIFT)
        for batched in (False, True, False):
            policy.resample(plan, Guidance(droid_joint.GUIDANCE), batched=batched)
            for name, chosen in (('as it is', usual), ('down by cuBLASLt', down_by_lt),
                                 ('both by cuBLASLt', by_lt), ('the sum apart', apart)):
                module.add_product = chosen
                policy.backend._drop_loops()
                row = measure(policy, variant, DEVICE, PROMPT_TOKENS, 6, anew=False)
                emit(part, name, batched=batched, request_ms=round(row.request_ms, 2),
                     stages_ms=row.stages_ms, deterministic=row.deterministic)
                guarded(part, 'kernels', lambda: kernels(lambda: policy.generate(
                    droid_observation(), f'prompt {PROMPT_TOKENS} tokens', seed=0), 8))
        module.add_product = usual


def main() -> int:
    """Ask the questions that were named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('questions', nargs='+', choices=('where', 'products'))
    for question in parser.parse_args().questions:
        {'where': run_where, 'products': run_products}[question](question)
    return 0


if __name__ == '__main__':
    sys.exit(main())
