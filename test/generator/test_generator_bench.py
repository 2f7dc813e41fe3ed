"""The benchmark of a policy's requests, in one process and each precision and prompt in its own."""

import os

import pytest

from cosmos3_ros.generator import bench
from cosmos3_ros.generator.bench import in_own_process, run_bench
from cosmos3_ros.generator.bench_variants import Variant
from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.model.checkpoint import CheckpointError

VARIANTS = (
    Variant('fast', 'compiled', 'float32'), Variant('fast, 2 steps', 'compiled', 'float32', steps=2),
    Variant('yardstick', 'diffusers', 'float32'))


def test_work_in_a_process_of_its_own():
    assert in_own_process(os.getppid) == os.getpid()


def test_rows_are_those_of_each_variant_and_prompt(policy_checkpoint):
    seen = []
    found = run_bench(str(policy_checkpoint), 'cpu', prompt_tokens=(12, 300), repeats=3, variants=VARIANTS,
                      report=seen.append)
    rows = {(row['variant'], row['prompt_tokens']): row for row in found['rows']}
    lengths = sorted({tokens for _, tokens in rows})
    assert len(lengths) == 2 and lengths[1] >= 300 and len(seen) == len(rows) == 6
    assert {name for name, _ in rows} == {variant.name for variant in VARIANTS}
    for tokens in lengths:
        # Of weights that were never trained a chunk is amplified noise; the parity tests hold the backends.
        assert rows['fast', tokens]['max_diff_rad'] < 1e-4 and rows['fast', tokens]['speedup'] > 0.0
        assert 'max_diff_rad' not in rows['fast, 2 steps', tokens]
        assert rows['fast', tokens]['chunk_sha256'] != rows['fast, 2 steps', tokens]['chunk_sha256']
    assert found['deterministic'] and found['context_max_diff'] == 0.0
    assert found['request_ms'] == rows['fast', lengths[0]]['request_ms']


def test_each_prompt_apart(policy_checkpoint):
    seen = []
    found = run_bench(str(policy_checkpoint), 'cpu', prompt_tokens=(12, 300), repeats=3,
                      variants=VARIANTS[:1], report=seen.append, apart=True)
    assert [row['prompt_tokens'] for row in found['rows']] == [row.prompt_tokens for row in seen]
    assert len({row['chunk_sha256'] for row in found['rows']}) == 2 and found['deterministic']


@pytest.mark.parametrize(('device', 'apart', 'processes'), [
    ('cpu', None, 0), ('cpu', False, 0), ('cpu', True, 4), ('cuda:0', None, 4)])
def test_on_cuda_each_precision_and_prompt_has_its_process(monkeypatch, device, apart, processes):
    jobs = []
    monkeypatch.setattr(bench, '_measure_group', lambda *given: jobs.append(given) or ([], 0.0))
    monkeypatch.setattr(bench, '_summary', lambda rows: {})
    began = []
    monkeypatch.setattr(bench, 'in_own_process', lambda work: began.append(work) or work())
    run_bench('any', device, prompt_tokens=(12, 300), variants=VARIANTS, apart=apart)
    assert len(began) == processes
    assert [tokens for *_, tokens, _ in jobs] == ([(12,), (300,)] * 2 if processes else [(12, 300)] * 2)


def test_what_is_wrong_is_said_from_the_other_process_too(tmp_path):
    with pytest.raises(PolicyError, match='repeats: 2 arrived'):
        run_bench(str(tmp_path), 'cpu', repeats=2)
    for apart in (False, True):
        with pytest.raises(CheckpointError, match='nowhere'):
            run_bench(str(tmp_path / 'nowhere'), 'cpu', variants=VARIANTS, apart=apart)
