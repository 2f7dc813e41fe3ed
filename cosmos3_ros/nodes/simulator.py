"""Node ``simulator``: the simulated arm and table in real time. Shell around ``cosmos3_ros.sim``."""

from concurrent.futures import Future
import queue
import sys
import time
from typing import Any

from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock as ClockMessage
from std_srvs.srv import Trigger

from cosmos3_ros.contracts import ContractError
import cosmos3_ros.msg as msg
from cosmos3_ros.sim.configuration import SimulationError
from cosmos3_ros.sim.scene import simulated_robot
from cosmos3_ros.sim.shared_state import DrawnState, SharedState
from cosmos3_ros.sim.tasks import Goal
from cosmos3_ros.sim.world import World
import cosmos3_ros.srv as srv

from .base import LifecycleBase, guarded_service
from .camera_process import CameraProcess, inherited_arguments
from .clock import SystemClock
from .command_input import COMMAND_INPUTS, CommandInput
from .control_loop import ControlLoop
from .diagnostics import Level, Report
from .lockstep import LockstepThread
from .measured_joints import MeasuredJoints
from .messages import NS_PER_S
from .qos import qos_profile
from .run import SWITCH_INTERVAL_S, run_node
from .schedule import Schedule
from .simulation_messages import snapshot_to_message
from .simulator_cameras import CAMERA_PROCESS_PARAMETERS
from .simulator_parameters import SIMULATOR_TABLE, simulation_config

# A stall up to this long is caught up; after a longer one simulated time stays behind.
MAX_BACKLOG_NS = 250_000_000
RESET_TIMEOUT_S = 3.0
# Below this share of real time the arm is no longer what the controller thinks it is.
REALTIME_FACTOR_WARN = 0.97


