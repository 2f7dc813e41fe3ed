"""The generator node on a real graph, with a policy that can be made slow, wrong or broken."""

import json
import math
import threading
import time

from camera_rig import CameraRig
from cosmos3_ros.action import ExecuteInstruction
import cosmos3_ros.msg as msg
import cosmos3_ros.srv as srv
from diagnostic_msgs.msg import DiagnosticArray
from fake_arm import FakeArm
import numpy as np
import pytest
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import Graph, wait_for
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from cosmos3_ros.contracts import (
    ActionChunk,
    ModelIdentity,
    Observation,
    Plausibility,
    SceneReport,
    TaskState,
)
from cosmos3_ros.generator.film import Film
from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.nodes import cameras
from cosmos3_ros.nodes.generator import GeneratorNode
from cosmos3_ros.nodes.generator_parameters import policy_options
from cosmos3_ros.nodes.messages import scene_to_message, to_ns
from cosmos3_ros.nodes.parameters import ParameterError
from cosmos3_ros.robots import load_robot

TRAINED = ModelIdentity('test@1', 'test', True)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
QUICK = {'replan_interval_s': 0.05, 'max_age_s': 2.0, 'max_joint_gap_s': 0.5}


class StubPolicy:
    """Holds the arm where it is. ``gate`` closed makes it slow."""

    name, contract, identity = 'stub', 'droid_joint', TRAINED
    joint_names = load_robot('panda').joint_names
    camera_slots: tuple[str, ...] = ('wrist',)
    step_ns, horizon = 66_666_667, 32

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.seen: list[tuple[Observation, str, int]] = []
        self.prefixes: list[object] = []
        self.stages_ms = {'denoise': 1.5}
        self.imagination = self
        self.imagined: list[tuple[Observation, ActionChunk]] = []
        self.error: Exception | None = None
        self.prefix_error: Exception | None = None
        self.warm, self.closed = False, False

    def warm_up(self) -> None:
        self.warm = True

    def generate(
        self, observation: Observation, instruction: str, *, seed: int, prefix: object = None,
    ) -> ActionChunk:
        self.seen.append((observation, instruction, seed))
        self.prefixes.append(prefix)
        self.waiting.set()
        assert self.gate.wait(20.0)
        if self.error is not None:
            raise self.error
        return ActionChunk(
            stamp_ns=observation.stamp_ns, step_ns=self.step_ns, joint_names=self.joint_names,
            positions=np.tile(observation.joint_position, (32, 1)), gripper=np.zeros(32),
            contract=self.contract, instruction=instruction, seed=seed, steps=0, guidance=1.0,
            policy=self.name, identity=TRAINED, trace_id=f'stub-{len(self.seen)}', latency_s=0.0)

    def prefix_of(
        self, previous: ActionChunk, observation: Observation, delay_s: float, *, decay: str,
    ) -> tuple[str, int, float, str]:
        if self.prefix_error is not None:
            raise self.prefix_error
        return previous.trace_id, observation.stamp_ns, delay_s, decay

    def imagine(self, observation: Observation, chunk: ActionChunk, *, seed: int) -> Film:
        del seed
        self.imagined.append((observation, chunk))
        frames = np.stack([np.full((16, 32, 3), 10 * i, np.uint8) for i in range(4)])
        return Film(chunk.stamp_ns, 20_000_000, frames, chunk.instruction, TRAINED, chunk.trace_id, 0.1)

    def close(self) -> None:
        self.closed = True


class StubbedGenerator(GeneratorNode):
    def create_policy(self, robot: object) -> StubPolicy:
        self.stub = StubPolicy()
        return self.stub


