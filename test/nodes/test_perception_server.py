"""The perception node with a real HTTP server behind it that fails in every way, then works again."""

from pathlib import Path
import sys

from camera_rig import CameraRig
import cosmos3_ros.msg as msg
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import wait_for

from cosmos3_ros.nodes.perception import PerceptionNode

sys.path.append(str(Path(__file__).resolve().parents[1] / 'reasoner'))
from openai_server import OpenAIServer

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FAULTS = ('stall', '500', 'broken', 'half', 'list')


def test_failures_of_a_server_are_counted_in_diagnostics_and_the_node_recovers(graph):
    server = OpenAIServer(lambda number: FAULTS[number % 5] if 1 <= number <= 10 else 'ok')
    try:
        CameraRig(graph)
        scenes = graph.collect(msg.SceneReport, 'scene', LATCHED)
        diagnostics = graph.collect(DiagnosticArray, '/diagnostics')
        node = graph.add(
            PerceptionNode, backend='openai', base_url=server.base_url, deadline_s=1.0, period_s=0.1,
            fps=10.0, frames=2, max_age_s=2.0)
        node.trigger_configure()
        assert node.state_label == 'inactive', node.failure
        node.trigger_activate()
        wait_for(lambda: len(server.did) > 14, 'requests after the failing ones', limit_s=40.0)
        before = len(scenes)
        wait_for(lambda: len(scenes) > before and scenes[-1].parsed, 'a report after the failures')

        def counted() -> dict[str, int]:
            for array in reversed(diagnostics):
                for status in array.status:
                    if status.name == 'perception':
                        return {pair.key: int(pair.value) for pair in status.values
                                if pair.key.startswith('server_')}
            return {}

        # Two of each were injected; on a slow machine a good request may time out as well.
        wait_for(lambda: counted().get('server_answers', 0) >= 2, 'the counts in diagnostics')
        counts = counted()
        assert counts['server_timeout'] >= 2 and counts['server_server'] == 2, counts
        assert counts['server_connection'] >= 2 and counts['server_broken'] == 4, counts
        assert counts['server_requests'] >= 12
    finally:
        server.close()