class SimulatorNode(LifecycleBase):
    """Steps the world in real time and publishes what an arm and its cameras would.

    Free-running by default: the world waits for nobody. With ``lockstep`` time stands still until a
    command comes (one ``lockstep_command_s`` each) or ``~/step`` is called (one camera period each).

    Simulated time begins at the system's time of configuring and never goes back, not by a reset
    either. This node is the source of ``/clock`` and does not use simulated time itself.
    """

    NAME = 'simulator'
    THREADS = 2
    """Transitions, and services with diagnostics; commands are polled by the physics thread."""
    TABLE = SIMULATOR_TABLE

    def setup(self) -> None:
        """Build the world, start the render process, wire the topics."""
        values = self.values
        self._loop: ControlLoop | None = None
        self._lockstep: LockstepThread | None = None
        self._cameras: CameraProcess | None = None
        self._shared: SharedState | None = None
        self._requests: queue.SimpleQueue[tuple[str, int, Future[tuple[Goal, int]]]] = queue.SimpleQueue()
        self._robot = simulated_robot()
        config = simulation_config(values)
        # A second configure must not set /clock back either.
        begin_ns = max(time.time_ns(), getattr(self, '_newest_ns', 0))
        self._world = World(config, start_ns=begin_ns // config.step_ns * config.step_ns)
        self._world.reset(values['task'], values['seed'])
        self._snapshot = self._world.snapshot()
        if values['render']:
            self._shared = SharedState.create(config, self._world.scene.model.nq)
            self._share()
            self._cameras = CameraProcess(self._shared, self._camera_arguments())
        self._clock_message = ClockMessage()
        self._clock_publisher = self.create_publisher(ClockMessage, '/clock', QoSProfile(depth=10))
        self._joints = MeasuredJoints(self, self._robot, qos_profile(values, 'joint_states'))
        self._state_publisher = self.create_publisher(
            msg.SimulationState, 'simulation_state', qos_profile(values, 'simulation_state'))
        self._input: CommandInput = COMMAND_INPUTS[values['command_interface']](
            self, self._robot, qos_profile(values, 'joint_command'), self.simulated_now_ns)
        self._input.on_accepted = self._let_time_pass
        self.create_service(
            srv.ResetEpisode, '~/reset_episode', self._serve_reset, callback_group=self.service_group)
        self.create_service(Trigger, '~/step', self._serve_step, callback_group=self.service_group)
        if self._cameras is not None:
            self._cameras.wait_ready(self.closing)

    def warm_up(self) -> None:
        """Step a copy of the world: the first steps load libraries and pages."""
        rehearsal = World(self._world.config)
        rehearsal.step_until(100 * self._world.config.step_ns)
        rehearsal.snapshot()

    def start(self) -> None:
        """Let time run."""
        self._previous_interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        begin_ns = self._world.time_ns
        values = self.values
        self._schedules = {
            name: Schedule(begin_ns, values[f'{name}_rate_hz'])
            for name in ('clock', 'joint_state', 'state', 'camera')}
        self._began = (begin_ns, time.monotonic_ns())
        self._recent = (begin_ns, time.monotonic_ns())
        self._lost_ns = 0
        self._system = SystemClock(begin_ns, time.monotonic_ns(), jump_ns=NS_PER_S)
        self._publish_due()
        if values['lockstep']:
            self._lockstep = LockstepThread(self._advance, self._serve_requests, self._on_error)
            self._lockstep.start()
            return
        self._loop = ControlLoop(
            self._system, self._world.config.step_ns, self._tick, on_overrun=self._ignore,
            on_jump=self._ignore, on_error=self._on_error, logger=self.get_logger(),
            priority=values['rt_priority'])
        self._loop.start()

    def stop(self) -> None:
        """Stop time."""
        for thread in (self._loop, self._lockstep):
            if thread is not None:
                thread.stop()
        self._loop = self._lockstep = None
        self._newest_ns = self._world.time_ns
        sys.setswitchinterval(getattr(self, '_previous_interval', 0.005))

    def teardown(self) -> None:
        """End the render process and give back the shared memory."""
        cameras, self._cameras = getattr(self, '_cameras', None), None
        if cameras is not None:
            cameras.close()
        shared, self._shared = getattr(self, '_shared', None), None
        if shared is not None:
            shared.close()

    def simulated_now_ns(self) -> int:
        """Return simulated time now, between two steps too."""
        if self._loop is None:
            return self._world.time_ns
        return self._system.now_ns(time.monotonic_ns()) - self._lost_ns

    # The physics thread ---------------------------------------------------------------------

    def _tick(self, target_ns: int) -> None:
        """Step up to ``target_ns`` of the undisturbed clock."""
        step_ns = self._world.config.step_ns
        goal_ns = target_ns - self._lost_ns
        behind_ns = goal_ns - self._world.time_ns
        if behind_ns > MAX_BACKLOG_NS:
            self._lost_ns += (behind_ns - step_ns) // step_ns * step_ns
            self.counters.add('physics_stalls')
            goal_ns = target_ns - self._lost_ns
        while self._world.time_ns + step_ns <= goal_ns:
            self._serve_requests()
            self._advance()

    def _advance(self) -> None:
        world = self._world
        command = self._input.take(world.time_ns)
        if command is not None:
            try:
                world.apply(command)
            except ContractError as error:
                self.report_exception('joint_command', error)
        world.step_until(world.time_ns + world.config.step_ns)
        self._publish_due()

    def _publish_due(self) -> None:
        now_ns = self._world.time_ns
        schedules = self._schedules
        if schedules['camera'].is_due(now_ns) and self._cameras is not None:
            self._share()
            self._cameras.tick()
        if schedules['joint_state'].is_due(now_ns):
            self._joints.publish(self._world.state())
        if schedules['state'].is_due(now_ns):
            self._snapshot = self._world.snapshot()
            self._state_publisher.publish(snapshot_to_message(self._snapshot))
        if schedules['clock'].is_due(now_ns):
            # Last: whoever sees this time on the clock finds the states of it published.
            stamp = self._clock_message.clock
            stamp.sec, stamp.nanosec = divmod(now_ns, NS_PER_S)
            self._clock_publisher.publish(self._clock_message)

    def _share(self) -> None:
        assert self._shared is not None
        snapshot = self._world.snapshot()
        self._shared.write(DrawnState(
            snapshot.stamp_ns, snapshot.episode, snapshot.seed, snapshot.zone_xy, snapshot.qpos))

    def _serve_requests(self) -> None:
        """Take commands, and carry out resets: the world belongs to this thread."""
        self._input.poll()
        while True:
            try:
                task, seed, answer = self._requests.get_nowait()
            except queue.Empty:
                return
            try:
                goal = self._world.reset(task, seed)
                self._input.forget()
                answer.set_result((goal, self._world.episode))
            except Exception as error:
                answer.set_exception(error)

    @staticmethod
    def _ignore(amount: int) -> None:
        """Missed deadlines are caught up by the next tick and counted by the loop."""

    def _on_error(self, error: Exception) -> None:
        self.report_exception('physics', error)

    # Services -------------------------------------------------------------------------------

    @guarded_service
    def _serve_reset(self, request: Any, response: Any) -> Any:
        if not self.active:
            raise SimulationError(f'the simulator is {self.state_label}, activate it first')
        answer: Future[tuple[Goal, int]] = Future()
        self._requests.put((request.task, int(request.seed), answer))
        goal, episode = answer.result(RESET_TIMEOUT_S)
        response.accepted, response.message = True, ''
        response.instruction, response.episode = goal.instruction, episode
        return response

    @guarded_service
    def _serve_step(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        if self._lockstep is None:
            raise SimulationError('~/step needs lockstep: true and an active simulator')
        self._lockstep.add(round(NS_PER_S / self.values['camera_rate_hz'] / self._world.config.step_ns))
        response.success, response.message = True, f'simulated time {self._world.time_ns} ns and one period'
        return response

    def _let_time_pass(self) -> None:
        """With lockstep, one command's time."""
        if self._lockstep is not None:
            self._lockstep.add(max(1, round(
                self.values['lockstep_command_s'] * NS_PER_S / self._world.config.step_ns)))

    # ----------------------------------------------------------------------------------------

    def _camera_arguments(self) -> list[str]:
        arguments = inherited_arguments(sys.argv)
        arguments += ['-r', f'__node:={self.get_name()}_cameras', '-r', f'__ns:={self.get_namespace()}']
        for row in CAMERA_PROCESS_PARAMETERS:
            arguments += ['-p', f'{row.name}:={self.values[row.name]}']
        return arguments

    def diagnose(self, report: Report) -> None:
        """Pace, commands, episode and the render process."""
        world = self._world
        snapshot = self._snapshot
        counters = world.counters
        report.put(
            task=snapshot.task, instruction=snapshot.instruction, seed=snapshot.seed,
            episode=snapshot.episode, success=snapshot.success, simulated_time_s=world.time_ns * 1e-9,
            commands_refused=counters.refused, command_timeouts=counters.timeouts,
            last_refusal=counters.last_refusal, following=world.is_following,
            physics_stalls=self.counters['physics_stalls'])
        self._input.diagnose(report)
        loop = self._loop
        if loop is not None:
            now = (world.time_ns, time.monotonic_ns())
            recent = (now[0] - self._recent[0]) / max(now[1] - self._recent[1], 1)
            factor = (now[0] - self._began[0]) / max(now[1] - self._began[1], 1)
            self._recent = now
            report.put(realtime_factor=factor, realtime_factor_recent=recent, physics_overruns=loop.overruns,
                       real_time=loop.real_time, **loop.lateness_us.summary('physics_lateness_us'),
                       **loop.tick_us.summary('physics_tick_us'))
            if recent < REALTIME_FACTOR_WARN:
                report.add(Level.WARN, f'runs at {recent:.2f} of real time: the machine is too busy')
        if self._cameras is not None:
            report.put(camera_pid=self._cameras.pid, camera_ticks_lost=self._cameras.ticks_lost)
            failure = self._cameras.failure()
            if failure:
                report.add(Level.ERROR, failure)


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(SimulatorNode, args)


if __name__ == '__main__':
    sys.exit(main())