class Bench:
    def __init__(self, graph: Graph, *, transport: str = 'raw', **parameters: object) -> None:
        self.graph = graph
        self.arm = FakeArm(graph)
        self.rig = CameraRig(graph, transport=transport)
        self.chunks = graph.collect(msg.ActionChunk, 'action_chunk')
        self.announced = graph.collect(String, 'instruction', LATCHED)
        self.node = graph.add(StubbedGenerator, image_transport=transport, **{**QUICK, **parameters})
        self.node.trigger_configure()
        assert self.node.state_label == 'inactive', self.node.failure
        self.policy = self.node.stub
        assert self.policy.warm
        self.node.trigger_activate()

    def instruct(self, text: str) -> srv.SetInstruction.Response:
        return self.graph.call(
            srv.SetInstruction, '/generator/set_instruction', srv.SetInstruction.Request(instruction=text))

    def refusal(self, text: str) -> None:
        wait_for(lambda: text in self.node.requests.refused,
                 f'the refusal {text!r} (is: {self.node.requests.refused!r})')
        assert self.node.state_label == 'active'


@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_chunks_follow_the_instruction_and_carry_honest_stamps(graph, transport):
    bench = Bench(graph, transport=transport, seed=7)
    wait_for(lambda: bench.node._assembler.counts.images > 6, 'images')
    assert bench.chunks == [], 'without an instruction there are no chunks'
    assert bench.instruct('push the red cube').accepted
    wait_for(lambda: len(bench.chunks) >= 3, 'chunks')
    observation, instruction, seed = bench.policy.seen[0]
    assert (instruction, seed) == ('push the red cube', 7)
    assert set(observation.images) == {'wrist', 'exterior_1', 'exterior_2'}
    assert abs(int(observation.images['exterior_1'].mean()) - 80) <= 2
    assert to_ns(bench.chunks[0].header.stamp) == observation.stamp_ns
    assert np.allclose(observation.joint_position, bench.arm.position)
    assert {chunk.seed for chunk in bench.chunks} == {7}
    assert bench.announced[-1].data == 'push the red cube'


def test_seed_per_chunk_counts_up(graph):
    bench = Bench(graph, seed=2**32 - 1, seed_mode='per_chunk', instruction='go')
    wait_for(lambda: len(bench.policy.seen) >= 3, 'requests')
    assert [seed for _, _, seed in bench.policy.seen[:3]] == [2**32 - 1, 0, 1]


def test_injected_latency_delays_publication_not_the_stamp(graph):
    bench = Bench(graph, injected_latency_s=0.3, instruction='go')
    wait_for(lambda: bench.chunks, 'a chunk')
    chunk = bench.chunks[0]
    assert chunk.latency_s >= 0.3
    assert graph.client.get_clock().now().nanoseconds - to_ns(chunk.header.stamp) >= 300_000_000


def test_new_instruction_drops_the_chunk_in_flight(graph):
    bench = Bench(graph)
    bench.policy.gate.clear()
    bench.instruct('first')
    assert bench.policy.waiting.wait(20.0)
    bench.instruct('second')
    bench.policy.gate.set()
    wait_for(lambda: bench.chunks, 'a chunk')
    assert {chunk.instruction for chunk in bench.chunks} == {'second'}
    assert bench.node.counters['chunks_dropped'] == 1


def test_empty_instruction_pauses(graph):
    bench = Bench(graph, instruction='go')
    wait_for(lambda: bench.chunks, 'a chunk')
    assert bench.instruct('').accepted
    wait_for(lambda: not bench.node.requests.worker.busy, 'the end of the request in work')
    before = len(bench.policy.seen)
    # The sentinel: the next request after resuming is the next request at all.
    assert bench.instruct('again').accepted
    wait_for(lambda: len(bench.policy.seen) > before, 'a request')
    assert bench.policy.seen[before][1] == 'again'


