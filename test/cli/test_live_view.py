"""What the live view shows, and what the monitor counts, from messages alone."""

from types import SimpleNamespace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import pytest
from rich.console import Console

from cosmos3_ros import msg
from cosmos3_ros.cli.live_view import render
from cosmos3_ros.cli.monitor import MODES, REASONS, Monitor


class Topics:
    """Stands in for a node: keeps the callbacks."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Any] = {}

    def create_subscription(self, _: Any, topic: str, callback: Any, __: Any) -> None:
        self.callbacks[topic] = callback


@pytest.fixture
def graph() -> SimpleNamespace:
    topics = Topics()
    return SimpleNamespace(monitor=Monitor(topics), publish=lambda topic, m: topics.callbacks[topic](m))


def diagnostics(name: str, level: int = 0, message: str = 'running', **values: str) -> DiagnosticArray:
    pairs = [KeyValue(key=key.replace('__', '.'), value=value) for key, value in values.items()]
    return DiagnosticArray(status=[
        DiagnosticStatus(name=name, level=bytes([level]), message=message, values=pairs)])


def text_of(monitor: Monitor) -> str:
    console = Console(width=160, record=True, file=open('/dev/null', 'w'))  # noqa: PTH123, SIM115
    console.print(render(monitor, 'pick_place'))
    return console.export_text()


def test_view_before_anything_arrived(graph: SimpleNamespace) -> None:
    assert 'no image yet' in text_of(graph.monitor)


def test_names_of_modes_and_reasons_are_those_of_the_message() -> None:
    for number, name in enumerate(MODES):
        assert getattr(msg.ControllerState, f'MODE_{name}') == number
    for number, name in enumerate(REASONS):
        assert getattr(msg.ControllerState, f'REASON_{name}') == number


def test_view_shows_states_reasons_and_scene(graph: SimpleNamespace) -> None:
    graph.publish('/diagnostics', diagnostics('perception', 1, 'camera wrist: silent', state='active'))
    graph.publish('/diagnostics', diagnostics('robot1/controller', rate_hz='499.7', state='active'))
    graph.publish('controller_state', msg.ControllerState(
        mode=msg.ControllerState.MODE_STOPPED, stop_reason=msg.ControllerState.REASON_TRACKING_ERROR,
        stop_detail='0.2 rad', active_limits=['panda_joint4:velocity'], chunks_accepted=7))
    graph.publish('scene', msg.SceneReport(caption='a red cube on a table', trained=False))
    graph.publish('simulation_state', msg.SimulationState(instruction='push the red cube', success=True))
    text = text_of(graph.monitor)
    for part in ('camera wrist: silent', 'TRACKING_ERROR: 0.2 rad', '500 Hz', '7 chunks accepted',
                 'panda_joint4:velocity', 'a red cube on a table', 'untrained', 'push the red cube: success'):
        assert part in text, text


def test_one_stop_is_counted_once(graph: SimpleNamespace) -> None:
    state = msg.ControllerState
    for mode, reason in ((state.MODE_RUNNING, 0), (state.MODE_STOPPING, 2), (state.MODE_STOPPING, 2),
                         (state.MODE_STOPPED, 2), (state.MODE_INACTIVE, 0), (state.MODE_RUNNING, 0),
                         (state.MODE_STOPPED, 3)):
        graph.publish('controller_state', state(mode=mode, stop_reason=reason))
    assert [stop.reason for stop in graph.monitor.stops] == ['STALE_JOINT_STATE', 'STALE_CHUNK']


def test_disarming_is_no_stop(graph: SimpleNamespace) -> None:
    state = msg.ControllerState
    graph.publish('controller_state', state(mode=state.MODE_STOPPING, stop_reason=0))
    assert graph.monitor.stops == []


def test_images_are_counted_per_camera(graph: SimpleNamespace) -> None:
    graph.publish('/diagnostics', diagnostics(
        'perception', images_received__wrist='30', images_received__exterior_1='29'))
    assert graph.monitor.images_received('perception') == {'wrist': 30, 'exterior_1': 29}
    assert graph.monitor.images_received('generator') == {}
