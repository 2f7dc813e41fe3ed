"""The controller's services: arm, disarm, stop, reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from std_srvs.srv import Trigger

from cosmos3_ros.contracts import StopReason
from cosmos3_ros.control import Controller

from .conflict_watch import ConflictWatch
from .control_time import ControlTime
from .controller_inputs import ControllerInputs
from .guarding import guarded_service

if TYPE_CHECKING:
    from .base import LifecycleBase

NO_CLOCK = 'use_sim_time is set and no /clock has arrived'


class ControllerServices:
    """Serves std_srvs/Trigger at ``~/arm``, ``~/disarm``, ``~/stop`` and ``~/reset``.

    :param node: The controller's node.
    """

    def __init__(
        self, node: LifecycleBase, controller: Controller, control_time: ControlTime,
        inputs: ControllerInputs, conflicts: ConflictWatch,
    ) -> None:
        self._node = node
        self._controller = controller
        self._time = control_time
        self._inputs = inputs
        self._conflicts = conflicts
        for name in ('arm', 'disarm', 'stop', 'reset'):
            node.create_service(
                Trigger, f'~/{name}', getattr(self, f'_serve_{name}'), callback_group=node.service_group)

    def report_exception(self, where: str, error: Exception) -> None:
        """Pass on what a callback raised."""
        self._node.report_exception(where, error)

    def _obstacle(self) -> str:
        """Return why an inactive node or a held stop topic allows no motion, empty if nothing does."""
        if not self._node.active:
            return f'the controller is {self._node.state_label}; activate it first'
        if not self._time.ready:
            return NO_CLOCK
        if self._inputs.stop_held:
            return 'the stop topic is true; publish false on it first'
        return self._conflicts.text

    @staticmethod
    def _answer(response: Any, verdict: Any) -> Any:
        response.success, response.message = bool(verdict.accepted), verdict.reason
        return response

    @guarded_service
    def _serve_arm(self, _request: Any, response: Any) -> Any:
        response.message = self._obstacle()
        if response.message:
            return response
        self._node.get_logger().info('arm was asked for')
        return self._answer(response, self._controller.arm(self._time.sample_ns()))

    @guarded_service
    def _serve_disarm(self, _request: Any, response: Any) -> Any:
        return self._answer(response, self._controller.disarm(self._time.now_ns()))

    @guarded_service
    def _serve_stop(self, _request: Any, response: Any) -> Any:
        self._controller.stop(StopReason.OPERATOR, 'the service ~/stop was called', self._time.now_ns())
        response.success = True
        response.message = f'{self._controller.mode.name}; needs ~/reset'
        return response

    @guarded_service
    def _serve_reset(self, _request: Any, response: Any) -> Any:
        response.message = self._obstacle()
        if response.message:
            return response
        return self._answer(response, self._controller.reset(self._time.now_ns()))
