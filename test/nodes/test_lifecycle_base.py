"""The base class: failing set-ups leave nothing behind, and exceptions in callbacks kill nobody."""

from diagnostic_msgs.msg import DiagnosticArray
import pytest
from ros_graph import wait_for
from std_msgs.msg import String
from std_srvs.srv import Trigger

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.nodes.base import LifecycleBase, SetupError, guarded, guarded_service, guarded_when_active
from cosmos3_ros.nodes.diagnostics import Counters, Level, Logs, Report, Window, values_of


class Node(LifecycleBase):
    NAME = 'based'
    fail_in = ''
    calls: list[str]

    def _step(self, name: str) -> None:
        self.__dict__.setdefault('calls', []).append(name)
        if self.fail_in == name:
            raise SetupError(f'{name} cannot be done; change the parameter {name}')

    def setup(self) -> None:
        self.echo = self.create_publisher(String, 'echo', 10)
        self.create_subscription(String, 'words', self._on_word, 10, callback_group=self.data_group)
        self.create_subscription(String, 'active_words', self._on_active_word, 10)
        self.create_service(Trigger, '~/fail', self._serve_fail, callback_group=self.service_group)
        self._step('setup')

    def warm_up(self) -> None:
        self._step('warm_up')

    def start(self) -> None:
        self.create_timer(0.01, lambda: self.counters.add('beats'))
        self._step('start')

    def stop(self) -> None:
        self._step('stop')

    def teardown(self) -> None:
        self._step('teardown')

    def diagnose(self, report: Report) -> None:
        report.put(answer=42)

    @guarded
    def _on_word(self, message: String) -> None:
        if message.data == 'bad':
            raise ContractError('words: bad arrived')
        if message.data == 'bug':
            raise ZeroDivisionError('bug')
        self.echo.publish(message)

    @guarded_when_active
    def _on_active_word(self, message: String) -> None:
        self.counters.add('active_words')

    @guarded_service
    def _serve_fail(self, request: object, response: object) -> object:
        raise SetupError('not today')


def entities(node: Node) -> dict[str, int]:
    kinds = ('timers', 'subscriptions', 'services', 'clients', 'publishers')
    return {kind: len(list(getattr(node, kind))) for kind in kinds}


def test_the_life_of_a_node(graph):
    node = graph.add(Node)
    bare = entities(node)
    node.trigger_configure()
    node.trigger_activate()
    wait_for(lambda: node.counters['beats'] > 2, 'beats')
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert node.calls == ['setup', 'warm_up', 'start', 'stop', 'teardown']
    assert entities(node) == bare
    node.trigger_configure()
    assert node.state_label == 'inactive'
    node.close()
    assert node.state_label == 'finalized' and entities(node) == bare
    node.close()


@pytest.mark.parametrize('step', ['setup', 'warm_up'])
def test_a_failing_configure_releases_everything_and_can_be_repeated(graph, step, capfd):
    node = graph.add(Node)
    bare = entities(node)
    node.fail_in = step
    node.trigger_configure()
    assert node.state_label == 'unconfigured'
    assert node.failure == f'{step} cannot be done; change the parameter {step}'
    assert entities(node) == bare and node.calls[-1] == 'teardown'
    errors = [line for line in capfd.readouterr().err.splitlines() if 'ERROR' in line]
    assert len(errors) == 1 and 'cannot configure' in errors[0]
    node.fail_in = ''
    node.trigger_configure()
    assert node.state_label == 'inactive' and node.failure == ''


def test_a_failing_activate_stays_inactive(graph):
    node = graph.add(Node)
    node.trigger_configure()
    configured = entities(node)
    node.fail_in = 'start'
    node.trigger_activate()
    assert node.state_label == 'inactive' and not node.active
    assert entities(node) == configured and node.calls[-1] == 'stop'


def test_failures_in_stop_and_teardown_do_not_stop_the_end(graph):
    node = graph.add(Node)
    bare = entities(node)
    node.trigger_configure()
    node.trigger_activate()
    node.fail_in = 'stop'
    node.close()
    assert node.state_label == 'finalized' and entities(node) == bare


