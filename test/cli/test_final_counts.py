"""Counts are final once every node has repeated itself; a failed run says why."""

from types import SimpleNamespace

from cosmos3_ros.cli.demo import _faults
from cosmos3_ros.cli.final_counts import FinalCounts


class FakeMonitor:
    """Reports that a test puts there."""

    def __init__(self):
        self.reports, self.counts = {}, {}

    def report(self, node, arrived_s, count):
        self.reports[node] = SimpleNamespace(arrived_s=arrived_s)
        self.counts[node] = {'wrist': count}

    def images_received(self, node):
        return self.counts[node]


def test_counts_are_final_when_every_node_repeats_itself():
    monitor = FakeMonitor()
    final = FinalCounts(monitor, ('perception', 'generator'), since_s=10.0)
    assert not final()
    monitor.report('perception', 9.0, 80)
    monitor.report('generator', 9.5, 100)
    assert not final()  # from before the last image
    monitor.report('generator', 10.5, 100)
    assert not final() and not final()  # the same report twice is one report
    monitor.report('generator', 11.5, 100)
    monitor.report('perception', 12.0, 90)
    assert not final()
    monitor.report('perception', 13.0, 100)  # it had no processor until now
    assert not final()
    monitor.report('perception', 14.0, 100)
    assert final()


def test_a_failed_run_says_why():
    good = {'limit_violations': 0, 'violations': {}, 'images_published': 435, 'images_received': 435}
    assert _faults(good) == []
    lost, = _faults({**good, 'images_received': 361})
    assert '361 of 435' in lost
    bad, = _faults({**good, 'limit_violations': 3, 'violations': {'velocity': 3}})
    assert '3 samples' in bad and 'velocity: 3' in bad
