"""The perception node on a real graph, with a reasoner backend that can be slow or broken."""

from collections.abc import Sequence
import json
import threading

from camera_rig import CameraRig
import cosmos3_ros.msg as msg
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import Graph, wait_for
from sensor_msgs.msg import Image
from std_msgs.msg import String

from cosmos3_ros.contracts import Clip, ModelIdentity, TaskState
from cosmos3_ros.nodes.messages import to_ns
from cosmos3_ros.nodes.perception import PerceptionNode
from cosmos3_ros.reasoner import Answer, BackendError, Deadline, Question

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
QUICK = {'period_s': 0.1, 'fps': 10.0, 'frames': 2, 'max_age_s': 2.0}
ANSWER = json.dumps({
    'caption': 'a cube', 'objects': [], 'next_action': 'wait', 'task_state': 'done', 'hazards': [],
    'plausibility': 'possible'})


class StubBackend:
    identity = ModelIdentity('stub@1', 'test', True)

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.clips: list[Sequence[Clip]] = []
        self.prompts: list[str] = []
        self.prepared: list[tuple[tuple[tuple[int, ...], ...], Question]] = []
        self.error: Exception | None = None
        self.text = ANSWER
        self.free_gate = threading.Event()
        self.free_gate.set()
        self.free_error: Exception | None = None
        self.free_text = ''
        self.questions: list[Question] = []
        self.deadlines: list[Deadline | None] = []
        self.warm = self.closed = False

    def warm_up(self) -> None:
        self.warm = True

    def prepare(self, clips: Sequence[Clip], question: Question) -> None:
        self.prepared.append((tuple(clip.frames.shape for clip in clips), question))

    def answer(
        self, clips: Sequence[Clip], question: Question, deadline: Deadline | None = None,
    ) -> Answer:
        self.clips.append(clips)
        self.prompts.append(question.text)
        if question.answer != 'scene':
            return self.answer_free(question, deadline)
        while not self.gate.wait(0.01):
            if deadline is not None and deadline.over:
                return Answer('', 0, 0, 'late', 0.0, 0.0, 0.0)
        if self.error is not None:
            raise self.error
        return Answer(self.text, 1, 1, 'stop', 0.0, 0.0, 0.0)

    def answer_free(self, question: Question, deadline: Deadline | None) -> Answer:
        self.questions.append(question)
        self.deadlines.append(deadline)
        assert self.free_gate.wait(40.0)
        if self.free_error is not None:
            raise self.free_error
        return Answer(self.free_text, 1, 1, 'stop', 0.0, 0.0, 0.0)

    def close(self) -> None:
        self.closed = True


class StubbedPerception(PerceptionNode):
    def create_backend(self) -> StubBackend:
        self.stub = StubBackend()
        return self.stub


class Bench:
    def __init__(self, graph: Graph, *, transport: str = 'raw', **parameters: object) -> None:
        self.rig = CameraRig(graph, transport=transport)
        self.scenes = graph.collect(msg.SceneReport, 'scene', LATCHED)
        self.node = graph.add(StubbedPerception, image_transport=transport, **{**QUICK, **parameters})
        self.node.trigger_configure()
        assert self.node.state_label == 'inactive', self.node.failure
        self.backend = self.node.stub
        self.node.trigger_activate()

    def report(self) -> msg.SceneReport:
        before = len(self.scenes)
        wait_for(lambda: len(self.scenes) > before, 'a report')
        return self.scenes[-1]


@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_reports_carry_the_clip_and_the_instruction(graph, transport):
    bench = Bench(graph, transport=transport)
    report = bench.report()
    assert bench.backend.warm
    assert report.parsed and report.caption == 'a cube' and report.task_state == TaskState.DONE
    clips = bench.backend.clips[0]
    assert [clip.camera for clip in clips] == ['wrist', 'exterior_1', 'exterior_2']
    assert abs(int(clips[1].frames.mean()) - 80) <= 2
    assert to_ns(report.clip_start) < to_ns(report.header.stamp)
    graph.publisher(String, 'instruction', LATCHED).publish(String(data='stack the cubes'))
    wait_for(lambda: bench.scenes[-1].instruction == 'stack the cubes', 'a report on the instruction')
    assert 'stack the cubes' in bench.backend.prompts[-1]


def test_a_trained_checkpoint_is_shown_what_it_was_trained_on_where_that_is_asked_for(graph):
    bench = Bench(graph, checkpoint='cosmos3-tiny', trained_clips=True, cameras=['exterior_2'])
    # Two seconds of four frames each are asked about once the buffer holds them.
    wait_for(lambda: bench.backend.clips and len(bench.backend.clips[-1][0].frames) == 8, 'clips of 8 frames')
    clips = bench.backend.clips[-1]
    assert [clip.camera for clip in clips] == ['wrist', 'exterior_1', 'exterior_2']
    spans_ns = {int(clip.stamps_ns[-1] - clip.stamps_ns[0]) for clip in clips}
    assert all(abs(span_ns - 1_750_000_000) < 150_000_000 for span_ns in spans_ns)
    assert bench.backend.prepared[0][1].max_new_tokens == 896
    assert (bench.node._buffer._max_frame_pixels, bench.node._shown['fps']) == (65536, 4.0)