def test_bad_input_is_counted_and_the_next_message_is_served(graph):
    node = graph.add(Node)
    node.trigger_configure()
    echoes = graph.collect(String, 'echo')
    wait_for(lambda: node.echo.get_subscription_count() > 0, 'the echo')
    words = graph.publisher(String, 'words')
    for word in ('bad', 'bug', 'bad', 'good'):
        words.publish(String(data=word))
    wait_for(lambda: echoes, 'the echo of the good word')
    assert [echo.data for echo in echoes] == ['good']
    assert (node.counters['rejected'], node.counters['exceptions']) == (2, 1)
    answer = graph.call(Trigger, '/based/fail')
    assert not answer.success and answer.message == 'not today'


def test_inactive_nodes_pass_over_what_needs_an_active_one(graph):
    node = graph.add(Node)
    node.trigger_configure()
    publisher = graph.publisher(String, 'active_words')
    words = graph.publisher(String, 'words')
    echoes = graph.collect(String, 'echo')
    wait_for(lambda: node.echo.get_subscription_count() > 0, 'the echo')
    publisher.publish(String(data='early'))
    words.publish(String(data='sentinel'))
    wait_for(lambda: echoes, 'the sentinel')
    node.trigger_activate()
    publisher.publish(String(data='late'))
    wait_for(lambda: node.counters['active_words'] == 1, 'the word after activation')


def test_diagnostics_tell_state_failure_and_counters(graph):
    arrays = graph.collect(DiagnosticArray, '/diagnostics')
    node = graph.add(Node)
    node.counters.add('things', 3)

    def said(text: str, level: int) -> bool:
        return any(s.level == bytes([level]) and text in s.message for a in arrays for s in a.status)

    wait_for(lambda: said('unconfigured', Level.WARN), 'the unconfigured state')
    node.fail_in = 'setup'
    node.trigger_configure()
    wait_for(lambda: said('setup cannot be done', Level.ERROR), 'the failure')
    node.fail_in = ''
    node.trigger_configure()
    wait_for(lambda: said('running', Level.OK), 'health')
    values = values_of(arrays[-1], 'based')
    assert (values['state'], values['answer'], values['things']) == ('inactive', '42', '3')


def test_autostart_configures_and_activates(graph):
    node = graph.add(Node, autostart=True)
    wait_for(lambda: node.active and node.state_label == 'active', 'active')


class Lines:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def warning(self, text: str) -> None:
        self.lines.append(('warning', text))

    def error(self, text: str) -> None:
        self.lines.append(('error', text))

    def info(self, text: str) -> None:
        self.lines.append(('info', text))


def test_logs_are_throttled_by_key_and_count_what_they_held_back(monkeypatch):
    now = [0]
    monkeypatch.setattr('cosmos3_ros.nodes.diagnostics.time.monotonic_ns', lambda: now[0])
    lines = Lines()
    logs = Logs(lines, period_s=1.0)
    for _ in range(5):
        logs.warn('a', 'A')
    logs.error('b', 'B')
    now[0] = 1_000_000_000
    logs.warn('a', 'A')
    assert lines.lines == [('warning', 'A'), ('error', 'B'), ('warning', 'A (4 more like this)')]


def test_edges_are_logged_once_each_way():
    lines = Lines()
    logs = Logs(lines)
    for bad in (False, True, True, False, False, True):
        logs.edge('camera', bad, 'gone', 'back')
    assert lines.lines == [('warning', 'gone'), ('info', 'back'), ('warning', 'gone')]
    assert logs.bad_edges() == ('camera',)


def test_counters_windows_and_reports():
    counters, window, report = Counters(), Window(3), Report()
    assert counters.add('x') == 1 and counters['y'] == 0
    for value in (9.0, 1.0, 2.0, 3.0):
        window.add(value)
    assert window.summary('t') == {'t_p50': 2.0, 't_p99': pytest.approx(2.98), 't_max': 3.0}
    assert Window().summary('t') == {}
    report.add(Level.ERROR, 'worse')
    report.add(Level.WARN, 'bad')
    assert report.level is Level.ERROR and report.messages == ['worse', 'bad']
