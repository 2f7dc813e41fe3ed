"""``~/ask`` on a real graph, beside the reports."""

from builtin_interfaces.msg import Duration
from cosmos3_ros.srv import Ask
from diagnostic_msgs.msg import DiagnosticArray
import pytest
from ros_graph import wait_for
from test_perception_node import Bench, StubbedPerception

from cosmos3_ros.nodes.diagnostics import values_of
from cosmos3_ros.nodes.messages import to_ns
from cosmos3_ros.reasoner import BackendError

FIRST = 'exterior_1'


def question(text='Is the gripper open?', **fields):
    return Ask.Request(question=text, **fields)


def ask(graph, *arguments, **fields):
    return graph.call(Ask, '/perception/ask', question(*arguments, **fields))


def begin(graph, request):
    """Send a question and return the future."""
    client = graph.client.create_client(Ask, '/perception/ask')
    assert client.wait_for_service(40.0)
    return client.call_async(request)


class AskBench(Bench):
    """Free questions can be held back or fail while reports go on."""

    def __init__(self, graph, **parameters):
        super().__init__(graph, **parameters)
        self.backend.free_text = 'Yes, it is open.'
        wait_for(lambda: self.scenes, 'a report')

    def count(self, name):
        return self.node.counters[name]


def test_an_answer_carries_its_clip_and_its_model(graph):
    bench = AskBench(graph)
    response = ask(graph)
    assert response.success and response.message == ''
    assert response.answer == 'Yes, it is open.' and response.reasoning == ''
    assert response.cameras == ['wrist', 'exterior_1', 'exterior_2']
    assert (response.checkpoint, response.engine, response.trained) == ('stub@1', 'test', True)
    now_ns = bench.node.now_ns()
    assert to_ns(response.clip_start) < to_ns(response.stamp) <= now_ns
    assert now_ns - to_ns(response.stamp) < 10_000_000_000
    assert 0.0 < response.latency_s < 40.0
    assert 'Is the gripper open?' in bench.backend.questions[-1].text


def test_one_camera_thinking_and_other_prompts(graph):
    bench = AskBench(graph)
    bench.backend.free_text = '<think>The fingers are apart.</think> Yes.'
    bench.rig.silent.add('exterior_2')
    wait_for(lambda: not ask(graph).success, 'a silent camera that refuses clips of all')
    response = ask(graph, camera=FIRST, think=True)
    assert response.success, response.message
    assert (response.answer, response.reasoning) == ('Yes.', 'The fingers are apart.')
    assert response.cameras == [FIRST] and bench.backend.questions[-1].prompt == 'free_think'
    assert abs(int(bench.backend.clips[-1][0].frames.mean()) - 80) <= 2
    bench.backend.free_text = '[{"bbox_2d": [0, 0, 500, 1000], "label": "cube"}, {"label": "no box"}]'
    response = ask(graph, 'the cube', camera=FIRST, prompt='grounding')
    assert 'the cube' in bench.backend.questions[-1].text
    assert [(item.label, item.camera) for item in response.objects] == [('cube', FIRST)]
    # In pixels of the camera's own images, 24 x 32.
    assert list(response.objects[0].box_px) == [0.0, 0.0, 16.0, 24.0]
    assert not response.success and '[1]' in response.message, 'what could not be read is said'


def test_a_long_answer_does_not_hold_up_the_reports(graph):
    bench = AskBench(graph)
    bench.backend.free_gate.clear()
    pending = begin(graph, question())
    wait_for(lambda: bench.backend.questions, 'the question')
    before = len(bench.scenes)
    wait_for(lambda: len(bench.scenes) >= before + 5, 'reports while the question is under way')
    refused = ask(graph, 'And now?')
    assert not refused.success and 'another question is being answered' in refused.message
    assert not pending.done()
    bench.backend.free_gate.set()
    wait_for(pending.done, 'the answer')
    assert pending.result().success and pending.result().answer == 'Yes, it is open.'
    wait_for(lambda: ask(graph, 'And now?').success, 'the next question')
    assert bench.count('questions_refused') >= 1


