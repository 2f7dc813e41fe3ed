"""``~/imagine``: what the model expects the cameras to see if the last chunk is carried out, for review.

A film takes as long as tens of chunks, with the same weights, so it is made only while nothing else is asked
of the policy: without an instruction, or paused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from cosmos3_ros.contracts import ActionChunk, Observation

from .guarding import guarded_service
from .images import rgb_message

if TYPE_CHECKING:
    from .generator import GeneratorNode

TOPIC = '~/imagined/image_raw'
FRAMES_KEPT = 64  # a chunk's film has 33


class ImaginationTopic:
    """Serves ``~/imagine`` and publishes the frames at their own rate, stamped with the times they are about.

    :param node: The generator.
    """

    def __init__(self, node: GeneratorNode) -> None:
        self._node = node
        self._frames = node.create_publisher(Image, TOPIC, QoSProfile(depth=FRAMES_KEPT))
        self.last: tuple[Observation, ActionChunk] | None = None
        """What was published last; survives a pause, unlike what a request continues."""
        node.create_service(Trigger, '~/imagine', self._on_imagine, callback_group=node.service_group)

    @guarded_service
    def _on_imagine(self, _request: Any, response: Any) -> Any:
        response.message = self._reason_against()
        if not response.message:
            assert self.last is not None
            observation, chunk = self.last
            self._node.requests.run(lambda: self._show(observation, chunk))
            response.success = True
            response.message = f'chunk {chunk.trace_id} is imagined; frames follow on {TOPIC}'
        return response

    def report_exception(self, where: str, error: Exception) -> None:
        """Pass on what a callback raised."""
        self._node.report_exception(where, error)

    def _reason_against(self) -> str:
        node = self._node
        if not node.active:
            return f'the generator is {node.state_label}; activate it first'
        if getattr(node.policy, 'imagination', None) is None:
            return f'policy {getattr(node.policy, "name", "?")} cannot imagine; cosmos3 can'
        if node.instruction and not node.requests.paused:
            return 'chunks are being made; pause first (~/pause)'
        if self.last is None:
            return 'no chunk was published yet'
        return ''

    def _show(self, observation: Observation, chunk: ActionChunk) -> None:
        node = self._node
        policy: Any = node.policy
        if policy is None:
            return
        film = policy.imagination.imagine(observation, chunk, seed=chunk.seed)
        node.get_logger().info(f'chunk {chunk.trace_id} imagined in {film.latency_s:.1f} s')
        for i, frame in enumerate(film.frames):
            self._frames.publish(rgb_message(
                frame, stamp_ns=film.stamp_ns + i * film.step_ns, frame_id='imagined'))
            if node.closing.wait(film.step_ns * 1e-9) or not node.active:
                return
        node.counters.add('films')
