"""Run simulated episodes on a running graph: reset, arm, instruct, judge, disarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import time
from typing import Any

from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from rclpy.action import ActionClient
from std_srvs.srv import Trigger

from cosmos3_ros.action import ExecuteInstruction
from cosmos3_ros.srv import ResetEpisode

from .console import CommandError
from .monitor import Monitor
from .session import RosSession

SERVICE_TIMEOUT_S = 10.0
SETTLE_S = 0.5
"""After a reset: one round of every camera and joint state from the new scene."""
SUCCESS_HELD_S = 0.3
DONE_HELD_S = 1.0
"""A policy that says nothing of being done is not asked further once the task has been done for so long."""
SUCCESS_WAIT_S = 2.5
"""The part of a chunk that is left when the goal ends: the arm may cross the goal before it rests there."""
STOP_COOLDOWN_S = 0.7
"""The controller refuses a reset within 0.5 s of standstill."""
MODE_TIMEOUT_S = 5.0
LATCHED_MODES = ('STOPPING', 'STOPPED')
"""Out of which only a reset leads, once a stop is latched."""
ARM_TIMEOUT_S = 20.0
ARM_RETRY_S = 0.2
GOAL_GRACE_S = 10.0
"""A goal ends by its own timeout; past this the generator hangs."""
GOAL_WORDS = {
    GoalStatus.STATUS_SUCCEEDED: 'succeeded', GoalStatus.STATUS_CANCELED: 'canceled',
    GoalStatus.STATUS_ABORTED: 'aborted'}


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """How one episode went.

    :param success: The simulator's predicate held at the end.
    :param stops: Stops of the controller during the episode.
    :param reset_ns: Simulated time just before and just after the reset, between which the arm was moved.
    """

    task: str
    seed: int
    instruction: str
    success: bool
    reason: str
    elapsed_s: float
    chunks: int
    scene_reports: int
    stops: tuple[str, ...]
    reset_ns: tuple[int, int]
    end_ns: int


class EpisodeRunner:
    """Drives simulator, generator and controller through episodes.

    :param alive: Called while waiting; raises if a process has died.
    """

    def __init__(self, session: RosSession, monitor: Monitor, alive: Callable[[], None]) -> None:
        self._session, self._monitor, self._alive = session, monitor, alive
        node = session.node
        self._reset = node.create_client(ResetEpisode, 'simulator/reset_episode')
        self._services = {
            name: node.create_client(Trigger, f'controller/{name}') for name in ('arm', 'disarm', 'reset')}
        self._goals = ActionClient(node, ExecuteInstruction, 'execute_instruction')

    def run(self, task: str, seed: int, timeout_s: float, *, until_done: bool = False) -> EpisodeResult:
        """Run one episode.

        :param until_done: End it once the task is done, whatever the policy thinks of it.
        :raises CommandError: The graph refused something; with its reason.
        """
        monitor = self._monitor
        before_ns = _stamp_ns(monitor.simulation)
        instruction, after_ns = self.set_scene(task, seed)
        stops, scenes = len(monitor.stops), monitor.scenes
        self.arm()
        began_s = time.monotonic()
        reason, elapsed_s, chunks = self._instruct(instruction, timeout_s, until_done)
        success = self._success_holds()
        self.disarm()
        new_stops = tuple(f'{stop.reason}: {stop.detail}' for stop in monitor.stops[stops:])
        if new_stops:
            reason = f'stopped: {new_stops[0]}'
        return EpisodeResult(
            task=task, seed=seed, instruction=instruction, success=success, reason=reason,
            elapsed_s=elapsed_s or time.monotonic() - began_s, chunks=chunks,
            scene_reports=monitor.scenes - scenes,
            stops=new_stops,
            reset_ns=(before_ns, after_ns), end_ns=_stamp_ns(monitor.simulation))

    def set_scene(self, task: str, seed: int) -> tuple[str, int]:
        """Reset the scene; return the instruction and the simulated time at which it stands.

        :raises CommandError: The simulator refused, with its reason, or did not publish the new scene.
        """
        instruction, episode = self._reset_scene(task, seed)
        monitor = self._monitor
        # The state that shows the reset, then a full round of images and joint states.
        if not self._session.wait_for(
                lambda: monitor.simulation is not None and monitor.simulation.episode == episode,
                SERVICE_TIMEOUT_S, self._alive):
            raise CommandError(f'the simulator did not publish episode {episode}')
        after_ns = _stamp_ns(monitor.simulation)
        self._rest(SETTLE_S)
        return instruction, after_ns

    def _reset_scene(self, task: str, seed: int) -> tuple[str, int]:
        response = self._session.call(
            self._reset, ResetEpisode.Request(task=task, seed=seed), SERVICE_TIMEOUT_S, self._alive)
        if not response.accepted:
            raise CommandError(f'the simulator refused the reset to {task}, seed {seed}: {response.message}')
        return str(response.instruction), int(response.episode)

    def arm(self) -> None:
        """Arm; a stop that came while the arm stood (a busy machine at start-up) is reset and counted.

        :raises CommandError: The controller refused, with its reason.
        """
        deadline_s = time.monotonic() + ARM_TIMEOUT_S
        while True:
            self._clear_stop()
            response = self._trigger('arm')
            if response.success:
                break
            if time.monotonic() > deadline_s:
                raise CommandError(f'the controller did not arm: {response.message}')
            self._rest(ARM_RETRY_S)
        self._wait_for_mode('RUNNING')

    def disarm(self) -> None:
        """End motion; a stop that is latched is left for the next episode to reset."""
        if self._monitor.mode not in LATCHED_MODES:
            self._trigger('disarm')
        self._session.wait_for(
            lambda: self._monitor.mode in ('INACTIVE', 'SHADOW', 'STOPPED'), MODE_TIMEOUT_S, self._alive)

    def _clear_stop(self) -> None:
        """Reset a latched stop once the arm has come to rest; the controller itself demands a cooldown."""
        deadline_s = time.monotonic() + MODE_TIMEOUT_S
        while self._monitor.mode in LATCHED_MODES:
            self._rest(STOP_COOLDOWN_S)
            response = self._trigger('reset')
            if response.success:
                self._session.wait_for(
                    lambda: self._monitor.mode not in LATCHED_MODES, MODE_TIMEOUT_S, self._alive)
                return
            if time.monotonic() > deadline_s:
                raise CommandError(f'the controller cannot be reset: {response.message}')

    def _trigger(self, name: str) -> Any:
        return self._session.call(self._services[name], Trigger.Request(), SERVICE_TIMEOUT_S, self._alive)

    def _wait_for_mode(self, mode: str) -> None:
        if not self._session.wait_for(lambda: self._monitor.mode == mode, MODE_TIMEOUT_S, self._alive):
            raise CommandError(f'the controller is {self._monitor.mode}, {mode} was expected')

    def _instruct(self, instruction: str, timeout_s: float, until_done: bool) -> tuple[str, float, int]:
        """Send the goal and wait for its end; return reason, simulated seconds and chunks."""
        session = self._session
        if not session.wait_for(self._goals.server_is_ready, SERVICE_TIMEOUT_S, self._alive):
            raise CommandError('the action execute_instruction did not appear')
        goal = ExecuteInstruction.Goal(
            instruction=instruction,
            timeout=Duration(sec=int(timeout_s), nanosec=int((timeout_s % 1.0) * 1e9)))
        handle = session.result(
            self._goals.send_goal_async(goal), 'execute_instruction', SERVICE_TIMEOUT_S, self._alive)
        if not handle.accepted:
            raise CommandError(f"the generator rejected '{instruction}'; its log says why")
        result = handle.get_result_async()
        done = HeldSuccess(DONE_HELD_S)

        def ended() -> bool:
            # A latched stop ends the motion; nothing more will come of this goal.
            return bool(result.done()) or self._monitor.mode == 'STOPPED' or (
                until_done and done.update(self._monitor.simulation))

        if not session.wait_for(ended, timeout_s + GOAL_GRACE_S, self._alive) or not result.done():
            session.result(handle.cancel_goal_async(), 'cancel', SERVICE_TIMEOUT_S, self._alive)
        outcome = session.result(result, 'execute_instruction', SERVICE_TIMEOUT_S, self._alive)
        word = GOAL_WORDS.get(outcome.status, str(outcome.status))
        if done.is_reached:
            return f'done for {DONE_HELD_S:g} s', outcome.result.elapsed_s, int(outcome.result.chunks)
        return f'{word}: {outcome.result.reason}', outcome.result.elapsed_s, int(outcome.result.chunks)

    def _success_holds(self) -> bool:
        """Return whether the predicate comes to hold for a moment while the last chunk plays out."""
        deadline_s, held = time.monotonic() + SUCCESS_WAIT_S, HeldSuccess(SUCCESS_HELD_S)
        while time.monotonic() < deadline_s:
            if held.update(self._monitor.simulation):
                return True
            self._rest(0.02)
        return False

    def _rest(self, duration_s: float) -> None:
        self._session.wait_for(lambda: False, duration_s, self._alive)


class HeldSuccess:
    """Whether the simulator's predicate has held for so long, once it has for ever.

    :param duration_s: Simulated seconds.
    """

    def __init__(self, duration_s: float) -> None:
        self._duration_ns = round(duration_s * 1e9)
        self._since_ns: int | None = None
        self.is_reached = False

    def update(self, simulation: Any) -> bool:
        """Take the newest state and return whether it has held for long enough.

        :param simulation: ``SimulationState``, or None as long as there is none.
        """
        now_ns = _stamp_ns(simulation)
        self._since_ns = (self._since_ns or now_ns) if simulation is not None and simulation.success else None
        self.is_reached = self.is_reached or (
            self._since_ns is not None and now_ns - self._since_ns >= self._duration_ns)
        return self.is_reached


def _stamp_ns(message: Any) -> int:
    return 0 if message is None else message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