def test_what_cannot_be_asked_is_refused_with_the_reason(graph):
    bench = AskBench(graph)
    for request, text in (
            (question('  '), 'question: nothing arrived'),
            (question(camera='ceiling'), 'camera: ceiling arrived'),
            (question(prompt='poem'), "prompt: 'poem' arrived"),
            (question(timeout=Duration(sec=-1)), 'negative')):
        response = graph.call(Ask, '/perception/ask', request)
        assert not response.success and text in response.message, response.message
    assert bench.backend.questions == []
    bench.rig.silent.update(('wrist', 'exterior_1', 'exterior_2'))
    wait_for(lambda: 'no clip: wrist: the newest frame is' in ask(graph).message, 'the missing clip')
    bench.node.trigger_deactivate()
    assert 'perception is inactive; activate it first' in ask(graph).message


@pytest.mark.parametrize('seconds', [0.2, 0.0])
def test_an_answer_that_takes_too_long_is_given_up(graph, seconds):
    bench = AskBench(graph, ask_timeout_s=0.3)
    bench.backend.free_gate.clear()
    response = ask(graph, timeout=Duration(nanosec=int(seconds * 1e9)))
    limit_s = seconds or 0.3
    assert not response.success and f'no answer within {limit_s:g} s' in response.message
    assert response.latency_s >= limit_s and response.cameras
    assert bench.backend.deadlines[-1].over, 'the model is told to stop'
    # The model is still busy with it: that is said, not hidden.
    assert 'another question' in ask(graph).message
    bench.backend.free_gate.set()
    wait_for(lambda: ask(graph).success, 'the next question')
    assert bench.count('questions_failed') == 1


@pytest.mark.parametrize('error', [BackendError('the server is gone'), RuntimeError('boom')])
def test_a_failure_is_told_and_the_next_question_is_answered(graph, error):
    diagnostics = graph.collect(DiagnosticArray, '/diagnostics')
    bench = AskBench(graph)
    bench.backend.free_error = error
    response = ask(graph)
    assert not response.success and str(error) in response.message
    bench.backend.free_error = None
    wait_for(lambda: ask(graph).success, 'the next question')
    wait_for(lambda: any(
        values_of(array, 'perception').get('questions_failed') == '1' for array in diagnostics),
        'the count in diagnostics')
    assert any('question_latency_s_p50' in values_of(array, 'perception') for array in diagnostics)


def test_deactivation_ends_a_question_under_way(graph):
    bench = AskBench(graph)
    bench.backend.free_gate.clear()
    pending = begin(graph, question())
    wait_for(lambda: bench.backend.questions, 'the question')
    bench.node.trigger_deactivate()
    wait_for(pending.done, 'the answer')
    assert not pending.result().success and pending.result().message == 'perception was deactivated'
    bench.backend.free_gate.set()


def test_the_model_is_prepared_for_these_cameras_before_it_is_active(graph):
    node = graph.add(StubbedPerception, fps=10.0, frames=4, cameras=['wrist', 'exterior_1'])
    node.trigger_configure()
    assert node.state_label == 'inactive', node.failure
    prompts = [asked.prompt for _, asked in node.stub.prepared]
    assert prompts == ['scene_report', 'free']
    # No image has arrived: the sizes are those of the robot's file.
    assert {shapes for shapes, _ in node.stub.prepared} == {((4, 360, 640, 3),) * 2}


def test_sizes_of_images_that_arrive_count_more_than_the_robots_file(graph):
    bench = Bench(graph)
    bench.report()
    bench.node.trigger_deactivate()
    bench.node.warm_up()
    assert bench.backend.prepared[-1][0] == ((2, 24, 32, 3),) * 3


def test_composed_clips_show_what_the_policy_sees(graph):
    bench = Bench(graph, clip_layout='composed')
    report = bench.report()
    assert list(report.cameras) == ['composed']
    (clip,) = bench.backend.clips[-1]
    assert clip.frames.shape[1:] == (540, 640, 3)
    # Wrist above, the exterior cameras side by side below.
    for rows, columns, value in (((0, 360), (200, 440), 40), ((400, 500), (40, 280), 80),
                                 ((400, 500), (360, 600), 120)):
        assert abs(float(clip.frames[-1, slice(*rows), slice(*columns)].mean()) - value) < 6
