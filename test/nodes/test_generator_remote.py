"""Policies behind a server, through the node: chosen by name and address, watched in /diagnostics."""

from pathlib import Path
import sys

from camera_rig import CameraRig
import cosmos3_ros.msg as msg
from diagnostic_msgs.msg import DiagnosticArray
from fake_arm import FakeArm
import numpy as np
import pytest
from ros_graph import wait_for

from cosmos3_ros.nodes.generator import GeneratorNode
from cosmos3_ros.robots import load_robot

sys.path.append(str(Path(__file__).resolve().parents[1] / 'generator'))
from http_servers import NimServer, VideoServer

pytest.importorskip('PIL.Image', reason="the extra 'model' is not installed")


def newest(reports):
    status = next((s for report in reversed(reports) for s in report.status if 'generator' in s.name), None)
    return {pair.key: pair.value for pair in status.values} if status is not None else {}


@pytest.mark.parametrize(('policy', 'make'), [('nim', NimServer), ('vllm_omni', VideoServer)])
def test_a_server_is_chosen_by_name_and_address(graph, policy, make):
    with make() as server:
        arm, _ = FakeArm(graph), CameraRig(graph)
        chunks = graph.collect(msg.ActionChunk, 'action_chunk')
        reports = graph.collect(DiagnosticArray, '/diagnostics', 50)
        # The reasoner's checkpoint and device may be given too; they are not the server's business.
        node = graph.add(
            GeneratorNode, policy=policy, policy_url=server.url, checkpoint='some/checkpoint',
            device='cuda:0', policy_options=['timeout_s=30.0', 'retries=0', 'breaker_failures=100'],
            instruction='go', seed=5, replan_interval_s=0.05, max_age_s=2.0, max_joint_gap_s=0.5)
        node.trigger_configure()
        assert node.state_label == 'inactive', node.failure
        server.plan = ['400', '500']
        node.trigger_activate()
        wait_for(lambda: len(chunks) >= 2, 'chunks')
        assert np.allclose(np.reshape(chunks[-1].positions, (32, 7)), arm.position, atol=1e-6)
        assert {(c.policy, c.seed, c.instruction) for c in chunks} == {(policy, 5, 'go')}
        assert node.counters['failures'] >= 2, 'what the server refused and what broke in it'
        wait_for(lambda: int(newest(reports).get('server_answers', 0)) > 2, 'the counts in /diagnostics')
        values = newest(reports)
        assert (values['server_refused'], values['server_server']) == ('1', '1')


@pytest.mark.parametrize(('options', 'expected_s'), [([''], 0.75), (['timeout_s=30.0'], 30.0)])
def test_a_server_is_not_waited_for_longer_than_its_chunk_counts(graph, options, expected_s):
    with NimServer() as server:
        node = graph.add(GeneratorNode, policy='nim', policy_url=server.url, request_deadline_s=0.75,
                         policy_options=options)
        assert node.create_policy(load_robot('panda'))._settings.timeout_s == expected_s


@pytest.mark.parametrize(('parameters', 'text'), [
    ({'policy': 'cosmos3', 'policy_url': 'http://x'}, 'openpi, vllm_omni and nim do'),
    ({'policy': 'nim'}, 'policy_url: none arrived'),
    ({'policy': 'vllm_omni', 'policy_url': 'ws://x'}, "url: 'ws://x' arrived"),
    ({'policy': 'openpi', 'policy_url': 'ws://127.0.0.1:9', 'policy_options': ['timeout_s=5.0']},
     'cannot be reached'),
    ({'policy': 'replay', 'policy_options': ['bag=no/such']}, 'bag: '),
])
def test_what_cannot_be_asked_is_said_at_configure(graph, parameters, text):
    node = graph.add(GeneratorNode, **parameters)
    node.trigger_configure()
    assert node.state_label == 'unconfigured' and text in node.failure, node.failure
