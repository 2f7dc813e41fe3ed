"""Task states end ``execute_instruction`` on a real graph: perception's reports, the generator's goal."""

import json

import cosmos3_ros.msg as msg
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import wait_for
from test_generator_node import Bench as GeneratorBench
from test_generator_node import Client, scene
from test_perception_node import ANSWER, QUICK, StubbedPerception

from cosmos3_ros.contracts import TaskState

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def says(state):
    return json.dumps({**json.loads(ANSWER), 'task_state': state})


@pytest.mark.parametrize(('state', 'outcome', 'words'), [
    ('done', TaskState.DONE, 'the task is done, 3 reports in a row'),
    ('failed', TaskState.FAILED, 'the task has failed, 3 reports in a row')])
def test_perception_ends_a_goal_of_the_generator(graph, state, outcome, words):
    bench = GeneratorBench(graph, stop_on_scene_state=True, scene_state_reports=3)
    client = Client(graph)
    perception = graph.add(StubbedPerception, **QUICK)
    perception.trigger_configure()
    perception.stub.text = says('in_progress')
    perception.trigger_activate()
    handle = client.send('pick the cube')
    wait_for(lambda: any(f.last_scene.instruction == 'pick the cube' for f in client.feedback),
             'feedback with a report about the goal: perception heard the instruction')
    assert bench.node.instruction == 'pick the cube'
    perception.stub.text = says(state)
    result = client.result(handle)
    assert result.task_state == outcome and words in result.reason
    wait_for(lambda: bench.node.instruction == '', 'the pause after the goal')


def test_one_report_among_others_ends_nothing(graph):
    bench = GeneratorBench(graph, stop_on_scene_state=True, scene_state_reports=2)
    client = Client(graph)
    scenes = graph.publisher(msg.SceneReport, 'scene', LATCHED)
    handle = client.send('pick the cube')

    def publish(instruction, state, **others):
        scenes.publish(scene(bench.node, instruction, state, **others))
        wait_for(lambda: bench.node._instructions._goal.scene is not None
                 and bench.node._instructions._goal.scene.task_state == state
                 and bench.node._instructions._goal.scene.instruction == instruction, 'the report')

    publish('pick the cube', TaskState.DONE)
    publish('pick the cube', TaskState.IN_PROGRESS)
    publish('pick the cube', TaskState.DONE)
    publish('another task', TaskState.FAILED)
    publish('pick the cube', TaskState.UNKNOWN)
    publish('pick the cube', TaskState.FAILED)
    assert bench.node._instructions._goal._ending is None
    scenes.publish(scene(bench.node, 'pick the cube', TaskState.FAILED))
    result = client.result(handle)
    assert result.task_state == TaskState.FAILED and '2 reports in a row' in result.reason


def test_without_being_asked_to_a_task_state_ends_nothing(graph):
    bench, client = GeneratorBench(graph), Client(graph)
    scenes = graph.publisher(msg.SceneReport, 'scene', LATCHED)
    handle = client.send('pick the cube', 3.0)
    for _ in range(3):
        scenes.publish(scene(bench.node, 'pick the cube', TaskState.DONE))
    result = client.result(handle)
    assert 'timeout' in result.reason and result.task_state == TaskState.DONE
