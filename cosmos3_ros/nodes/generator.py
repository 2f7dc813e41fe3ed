"""Node ``generator``: cameras and joint states in, action chunks out."""

from dataclasses import asdict, replace
import sys
import threading
import time
from typing import Any

from sensor_msgs.msg import JointState
from std_msgs.msg import String
import yaml

from cosmos3_ros.contracts import ActionChunk, ObservationRefused
from cosmos3_ros.generator.observation_assembler import ObservationAssembler
from cosmos3_ros.generator.policy import POLICIES, Policy, create_policy, option_names
import cosmos3_ros.msg as msg
from cosmos3_ros.robots import Robot, load_robot
import cosmos3_ros.srv as srv

from .base import LifecycleBase, SetupError, guarded, guarded_service
from .cameras import CAMERA_PARAMETERS, CameraStreams, Frame
from .diagnostics import Level, Report, Window
from .instruction_server import InstructionServer
from .messages import chunk_to_message, joint_measurement, scene_from_message
from .parameters import Parameter, ParameterError, ParameterTable
from .qos import default_profile, qos_parameters, qos_profile
from .run import run_node
from .simulation_messages import snapshot_from_message
from .worker import Worker

# numpy's RandomState, which draws the noise, takes seeds up to here.
SEED_LIMIT = 2**32
# While a late chunk is held back (injected_latency_s), how often is looked whether it is still wanted.
HOLD_POLL_S = 0.005


def policy_options(items: list[str]) -> dict[str, Any]:
    """Return ``['steps=4', 'guidance=3.0']`` as keyword arguments; values are read as YAML.

    :raises ParameterError: An item without a name or an equals sign.
    """
    options = {}
    for item in items:
        name, equals, value = item.partition('=')
        if not equals or not name.strip():
            raise ParameterError(f'policy_options: {item!r} arrived, name=value is allowed')
        options[name.strip()] = yaml.safe_load(value)
    return options