def test_slow_policy_gets_the_newest_observation(graph):
    bench = Bench(graph, instruction='go')
    bench.policy.gate.clear()
    bench.policy.waiting.clear()
    assert bench.policy.waiting.wait(20.0)
    wait_for(lambda: bench.node.requests.worker.dropped >= 2, 'requests that a newer one replaced')
    released_ns = graph.client.get_clock().now().nanoseconds
    count = len(bench.policy.seen)
    bench.policy.gate.set()
    wait_for(lambda: len(bench.policy.seen) > count, 'the next request')
    assert released_ns - bench.policy.seen[count][0].stamp_ns < 300_000_000


def test_pause_keeps_the_instruction_and_drops_the_chunk_in_flight(graph):
    bench = Bench(graph, instruction='go')
    wait_for(lambda: bench.chunks, 'a chunk')
    bench.policy.gate.clear()
    bench.policy.waiting.clear()
    assert bench.policy.waiting.wait(40.0)
    before, seen = len(bench.chunks), len(bench.policy.seen)
    assert graph.call(Trigger, '/generator/pause').success
    bench.policy.gate.set()
    wait_for(lambda: bench.node.counters['chunks_dropped'] == 1, 'the chunk in flight to be dropped')
    assert bench.node.instruction == 'go' and 'after ~/resume' in bench.instruct('second').message
    bench.node._on_replan()
    assert len(bench.chunks) == before and len(bench.policy.seen) == seen, 'nothing is asked while paused'
    assert graph.call(Trigger, '/generator/resume').success
    wait_for(lambda: len(bench.chunks) > before, 'chunks after resuming')
    assert bench.chunks[-1].instruction == 'second' and not bench.node.requests.paused


def test_each_chunk_is_tied_to_the_one_that_plays(graph):
    bench = Bench(graph, instruction='go', real_time_chunking=True, prefix_decay='EXP')
    wait_for(lambda: len(bench.chunks) >= 3, 'chunks')
    assert bench.policy.prefixes[0] is None, 'there is none before the first'
    name, stamp_ns, delay_s, decay = bench.policy.prefixes[2]
    assert (name, stamp_ns, decay) == ('stub-2', bench.policy.seen[2][0].stamp_ns, 'EXP')
    assert 0.0 <= delay_s < 60.0 and bench.node.counters['chunks_tied'] >= 2
    bench.instruct('something else')
    wait_for(lambda: any(seen[1] == 'something else' for seen in list(bench.policy.seen)), 'the new request')
    index = next(i for i, seen in enumerate(bench.policy.seen) if seen[1] == 'something else')
    assert bench.policy.prefixes[index] is None, 'another instruction owes nothing to the old chunk'
    bench.policy.prefix_error = PolicyError('older than the previous chunk')
    wait_for(lambda: bench.node.counters['prefixes_refused'] >= 1, 'a refused prefix')
    before = len(bench.chunks)
    wait_for(lambda: len(bench.chunks) > before, 'chunks all the same')


