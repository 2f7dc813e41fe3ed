"""Node ``generator``: cameras and joint states in, action chunks out."""

from dataclasses import asdict
import sys
from typing import Any

from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from cosmos3_ros.contracts import ActionChunk
from cosmos3_ros.generator.observation_assembler import ObservationAssembler
from cosmos3_ros.generator.policy import Policy
import cosmos3_ros.msg as msg
from cosmos3_ros.robots import Robot, load_robot
from cosmos3_ros.sim.snapshot import SimulationSnapshot
import cosmos3_ros.srv as srv

from .base import LifecycleBase, guarded, guarded_service
from .cameras import CameraStreams
from .chunk_requests import ChunkRequests
from .diagnostics import Level, Report
from .generator_parameters import GENERATOR_TABLE
from .imagination_topic import ImaginationTopic
from .instruction_server import InstructionServer
from .messages import chunk_to_message, joint_measurement, scene_from_message
from .policy_binding import check_policy, make_policy
from .qos import default_profile, qos_profile
from .run import run_node
from .simulation_messages import snapshot_from_message


class GeneratorNode(LifecycleBase):
    """Replans at a fixed interval while an instruction is set.

    A request is made while the previous chunk plays. The observation is taken when the policy is free,
    not when the request was made, so a slow policy still sees the newest images. Whatever changes what
    a chunk would mean (a new instruction, a clock set back) drops the chunk in flight.
    """

    NAME = 'generator'
    THREADS = 5
    """As in the base, one that the running goal of ``execute_instruction`` occupies, one for feedback."""
    TABLE = GENERATOR_TABLE

    def setup(self) -> None:
        """Load robot and policy, check that they fit, wire the topics."""
        values = self.values
        self.policy: Policy | None = None
        self._instructions: InstructionServer | None = None
        self._robot = load_robot(values['robot'])
        slots = {slot.name: slot.topic for slot in self._robot.cameras}
        cameras = tuple(values['cameras']) or tuple(slots)
        self._assembler = ObservationAssembler(
            cameras, self._robot.joint_names, blank_cameras=values['blank_cameras'],
            max_skew_s=values['max_skew_s'], max_age_s=values['max_age_s'],
            max_joint_gap_s=values['max_joint_gap_s'])
        self.policy = policy = self.create_policy(self._robot)
        check_policy(policy, self._robot, cameras, real_time_chunking=values['real_time_chunking'])
        earlier: ChunkRequests | None = getattr(self, 'requests', None)
        self.requests = ChunkRequests(
            self, policy, self._assembler, self._publish, self._count_chunk,
            epoch=earlier.epoch + 1 if earlier is not None else 1)
        self._chunks = self.create_publisher(
            msg.ActionChunk, 'action_chunk', qos_profile(values, 'action_chunk'))
        self._announce = self.create_publisher(String, 'instruction', default_profile('instruction'))
        self.poller.subscribe(
            JointState, 'joint_states', qos_profile(values, 'joint_states'), self._on_joints)
        self.create_subscription(
            msg.SceneReport, 'scene', self._on_scene, qos_profile(values, 'scene'),
            callback_group=self.data_group)
        self._episode_seen: int | None = None
        self._followed = ''
        if hasattr(policy, 'update_state') or values['follow_simulation']:
            self.poller.subscribe(
                msg.SimulationState, 'simulation_state', qos_profile(values, 'simulation_state'),
                self._on_simulation)
        topics = {name: slots.get(name, f'{name}/image_raw') for name in self._assembler.live_cameras}
        self._streams = CameraStreams(
            self, topics,
            transport=values['image_transport'], profile=qos_profile(values, 'images'),
            on_image=self._on_image, lazy=True)
        self.create_service(
            srv.SetInstruction, '~/set_instruction', self._on_set_instruction,
            callback_group=self.service_group)
        for name, callback in (('pause', self._on_pause), ('resume', self._on_resume)):
            self.create_service(Trigger, f'~/{name}', callback, callback_group=self.service_group)
        self._imagination = ImaginationTopic(self)
        self._instructions = InstructionServer(self)

    def create_policy(self, robot: Robot) -> Policy:
        """Make the policy that the parameters name."""
        return make_policy(self.values, robot)

    def warm_up(self) -> None:
        """Run the policy once."""
        assert self.policy is not None
        self.policy.warm_up()

    def start(self) -> None:
        """Begin to replan."""
        self.requests.start()
        self.create_timer(
            self.values['replan_interval_s'], self._on_replan, callback_group=self.service_group)
        self._episode_seen, self._followed = None, ''
        self.set_instruction(self.values['instruction'])

    def stop(self) -> None:
        """End the running goal and the worker; the chunk in flight is thrown away."""
        requests: ChunkRequests | None = getattr(self, 'requests', None)
        if requests is not None:
            requests.drop_in_flight()
        instructions = getattr(self, '_instructions', None)
        if instructions is not None:
            instructions.abort('the generator was deactivated')
        if requests is not None:
            requests.stop()

    def teardown(self) -> None:
        """Release the policy and the action server."""
        for name in ('_instructions', 'policy'):
            held = getattr(self, name, None)
            if held is not None:
                held.close()
                setattr(self, name, None)

    # Instruction ----------------------------------------------------------------------------

    @property
    def instruction(self) -> str:
        """What is being done; empty for nothing."""
        return self.requests.instruction

    def set_instruction(self, instruction: str) -> None:
        """Take up a new instruction, drop the chunk in flight and request one at once."""
        instruction = instruction.strip()
        self.requests.set_instruction(
            instruction, lambda text: self._announce.publish(String(data=text)))
        self.get_logger().info(f'instruction: {instruction!r}' if instruction else 'no instruction')
        self.requests.request()

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
            'no chunks follow; the present one plays out' if not request.instruction.strip()
            else 'paused; chunks follow after ~/resume' if self.requests.paused else 'chunks follow')
        return response

    @guarded_service
    def _on_pause(self, _request: Any, response: Any) -> Any:
        return self._pause(response, paused=True)

    @guarded_service
    def _on_resume(self, _request: Any, response: Any) -> Any:
        return self._pause(response, paused=False)

    def _pause(self, response: Any, *, paused: bool) -> Any:
        if not self.active:
            response.message = f'the generator is {self.state_label}; activate it first'
            return response
        self.requests.pause(paused)
        self.requests.request()
        self.get_logger().info('paused' if paused else 'resumed')
        response.success = True
        response.message = (
            'the present chunk plays out; the instruction stays' if paused
            else 'chunks follow' if self.instruction else 'there is no instruction')
        return response

    def _set_unless_busy(self, instruction: str) -> bool:
        server = self._instructions
        if server is None:
            return False
        with server.idle() as idle:
            if idle:
                self.set_instruction(instruction)
                self._followed = ''  # from here on a person's, even if it is the same
        return idle

    # Input ----------------------------------------------------------------------------------

    def _on_image(self, camera: str, stamp_ns: int, frame: Any) -> None:
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
        self.requests.drop_in_flight()
        self.counters.add('clock_resets')
        self.logs.warn('clock', f'stamps of {source} went back: images and joint states were forgotten')

    @guarded
    def _on_scene(self, message: msg.SceneReport) -> None:
        if self._instructions is not None:
            self._instructions.take_scene(scene_from_message(message))

    @guarded
    def _on_simulation(self, message: msg.SimulationState) -> None:
        snapshot = snapshot_from_message(message)
        policy = self.policy
        if policy is None:  # the last message before the subscription goes
            return
        if hasattr(policy, 'update_state'):
            policy.update_state(snapshot)
        if self.values['follow_simulation'] and self.active and not message.success:
            self._follow(snapshot)
        if message.success and self._instructions is not None:
            self._instructions.take_success(snapshot.stamp_ns)

    def _follow(self, snapshot: SimulationSnapshot) -> None:
        """Take a new episode's instruction, unless somebody asked for something else.

        Only when an episode is first seen: an instruction that was taken back stays away.
        """
        server = self._instructions
        if snapshot.episode == self._episode_seen or server is None:
            return
        self._episode_seen = snapshot.episode
        with server.idle() as idle:
            if idle and self.instruction in ('', self._followed):
                self.set_instruction(snapshot.instruction)
                self._followed = self.instruction

    # Chunks ---------------------------------------------------------------------------------

    @guarded
    def _on_replan(self) -> None:
        if self.active:
            self.requests.request()

    def _publish(self, chunk: ActionChunk) -> None:
        self._chunks.publish(chunk_to_message(chunk))

    def _count_chunk(self) -> None:
        self._imagination.last = self.requests.last or self._imagination.last
        if self._instructions is not None:
            self._instructions.count_chunk()

    def diagnose(self, report: Report) -> None:
        """Counters, latency, silent cameras, and why there is no chunk."""
        self._streams.diagnose(report)
        policy, requests = self.policy, self.requests
        if policy is not None:
            report.put(policy=policy.name, contract=policy.contract, checkpoint=policy.identity.checkpoint,
                       engine=policy.identity.engine, trained=policy.identity.trained)
            if not policy.identity.trained:
                report.add(Level.WARN, f'{policy.identity.checkpoint} is untrained: its chunks mean nothing')
            server = getattr(policy, 'counts', None)
            if server is not None:
                report.put(**{f'server_{name}': count for name, count in asdict(server).items()})
        counts = self._assembler.counts
        report.put(instruction=requests.instruction, paused=requests.paused, images=counts.images,
                   images_late=counts.images_late, joint_states=counts.joint_states,
                   observations=counts.observations,
                   requests_dropped=requests.worker.dropped if requests.worker else 0)
        requests.record.report(report)
        if self.active and requests.instruction and not requests.paused and requests.refused:
            report.add(Level.WARN, f'no chunk: {requests.refused}')


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(GeneratorNode, args)


if __name__ == '__main__':
    sys.exit(main())