class GeneratorNode(LifecycleBase):
    """Replans at a fixed interval while an instruction is set.

    A request is made while the previous chunk plays. The observation is taken when the policy is free,
    not when the request was made, so a slow policy still sees the newest images. Whatever changes what
    a chunk would mean (a new instruction, a clock set back) drops the chunk in flight.
    """

    NAME = 'generator'
    THREADS = 5
    """As in the base, one that the running goal of ``execute_instruction`` occupies, one for feedback."""
    TABLE = ParameterTable(
        Parameter('robot', str, 'panda', 'Robot that the chunks are for.', read_only=True),
        *CAMERA_PARAMETERS,
        Parameter('blank_cameras', list[str], [],
                  'Camera slots without a camera, filled with black.', read_only=True),
        Parameter('policy', str, 'cosmos3', f'Policy that makes the chunks: {", ".join(POLICIES)}.',
                  read_only=True),
        Parameter('policy_url', str, '',
                  'Address of the server of openpi (ws://), vllm_omni or nim (http://).', read_only=True),
        Parameter('checkpoint', str, '', 'Checkpoint of a policy that runs here.', read_only=True),
        Parameter('device', str, '', "Torch device, e.g. cuda:0; empty takes the policy's own.",
                  read_only=True),
        Parameter('policy_options', list[str], [],
                  "Further arguments of the policy as name=value, e.g. ['steps=4'].", read_only=True),
        Parameter('seed', int, 0, 'Seed of the noise, recorded in every chunk.', range=(0, SEED_LIMIT - 1)),
        Parameter('seed_mode', str, 'fixed',
                  'fixed: every chunk has the seed. per_chunk: chunk n has seed + n.',
                  choices=('fixed', 'per_chunk')),
        Parameter('instruction', str, '', 'Instruction at activation; empty waits for one.', read_only=True),
        Parameter('replan_interval_s', float, 0.5, 'Time between two requests.', unit='s', range=(0.02, 60.0),
                  read_only=True),
        Parameter('request_deadline_s', float, 0.0,
                  'A chunk that took longer is thrown away; 0 publishes every chunk.', unit='s',
                  range=(0.0, 600.0)),
        Parameter('injected_latency_s', float, 0.0,
                  'Publish every chunk this much later, to try out a slow policy.', unit='s',
                  range=(0.0, 30.0)),
        Parameter('max_skew_s', float, 0.05, 'Largest distance of an image from the anchor.', unit='s',
                  range=(0.001, 1.0), read_only=True),
        Parameter('max_age_s', float, 0.5, 'Largest age of the anchor.', unit='s', range=(0.01, 10.0),
                  read_only=True),
        Parameter('max_joint_gap_s', float, 0.1, 'Largest gap of joint states around the anchor.', unit='s',
                  range=(0.001, 1.0), read_only=True),
        Parameter('stop_on_scene_state', bool, False,
                  'End execute_instruction when a trained reasoner reports done or failed.'),
        Parameter('scene_state_reports', int, 2,
                  'So many reports in a row must say done or failed to end a goal.', range=(1, 100)),
        Parameter('stop_on_simulation_success', bool, True,
                  'With policy oracle, end execute_instruction when the simulator reports success.'),
        Parameter('follow_simulation', bool, False,
                  'With policy oracle and while no instruction is set, take the simulated episode\'s.',
                  read_only=True),
        *qos_parameters('images', 'joint_states', 'action_chunk', 'scene', 'simulation_state'),
    )

    def setup(self) -> None:
        """Load robot and policy, check that they fit, wire the topics."""
        values = self.values
        self._policy: Policy | None = None
        self._worker: Worker[int] | None = None
        self._instructions: InstructionServer | None = None
        self._robot = load_robot(values['robot'])
        slots = {slot.name: slot.topic for slot in self._robot.cameras}
        cameras = tuple(values['cameras']) or tuple(slots)
        self._assembler = ObservationAssembler(
            cameras, self._robot.joint_names, blank_cameras=values['blank_cameras'],
            max_skew_s=values['max_skew_s'], max_age_s=values['max_age_s'],
            max_joint_gap_s=values['max_joint_gap_s'])
        self._policy = self.create_policy(self._robot)
        self._check_policy(self._policy, cameras)
        self._state_lock = threading.Lock()
        self._instruction = ''
        # Never from the start again: a request of an earlier life that its thread still works on must not
        # find its number in use.
        self._epoch = getattr(self, '_epoch', 0) + 1
        self._chunk_number = 0
        self._refused = ''
        self._latency_s = Window()
        self._chunks = self.create_publisher(
            msg.ActionChunk, 'action_chunk', qos_profile(values, 'action_chunk'))
        self._announce = self.create_publisher(String, 'instruction', default_profile('instruction'))
        self.poller.subscribe(
            JointState, 'joint_states', qos_profile(values, 'joint_states'), self._on_joints)
        self.create_subscription(
            msg.SceneReport, 'scene', self._on_scene, qos_profile(values, 'scene'),
            callback_group=self.data_group)
        if hasattr(self._policy, 'update_state'):
            self.poller.subscribe(
                msg.SimulationState, 'simulation_state', qos_profile(values, 'simulation_state'),
                self._on_simulation)
        topics = {name: slots.get(name, f'{name}/image_raw') for name in self._assembler.live_cameras}
        self._streams = CameraStreams(
            self, topics,
            transport=values['image_transport'], profile=qos_profile(values, 'images'),
            on_image=self._on_image)
        self.create_service(
            srv.SetInstruction, '~/set_instruction', self._on_set_instruction,
            callback_group=self.service_group)
        self._instructions = InstructionServer(self)

    def create_policy(self, robot: Robot) -> Policy:
        """Make the policy that the parameters name."""
        values = self.values
        options = policy_options(values['policy_options'])
        known = option_names(values['policy'])
        if values['policy_url'] and 'url' not in known:
            raise SetupError(
                f'policy_url: {values["policy_url"]!r} arrived, policy {values["policy"]} asks no server; '
                'openpi, vllm_omni and nim do')
        if 'url' in known and not (values['policy_url'] or 'url' in options):
            raise SetupError(
                f'policy_url: none arrived, policy {values["policy"]} needs the address of its server')
        given = {'joint_names': robot.joint_names, 'robot': robot, 'url': values['policy_url'],
                 'checkpoint': values['checkpoint'], 'device': values['device']}
        for name, value in given.items():
            # A checkpoint is also the reasoner's: what runs elsewhere has no use for it here.
            if value and name in known:
                options.setdefault(name, value)
        return create_policy(values['policy'], **options)

    def _check_policy(self, policy: Policy, cameras: tuple[str, ...]) -> None:
        robot = self._robot
        if policy.contract not in robot.action_contracts:
            raise SetupError(
                f'policy {policy.name}: its contract is {policy.contract}, robot {robot.name} accepts '
                f'{", ".join(robot.action_contracts)}; change the parameter checkpoint or robot')
        if tuple(policy.joint_names) != robot.joint_names:
            raise SetupError(
                f'policy {policy.name}: its joints are {", ".join(policy.joint_names)}, robot {robot.name} '
                f'has {", ".join(robot.joint_names)}; change the parameter robot')
        missing = [slot for slot in policy.camera_slots if slot not in cameras]
        if missing:
            raise SetupError(
                f'policy {policy.name}: it needs the camera slots {", ".join(missing)}; add them to the '
                'parameter cameras, or to blank_cameras too if there is no such camera')

    def warm_up(self) -> None:
        """Run the policy once."""
        assert self._policy is not None
        self._policy.warm_up()

    def start(self) -> None:
        """Begin to replan."""
        self._worker = Worker('policy', self._work, self._on_failure)
        self.create_timer(
            self.values['replan_interval_s'], self._on_replan, callback_group=self.service_group)
        self.set_instruction(self.values['instruction'])

    def stop(self) -> None:
        """End the running goal and the worker; the chunk in flight is thrown away."""
        self._drop_in_flight()
        instructions = getattr(self, '_instructions', None)
        if instructions is not None:
            instructions.abort('the generator was deactivated')
        worker = getattr(self, '_worker', None)
        if worker is not None:
            worker.close()
            self._worker = None

    def teardown(self) -> None:
        """Release the policy and the action server."""
        for name in ('_instructions', '_policy'):
            held = getattr(self, name, None)
            if held is not None:
                held.close()
                setattr(self, name, None)

    # Instruction ----------------------------------------------------------------------------

    @property
    def instruction(self) -> str:
        """What is being done; empty while paused."""
        return self._instruction

    def set_instruction(self, instruction: str) -> None:
        """Take up a new instruction, drop the chunk in flight and request one at once."""
        # Announced under the lock: of two instructions at a time the one that counts is announced last.
        with self._state_lock:
            self._instruction = instruction = instruction.strip()
            self._epoch += 1
            self._announce.publish(String(data=instruction))
        self.get_logger().info(f'instruction: {instruction!r}' if instruction else 'paused')
        self._on_replan()

    def _drop_in_flight(self) -> None:
        with self._state_lock:
            self._epoch += 1

    @guarded_service
    def _on_set_instruction(self, request: Any, response: Any) -> Any:
        if not self.active:
            response.message = f'the generator is {self.state_label}; activate it first'
            return response
        if not self._set_unless_busy(request.instruction):
            response.message = 'a goal of execute_instruction is running; cancel it first'
            return response
        response.accepted = True
        response.message = (
            'chunks follow' if request.instruction.strip() else 'paused; the present chunk plays out')
        return response

    def _set_unless_busy(self, instruction: str) -> bool:
        server = self._instructions
        if server is None:
            return False
        with server.idle() as idle:
            if idle:
                self.set_instruction(instruction)
        return idle

    # Input ----------------------------------------------------------------------------------

    def _on_image(self, camera: str, stamp_ns: int, frame: Frame) -> None:
        if self._assembler.add_image(camera, stamp_ns, frame):
            self._on_clock_reset(f'camera {camera}')

    @guarded
    def _on_joints(self, message: JointState) -> None:
        gripper = self._robot.gripper
        measurement = joint_measurement(
            message, self._robot.joint_names, gripper_joint=gripper.joint_name,
            gripper_closed=gripper.to_normalized, velocity_required=False)
        if self._assembler.add_joints(measurement):
            self._on_clock_reset('joint_states')

    def _on_clock_reset(self, source: str) -> None:
        self._drop_in_flight()
        self.counters.add('clock_resets')
        self.logs.warn('clock', f'stamps of {source} went back: images and joint states were forgotten')

    @guarded
    def _on_scene(self, message: msg.SceneReport) -> None:
        if self._instructions is not None:
            self._instructions.take_scene(scene_from_message(message))

    @guarded
    def _on_simulation(self, message: msg.SimulationState) -> None:
        snapshot = snapshot_from_message(message)
        policy = self._policy
        if policy is None:  # the last message before the subscription goes
            return
        policy.update_state(snapshot)  # type: ignore[attr-defined]
        if self.values['follow_simulation'] and self.active and not self._instruction and not message.success:
            self._set_unless_busy(message.instruction)
        if message.success and self._instructions is not None:
            self._instructions.take_success(snapshot.stamp_ns)

    # Chunks ---------------------------------------------------------------------------------

    @guarded
    def _on_replan(self) -> None:
        worker = self._worker
        if self.active and self._instruction and worker is not None:
            worker.offer(self._epoch)

    def _work(self, epoch: int) -> None:
        """Make one chunk; runs in the worker's thread."""
        requested_s = time.monotonic()
        with self._state_lock:
            instruction = self._instruction
            if epoch != self._epoch or not instruction:
                return
        policy = self._policy
        observation = self._assembler.assemble(self.now_ns())
        self._refused = observation.reason if isinstance(observation, ObservationRefused) else ''
        if policy is None:
            return
        if isinstance(observation, ObservationRefused):
            self.counters.add('observations_refused')
            self.logs.warn('observation', f'no observation: {observation.reason}')
            return
        seed = self.values['seed']
        if self.values['seed_mode'] == 'per_chunk':
            seed = (seed + self._chunk_number) % SEED_LIMIT
        chunk = policy.generate(observation, instruction, seed=seed)
        if (chunk.stamp_ns, chunk.instruction) != (observation.stamp_ns, instruction):
            raise RuntimeError(
                f'policy {policy.name}: its chunk is of {chunk.stamp_ns} ns and {chunk.instruction!r}, asked '
                f'was for {observation.stamp_ns} ns and {instruction!r}: thrown away')
        self._chunk_number += 1
        self._hold_back(epoch)
        latency_s = time.monotonic() - requested_s
        self._publish(replace(chunk, latency_s=latency_s), epoch)

    def _hold_back(self, epoch: int) -> None:
        due_ns = self.now_ns() + int(self.values['injected_latency_s'] * 1e9)
        while self.now_ns() < due_ns and epoch == self._epoch and not self.closing.is_set():
            time.sleep(HOLD_POLL_S)

    def _publish(self, chunk: ActionChunk, epoch: int) -> None:
        deadline_s = self.values['request_deadline_s']
        if deadline_s and chunk.latency_s > deadline_s:
            self.counters.add('chunks_late')
            self.logs.warn('late', f'a chunk took {chunk.latency_s:.3f} s and was thrown away, '
                                   f'{deadline_s:g} s is allowed (request_deadline_s)')
            return
        ahead_s = (chunk.stamp_ns - self.now_ns()) * 1e-9
        if ahead_s > self.values['max_age_s']:
            # No observation is taken from that far ahead: the clock was set back while the chunk was made,
            # and no image of the new time has come yet that would have told.
            self.counters.add('chunks_dropped')
            self.logs.warn('clock', f'a chunk was thrown away: its observation is {ahead_s:.1f} s in the '
                                    'future; was the clock set back?')
            return
        # Under the lock: no chunk of an old instruction follows the announcement of a new one.
        with self._state_lock:
            if epoch != self._epoch or not self.active:
                self.counters.add('chunks_dropped')
                return
            self._chunks.publish(chunk_to_message(chunk))
        self._latency_s.add(chunk.latency_s)
        self.counters.add('chunks')
        if self._instructions is not None:
            self._instructions.count_chunk()

    def _on_failure(self, error: Exception) -> None:
        self.counters.add('failures')
        # A policy refuses with ValueError; that is no bug and needs no traceback.
        if isinstance(error, ValueError):
            self.logs.warn('policy', f'no chunk: {error}')
            self._refused = str(error)
        else:
            self.report_exception('policy', error)

    def diagnose(self, report: Report) -> None:
        """Counters, latency, silent cameras, and why there is no chunk."""
        self._streams.diagnose(report)
        policy = self._policy
        if policy is not None:
            report.put(policy=policy.name, contract=policy.contract, checkpoint=policy.identity.checkpoint,
                       engine=policy.identity.engine, trained=policy.identity.trained)
            if not policy.identity.trained:
                report.add(Level.WARN, f'{policy.identity.checkpoint} is untrained: its chunks mean nothing')
            server = getattr(policy, 'counts', None)
            if server is not None:
                report.put(**{f'server_{name}': count for name, count in asdict(server).items()})
        counts = self._assembler.counts
        report.put(instruction=self._instruction, images=counts.images, images_late=counts.images_late,
                   joint_states=counts.joint_states, observations=counts.observations,
                   requests_dropped=self._worker.dropped if self._worker else 0,
                   **self._latency_s.summary('latency_s'))
        if self.active and self._instruction and self._refused:
            report.add(Level.WARN, f'no chunk: {self._refused}')


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(GeneratorNode, args)


if __name__ == '__main__':
    sys.exit(main())