def test_in_simulation_each_episode_is_followed_once_and_never_over_a_person(graph):
    bench = Bench(graph, follow_simulation=True)
    simulation = graph.publisher(msg.SimulationState, 'simulation_state')
    wait_for(lambda: simulation.get_subscription_count() == 1, 'the generator')

    def announce(instruction, episode, *, success=False):
        simulation.publish(msg.SimulationState(
            instruction=instruction, episode=episode, success=success, zone_xy=[0.5, 0.0]))

    def announce_in_vain(instruction, episode):
        """The sentinel: a message that cannot be read is counted after the one before it was seen."""
        before, rejected = bench.node.instruction, bench.node.counters['rejected']
        announce(instruction, episode)
        simulation.publish(msg.SimulationState(zone_xy=[math.nan, 0.0]))
        wait_for(lambda: bench.node.counters['rejected'] == rejected + 1, 'the broken message')
        assert bench.node.instruction == before

    said = []

    def is_said(instruction):
        """The topic keeps its newest message only: each has to be seen before the next is sent."""
        said.append(instruction)
        wait_for(lambda: [m.data for m in bench.announced if m.data] == said, f'{instruction} announced')
        assert bench.node.instruction == instruction

    announce('push the red cube', 0, success=True)
    announce('push the blue cube', 1)
    is_said('push the blue cube')
    assert bench.instruct('').accepted
    announce('push the blue cube', 1)
    # The sentinel: what arrives after it is taken, so the one before was seen and left alone.
    announce('push the green cube', 2)
    is_said('push the green cube')
    announce('push the yellow cube', 3)
    is_said('push the yellow cube')
    assert bench.instruct('wave').accepted
    is_said('wave')
    announce_in_vain('push the red cube', 4)
    assert bench.node.instruction == 'wave'
    assert bench.instruct('').accepted
    announce('push the red cube', 4)  # what was passed over while a person's was on stays away
    announce(' push the white cube ', 5)
    is_said('push the white cube')
    assert bench.instruct('push the white cube').accepted
    is_said('push the white cube')
    announce_in_vain('push the red cube', 6)
    assert bench.node.instruction == 'push the white cube', 'a person asked for the same'
    assert [m.data for m in bench.announced if m.data] == [
        'push the blue cube', 'push the green cube', 'push the yellow cube', 'wave', *(
            ['push the white cube'] * 2)]


def test_without_being_told_to_the_simulation_is_not_listened_to(graph):
    bench = Bench(graph)
    assert bench.node.count_subscribers('simulation_state') == 0


def test_a_policy_that_cannot_be_tied_is_refused(graph):
    node = graph.add(GeneratorNode, policy='oracle', real_time_chunking=True)
    node.trigger_configure()
    assert node.state_label == 'unconfigured' and 'policy oracle cannot be tied' in node.failure


def test_diagnostics_name_chunks_and_stages_without_the_first(graph):
    reports = graph.collect(DiagnosticArray, '/diagnostics')
    bench = Bench(graph)
    first = threading.Event()

    def slow_first(observation, instruction, *, seed, prefix=None):
        if not first.is_set():
            first.set()
            time.sleep(0.5)  # what only an instruction's first chunk waits for
        return StubPolicy.generate(bench.policy, observation, instruction, seed=seed, prefix=prefix)

    bench.policy.generate = slow_first
    bench.instruct('go')

    def values() -> dict[str, str]:
        found = [status for array in reports for status in array.status if 'generator' in status.name]
        return {item.key: item.value for item in found[-1].values} if found else {}

    wait_for(lambda: 'stage_policy_denoise_ms_p50' in values() and 'traces' in values(), 'stages')
    report = values()
    assert report['trace_id'].startswith('stub-') and report['trace_id'] in report['traces']
    assert float(report['stage_policy_denoise_ms_p50']) == 1.5
    assert float(report['first_chunk_latency_s']) >= 0.5
    assert {'stage_assemble_ms_p99', 'stage_policy_ms_p50', 'chunk_age_s_p50', 'latency_s_max'} <= set(report)
    assert len(bench.node.requests.record.latency_s) < bench.node.counters['chunks']


def test_what_is_imagined_is_published_for_review(graph):
    bench = Bench(graph, instruction='go')
    frames = graph.collect(Image, '/generator/imagined/image_raw')
    wait_for(lambda: bench.chunks, 'a chunk')
    answer = graph.call(Trigger, '/generator/imagine')
    assert not answer.success and 'pause first' in answer.message
    assert graph.call(Trigger, '/generator/pause').success
    answer = graph.call(Trigger, '/generator/imagine')
    assert answer.success, answer.message
    wait_for(lambda: len(frames) == 4, 'four frames')
    observation, chunk = bench.policy.imagined[0]
    assert chunk.trace_id in answer.message and observation.stamp_ns == chunk.stamp_ns
    assert [to_ns(f.header.stamp) - chunk.stamp_ns for f in frames] == [0, 20_000_000, 40_000_000, 60_000_000]
    assert [bytes(f.data)[0] for f in frames] == [0, 10, 20, 30] and frames[0].header.frame_id == 'imagined'
    before = len(bench.chunks)
    assert graph.call(Trigger, '/generator/resume').success
    wait_for(lambda: len(bench.chunks) > before, 'chunks after the film')