def test_a_checkpoint_that_is_none_is_refused_when_its_clips_are_asked_for(graph, tmp_path):
    node = graph.add(StubbedPerception, checkpoint=str(tmp_path / 'gone'), trained_clips=True)
    node.trigger_configure()
    assert node.state_label == 'unconfigured' and 'gone' in node.failure and 'checkpoint' in node.failure


def test_slow_reasoner_drops_clips_and_reports_the_newest(graph):
    bench = Bench(graph)
    bench.report()
    bench.backend.gate.clear()
    asked = len(bench.backend.clips)
    wait_for(lambda: bench.node._worker.dropped >= 3, 'dropped clips')
    now_ns = bench.node.now_ns()
    assert len(bench.backend.clips) <= asked + 1, 'one request in work, one waiting'
    bench.backend.gate.set()
    wait_for(lambda: len(bench.backend.clips) > asked + 1, 'the next request')
    assert now_ns - int(bench.backend.clips[asked + 1][0].stamps_ns[-1]) < 500_000_000


def test_deactivation_gives_up_a_report_under_way_and_activation_begins_anew(graph):
    bench = Bench(graph)
    bench.report()
    bench.backend.gate.clear()
    asked, worker = len(bench.backend.clips), bench.node._worker
    wait_for(lambda: len(bench.backend.clips) > asked and worker.busy, 'a report under way')
    bench.node.trigger_deactivate()
    assert bench.node.state_label == 'inactive' and not worker._thread.is_alive()
    bench.backend.gate.set()
    bench.node.trigger_activate()
    assert bench.report().parsed and bench.node.counters['reports_unparsed'] == 0


@pytest.mark.parametrize('error', [BackendError('no answer'), RuntimeError('boom')])
def test_failing_backend_is_counted_and_the_node_recovers(graph, error):
    bench = Bench(graph)
    bench.backend.error = error
    wait_for(lambda: bench.node.counters['failures'] >= 2, 'failures')
    bench.backend.error = None
    assert bench.report().parsed


def test_malformed_answer_is_published_with_its_reason(graph):
    bench = Bench(graph)
    bench.backend.text = 'I see a cube {'
    wait_for(lambda: bench.scenes and not bench.scenes[-1].parsed, 'an unparsed report')
    assert bench.scenes[-1].reason and bench.scenes[-1].raw_text == 'I see a cube {'


def test_silent_camera_is_named_in_diagnostics(graph):
    from diagnostic_msgs.msg import DiagnosticArray
    diagnostics = graph.collect(DiagnosticArray, '/diagnostics')
    bench = Bench(graph)
    bench.report()
    bench.rig.silent.add('exterior_1')
    wait_for(lambda: any('camera exterior_1: no usable image' in status.message
                         for array in diagnostics for status in array.status), 'the silent camera')
    values = {pair.key: pair.value for pair in diagnostics[-1].status[0].values}
    assert diagnostics[-1].status[0].name == 'perception'
    assert int(values['images_received.wrist']) > int(values['images_received.exterior_1'])


def test_annotated_image_only_for_subscribers(graph):
    bench = Bench(graph)
    bench.report()
    pictures = graph.collect(Image, '/perception/annotated', 1)
    wait_for(lambda: pictures, 'an annotated image')
    assert pictures[0].encoding == 'rgb8' and (pictures[0].height, pictures[0].width) == (24, 32)


@pytest.mark.parametrize(('parameters', 'text'), [
    ({'backend': 'psychic'}, "'psychic' arrived"), ({'prompts': 'no/such/file.yaml'}, 'no/such/file.yaml'),
    ({'robot': 'r2d2'}, "'r2d2' arrived"),
    ({'backend': 'tensorrt'}, "device: 'cpu' arrived, cuda or cuda:n is allowed"),
    ({'backend': 'openai', 'base_url': 'http://127.0.0.1:9/v1', 'request_options': '['}, 'is not JSON'),
    ({'backend': 'openai', 'base_url': 'http://127.0.0.1:9/v1', 'request_options': '[]'}, 'a JSON object'),
    ({'clip_layout': 'composed', 'cameras': ['wrist']}, 'no image for camera slot exterior_1')])
def test_what_cannot_be_set_up_is_said_and_the_node_stays(graph, parameters, text):
    kind = PerceptionNode if 'backend' in parameters else StubbedPerception
    node = graph.add(kind, **parameters)
    node.trigger_configure()
    assert node.state_label == 'unconfigured' and text in node.failure
