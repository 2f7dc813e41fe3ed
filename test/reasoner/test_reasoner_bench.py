"""``cosmos3 bench reasoner``: pauses between clips, and a whole run at the smallest shape."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

pytest.importorskip('torch', reason='the extra model is not installed')

from cosmos3_ros.reasoner import bench, bench_timing
from cosmos3_ros.reasoner.device_graph import inference_on


class Clock:
    """A GPU's events and pauses on one clock, in seconds."""

    def __init__(self):
        self.now_s, self.pauses = 0.0, []

    def sleep(self, pause_s):
        self.pauses.append(pause_s)
        self.now_s += pause_s

    def event(self, enable_timing):
        assert enable_timing
        event = SimpleNamespace(at_s=None, synchronize=lambda: None)
        event.record = lambda: setattr(event, 'at_s', self.now_s)
        event.elapsed_time = lambda end: (end.at_s - event.at_s) * 1e3
        return event


def test_a_pause_comes_before_each_timed_run_and_is_not_timed(monkeypatch):
    clock, runs = Clock(), iter([9.0, 9.0, 9.0, 0.03, 0.01, 0.02])
    monkeypatch.setattr(bench_timing, 'time', SimpleNamespace(sleep=clock.sleep))
    torch = SimpleNamespace(cuda=SimpleNamespace(Event=clock.event, synchronize=lambda: None))
    monkeypatch.setattr(bench_timing, 'require', lambda *_: torch)

    def work():
        clock.now_s += next(runs)

    got = bench_timing.median_ms(work, 3, SimpleNamespace(type='cuda'), pause_s=0.25)
    assert got == pytest.approx(20.0) and clock.pauses == [0.25] * 3


@pytest.mark.parametrize('name, entered', [('cuda:1', ['cuda:1']), ('cpu', [])])
def test_the_device_is_the_current_one_while_it_computes(monkeypatch, name, entered):
    import torch

    seen = []

    @contextmanager
    def current(device):
        seen.append(str(device))
        yield
        seen.append('left')

    monkeypatch.setattr(torch.cuda, 'device', current)
    with inference_on(torch.device(name)):
        assert seen == entered and torch.is_inference_mode_enabled()
    assert seen == [*entered, *['left'] * len(entered)] and not torch.is_inference_mode_enabled()


def test_a_whole_run(micro_checkpoint):
    report = bench.run_bench(str(micro_checkpoint), repeats=1, prompts=1, tokens=2)
    assert set(report['rows']) == {
        'transformers', 'compiled', 'compiled evs0.3', 'compiled fp8', 'compiled fp8 evs0.3'}
    assert report['tokens_identical'] and report['context_max_diff'] == 0.0 and report['pause_s'] == 0.0
    assert report['speedup_vs_transformers'] == report['speedup_back_to_back'] > 0.0
    for row in report['rows'].values():
        assert row['ttft_ms'] == row['back_to_back_ttft_ms'] > 0.0