def test_nothing_to_imagine(graph):
    bench = Bench(graph)
    assert 'no chunk was published yet' in graph.call(Trigger, '/generator/imagine').message
    bench.policy.imagination = None
    assert 'policy stub cannot imagine' in graph.call(Trigger, '/generator/imagine').message


def spoil_encoding(message: Image) -> Image:
    message.encoding = '16UC1'
    return message


def spoil_size(message: Image) -> Image:
    message.height += 1
    return message


@pytest.mark.parametrize(('spoil', 'text'), [(spoil_encoding, 'depth'), (spoil_size, 'bytes arrived')])
def test_bad_image_is_refused_and_the_camera_named(graph, spoil, text, capfd):
    bench = Bench(graph, instruction='go')
    wait_for(lambda: bench.chunks, 'a chunk')
    bench.rig.spoil['wrist'] = spoil
    wait_for(lambda: bench.node.counters['images_refused.wrist'] > 1, 'refused images')
    bench.refusal('wrist: its newest image is')
    bench.rig.spoil.clear()
    before = len(bench.chunks)
    wait_for(lambda: len(bench.chunks) > before, 'recovery')
    assert text in capfd.readouterr().err


def spoil_jpeg(message: CompressedImage) -> CompressedImage:
    message.data = bytes(message.data)[:20]
    return message


def test_images_that_no_request_uses_are_never_decoded(graph, monkeypatch):
    decoded: list[int] = []
    original = cameras.rgb_from_compressed

    def count(message: CompressedImage) -> np.ndarray:
        decoded.append(to_ns(message.header.stamp))
        return original(message)

    monkeypatch.setattr(cameras, 'rgb_from_compressed', count)
    bench = Bench(graph, transport='compressed')
    wait_for(lambda: bench.node._assembler.counts.images > 12, 'images')
    assert decoded == [], 'nothing was asked for'
    bench.instruct('go')
    wait_for(lambda: bench.chunks, 'a chunk')
    assert len(decoded) >= 3
    bench.rig.spoil['wrist'] = spoil_jpeg
    bench.refusal('wrist: image:')
    wait_for(lambda: bench.node.counters['images_refused.wrist'] > 0, 'the refused image to be counted')
    bench.rig.spoil.clear()
    before = len(bench.chunks)
    wait_for(lambda: len(bench.chunks) > before, 'recovery')


def test_camera_that_stops_is_named_and_recovers(graph):
    bench = Bench(graph, instruction='go', max_age_s=0.4)
    wait_for(lambda: bench.chunks, 'a chunk')
    bench.rig.silent.add('exterior_2')
    bench.refusal('exterior_2: its newest image is')
    bench.rig.silent.clear()
    before = len(bench.chunks)
    wait_for(lambda: len(bench.chunks) > before, 'recovery')


def test_missing_camera_is_refused_unless_blank(graph):
    bench = Bench(graph, instruction='go', blank_cameras=['exterior_2'])
    wait_for(lambda: bench.policy.seen, 'an observation')
    assert bench.policy.seen[0][0].blank_cameras == ('exterior_2',)
    assert not bench.policy.seen[0][0].images['exterior_2'].any()


def test_missing_joint_refuses_observations(graph):
    bench = Bench(graph, instruction='go')
    wait_for(lambda: bench.chunks, 'a chunk')

    def drop(message: JointState) -> JointState:
        return JointState(header=message.header, name=message.name[1:], position=message.position[1:])

    bench.arm.change = drop
    bench.refusal('joint_states: the nearest one is')
    assert bench.node.counters['rejected'] > 0


