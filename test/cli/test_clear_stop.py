"""Between two episodes a latched stop is reset, once the controller says that the arm stands."""

from types import SimpleNamespace

import pytest

from cosmos3_ros.cli import episodes
from cosmos3_ros.cli.console import CommandError
from cosmos3_ros.cli.episodes import MODE_TIMEOUT_S, EpisodeRunner


class Graph:
    """A controller whose arm stands from some time on, seen by a runner whose clock is this one."""

    def __init__(self, monkeypatch, stands_s, mode='STOPPING', then='STOPPED'):
        self.now_s, self.stands_s, self.then, self.resets = 0.0, stands_s, then, 0
        self.monitor = SimpleNamespace(mode=mode)
        monkeypatch.setattr(episodes.time, 'monotonic', lambda: self.now_s)
        self.runner = object.__new__(EpisodeRunner)
        self.runner._session, self.runner._monitor, self.runner._alive = self, self.monitor, lambda: None
        self.runner._services = {'reset': 'controller/reset'}

    def wait_for(self, condition, timeout_s, alive):
        if not condition():
            self.now_s += timeout_s
        if self.monitor.mode == 'STOPPING' and self.now_s >= self.stands_s:
            self.monitor.mode = self.then
        return condition()

    def call(self, client, request, timeout_s, alive):
        assert client == 'controller/reset'
        self.resets += 1
        if self.monitor.mode != 'STOPPED':
            return SimpleNamespace(success=False, message=f'reset: the mode is {self.monitor.mode}')
        self.monitor.mode = 'INACTIVE'
        return SimpleNamespace(success=True, message='')


def test_an_arm_that_still_brakes_is_waited_for(monkeypatch):
    graph = Graph(monkeypatch, stands_s=2.6)
    graph.runner._clear_stop()
    assert graph.monitor.mode == 'INACTIVE' and graph.resets > 1 and graph.now_s < MODE_TIMEOUT_S


def test_an_arm_that_never_stands_ends_the_command_with_the_controllers_reason(monkeypatch):
    graph = Graph(monkeypatch, stands_s=1e9)
    with pytest.raises(CommandError, match='cannot be reset: reset: the mode is STOPPING'):
        graph.runner._clear_stop()
    assert MODE_TIMEOUT_S < graph.now_s < MODE_TIMEOUT_S + 2.0


@pytest.mark.parametrize(('mode', 'then', 'most'), [('INACTIVE', '', 0), ('STOPPING', 'INACTIVE', 1)])
def test_what_is_not_latched_is_not_reset(monkeypatch, mode, then, most):
    graph = Graph(monkeypatch, stands_s=0.5, mode=mode, then=then)
    graph.runner._clear_stop()
    assert graph.monitor.mode == 'INACTIVE' and graph.resets <= most
