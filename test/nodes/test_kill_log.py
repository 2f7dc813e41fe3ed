"""A campaign of kills goes on where it ended, and a crash costs no verdict that was written."""

from pathlib import Path
import sys

from hypothesis import given
from hypothesis import strategies as st
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'benchmarks'))
import kill_log

KINDS = ('generator', 'perception', 'controller')
PASSED = {
    'delay_s': 1.0, 'commands': 10, 'speed_rad_s': 0.2, 'rest_s': 0.4, 'reason': 'STALE_CHUNK',
    'reason_s': 0.5, 'disturbed': '', 'violations': {}, 'faults': []}


def line(task, **change):
    return {'index': task.index, 'struck': task.struck, 'seed': task.seed, **PASSED, **change}


@given(st.integers(1, 60), st.integers(0, 1000))
def test_the_same_campaign_has_the_same_tasks_and_a_longer_one_begins_with_them(runs, seed):
    tasks = kill_log.plan_tasks(runs, seed, KINDS)
    assert tasks == kill_log.plan_tasks(runs + 7, seed, KINDS)[:runs]
    assert [task.struck for task in tasks[:4]] == [*KINDS, KINDS[0]][:runs]
    low, high = kill_log.DELAYS_S
    assert all(low <= task.delay_s <= high for task in tasks)


@given(st.lists(st.sampled_from(['', 'passed', 'failed', 'disturbed', 'given up']), min_size=1, max_size=20))
def test_what_has_a_verdict_is_not_done_again(found):
    tasks, lines = kill_log.plan_tasks(len(found), 1, KINDS), []
    for task, what in zip(tasks, found, strict=True):
        if what:
            change = {'faults': ['x']} if what == 'failed' else {}
            lines += [line(task, disturbed='stalled')] * {'disturbed': 2, 'given up': 3}.get(what, 0)
            lines += [line(task, **change)] * (what in ('passed', 'failed'))
    left = kill_log.find_open(tasks, lines, attempts=3)
    assert [task.index for task in left] == [
        i for i, what in enumerate(found) if what in ('', 'disturbed')]
    result = kill_log.sum_up(lines)
    assert result['judged'] == sum(what in ('passed', 'failed') for what in found)
    assert result['passed'] == found.count('passed') and len(result['failed']) == found.count('failed')
    assert result['commands_checked'] == 10 * len(lines)


def test_a_line_that_was_cut_short_is_a_run_to_be_done_again(tmp_path):
    path, (first, second, third) = tmp_path / 'log.jsonl', kill_log.plan_tasks(3, 1, KINDS)
    assert kill_log.read(path) == []
    for task in (first, second):
        verdict = {'struck': task.struck, 'seed': task.seed, **PASSED}
        kill_log.append(path, task, verdict, {'revision': 'abc1234'})
    path.write_text(path.read_text()[:-40])
    lines = kill_log.read(path)
    assert [found['index'] for found in lines] == [0] and lines[0]['revision'] == 'abc1234'
    assert kill_log.find_open((first, second, third), lines, attempts=3) == [second, third]
    kill_log.append(path, third, {'struck': third.struck, 'seed': third.seed, **PASSED}, {})
    assert [found['index'] for found in kill_log.read(path)] == [0, 2]


@pytest.mark.parametrize('kind', KINDS)
def test_another_seed_or_kind_in_the_same_log_counts_for_nothing(kind):
    tasks = kill_log.plan_tasks(6, 1, KINDS)
    others = [line(task) for task in kill_log.plan_tasks(6, 100, KINDS) if task.struck == kind]
    assert kill_log.find_open(tasks, others, attempts=3) == tasks