def test_clock_set_back_forgets_and_recovers(graph):
    bench = Bench(graph, instruction='go', max_age_s=10.0, max_joint_gap_s=1.0)
    wait_for(lambda: bench.chunks, 'a chunk')
    bench.rig.shift_ns = -2_000_000_000
    wait_for(lambda: bench.node.counters['clock_resets'] >= 1, 'a clock reset')
    bench.rig.shift_ns = 0
    before = len(bench.chunks)
    wait_for(lambda: len(bench.chunks) > before, 'recovery')


@pytest.mark.parametrize('error', [PolicyError('no good'), RuntimeError('boom')])
def test_policy_that_fails_is_counted_and_asked_again(graph, error):
    bench = Bench(graph)
    bench.policy.error = error
    bench.instruct('go')
    wait_for(lambda: bench.node.counters['failures'] >= 2, 'failures')
    bench.policy.error = None
    wait_for(lambda: bench.chunks, 'a chunk')


def test_late_chunk_is_thrown_away(graph):
    bench = Bench(graph, instruction='go', request_deadline_s=0.05, injected_latency_s=0.1)
    wait_for(lambda: bench.node.counters['chunks_late'] >= 2, 'late chunks')
    assert bench.chunks == []


@pytest.mark.parametrize(('parameters', 'text'), [
    ({'policy': 'crystal_ball'}, "'crystal_ball' arrived"),
    ({'policy': 'cosmos3', 'checkpoint': 'missing/checkpoint'}, 'missing/checkpoint'),
    ({'robot': 'r2d2', 'policy': 'oracle'}, "'r2d2' arrived"),
    ({'policy': 'oracle', 'cameras': ['wrist'], 'blank_cameras': ['elbow']}, 'elbow'),
    ({'policy': 'oracle', 'policy_options': ['speed=9']}, 'speed'),
])
def test_what_cannot_be_set_up_is_said_and_the_node_stays(graph, parameters, text):
    node = graph.add(GeneratorNode, **parameters)
    node.trigger_configure()
    assert node.state_label == 'unconfigured'
    assert text in node.failure
    node.trigger_configure()
    assert text in node.failure, 'a second attempt says the same'


@pytest.mark.parametrize(('robot', 'contract', 'text'), [
    ('ur5e', 'droid_joint', 'robot ur5e'), ('ur5e', 'eef_delta', 'this checkpoint answers eef_delta/droid'),
    ('panda', 'droid_joint', ''), ('panda', 'eef_delta', '')])
def test_contracts_are_never_confused(graph, tmp_path, robot, contract, text):
    """A checkpoint names its contract; a robot that does not accept it is refused when it is configured."""
    pytest.importorskip('torch', reason="the extra 'model' is not installed")
    from cosmos3_ros.model.checkpoint_init import init_checkpoint

    directory = init_checkpoint(tmp_path / 'micro', 'micro', seed=3).directory
    path = directory / 'cosmos3_ros.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'contract': contract}))
    node = graph.add(
        GeneratorNode, robot=robot, policy='cosmos3', checkpoint=str(directory), policy_options=['steps=1'])
    node.trigger_configure()
    assert text in node.failure and node.state_label == ('unconfigured' if text else 'inactive')
    if not text:
        assert node.policy.contract.partition('/')[0] == contract


def test_policy_options_are_yaml():
    assert policy_options(['steps=4', 'guidance=3.0', 'name=x']) == {
        'steps': 4, 'guidance': 3.0, 'name': 'x'}
    with pytest.raises(ParameterError, match='name=value'):
        policy_options(['steps'])


class Client:
    """Sends goals and keeps what comes back."""

    def __init__(self, graph: Graph) -> None:
        self.action = ActionClient(graph.client, ExecuteInstruction, 'execute_instruction')
        assert self.action.wait_for_server(20.0)
        self.feedback: list[object] = []

    def send(self, instruction: str, timeout_s: float = 0.0) -> object:
        goal = ExecuteInstruction.Goal(instruction=instruction)
        goal.timeout.sec, goal.timeout.nanosec = int(timeout_s), int(timeout_s % 1 * 1e9)
        future = self.action.send_goal_async(goal, lambda m: self.feedback.append(m.feedback))
        wait_for(future.done, 'the answer to the goal')
        return future.result()

    @staticmethod
    def result(handle: object) -> ExecuteInstruction.Result:
        future = handle.get_result_async()
        wait_for(future.done, 'the result')
        return future.result().result


def test_goal_runs_until_cancelled_and_a_second_is_rejected(graph):
    bench, client = Bench(graph), Client(graph)
    handle = client.send('pick the cube')
    assert handle.accepted
    wait_for(lambda: any(f.chunks > 0 for f in client.feedback), 'feedback with chunks')
    assert not client.send('something else').accepted
    assert not bench.instruct('something else').accepted
    cancelled = handle.cancel_goal_async()
    wait_for(cancelled.done, 'the cancellation')
    result = client.result(handle)
    assert result.reason == 'canceled by the client' and result.chunks > 0
    wait_for(lambda: bench.node.instruction == '', 'the pause after the goal')
    assert client.send('something else', 0.3).accepted


def test_goal_times_out_on_the_node_clock(graph):
    Bench(graph)
    client = Client(graph)
    begin = time.monotonic()
    result = client.result(client.send('pick the cube', 0.6))
    assert result.reason == 'timeout after 0.6 s'
    assert result.elapsed_s >= 0.6 and time.monotonic() - begin >= 0.6


def scene(
    node: GeneratorNode, instruction: str, state: TaskState, *, trained: bool = True,
) -> msg.SceneReport:
    now = node.now_ns()
    return scene_to_message(SceneReport(
        stamp_ns=now, clip_start_ns=now, clip_frames=2, cameras=('wrist',), instruction=instruction,
        caption='', objects=(), next_action='', task_state=state, hazards=(),
        plausibility=Plausibility.UNKNOWN, parsed=True, reason='', raw_text='',
        identity=ModelIdentity('reasoner', 'test', trained), latency_s=0.0))


def test_goal_ends_when_a_trained_reasoner_says_done_about_it(graph):
    bench, client = Bench(graph, stop_on_scene_state=True, scene_state_reports=1), Client(graph)
    scenes = graph.publisher(msg.SceneReport, 'scene', LATCHED)
    handle = client.send('pick the cube')
    scenes.publish(scene(bench.node, 'another task', TaskState.DONE))
    scenes.publish(scene(bench.node, 'pick the cube', TaskState.DONE, trained=False))
    scenes.publish(scene(bench.node, 'pick the cube', TaskState.IN_PROGRESS))
    wait_for(lambda: any(f.last_scene.task_state == TaskState.IN_PROGRESS for f in client.feedback),
             'feedback with the scene: the first two reports ended nothing')
    scenes.publish(scene(bench.node, 'pick the cube', TaskState.DONE))
    result = client.result(handle)
    assert result.task_state == TaskState.DONE and 'reasoner' in result.reason


def test_deactivation_aborts_the_goal(graph):
    bench, client = Bench(graph), Client(graph)
    handle = client.send('pick the cube')
    bench.node.trigger_deactivate()
    assert client.result(handle).reason == 'the generator was deactivated'
    assert not client.send('again').accepted
    assert not bench.instruct('again').accepted


def test_cleanup_closes_the_policy_and_configure_works_again(graph):
    bench = Bench(graph)
    first = bench.policy
    bench.node.trigger_deactivate()
    bench.node.trigger_cleanup()
    assert first.closed and bench.node.state_label == 'unconfigured'
    bench.node.trigger_configure()
    bench.node.trigger_activate()
    bench.instruct('go')
    wait_for(lambda: bench.chunks, 'a chunk from the second life')
