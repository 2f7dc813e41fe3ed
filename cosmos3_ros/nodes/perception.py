"""Node ``perception``: camera images in, scene reports out. Shell around ``cosmos3_ros.reasoner``."""

from dataclasses import asdict, dataclass
import sys
import time
from typing import Any

from sensor_msgs.msg import Image
from std_msgs.msg import String

from cosmos3_ros.contracts import Clip
import cosmos3_ros.msg as msg
from cosmos3_ros.reasoner import (
    ClipBuffer,
    ClipRefused,
    PromptBook,
    Reasoner,
    ReasonerBackend,
    create_backend,
)
from cosmos3_ros.reasoner.annotation import annotate
from cosmos3_ros.reasoner.openai_backend import OpenAIBackend
from cosmos3_ros.robots import load_robot

from .base import LifecycleBase, guarded, guarded_when_active
from .cameras import CAMERA_PARAMETERS, CameraStreams, Frame
from .diagnostics import Level, Report, Window
from .images import rgb_message
from .messages import scene_to_message
from .parameters import Parameter, ParameterTable, ParameterValues
from .qos import default_profile, qos_parameters, qos_profile
from .run import run_node
from .worker import Worker

# Frames kept per frame of a clip: enough that one lies near every wanted instant at any camera rate.
KEPT_PER_FRAME = 2


@dataclass(frozen=True, slots=True)
class _Request:
    clips: tuple[Clip, ...]
    instruction: str
    taken_s: float


class PerceptionNode(LifecycleBase):
    """Cuts a clip every period, asks the reasoner about it and publishes the report on ``scene``."""

    NAME = 'perception'
    TABLE = ParameterTable(
        Parameter('robot', str, 'panda', 'Robot whose camera slots are used.', read_only=True),
        *CAMERA_PARAMETERS,
        Parameter('backend', str, 'transformers', 'What runs the reasoner.', read_only=True),
        Parameter('checkpoint', str, '', 'Checkpoint directory.', read_only=True),
        Parameter('device', str, 'cpu', 'Torch device, e.g. cpu or cuda:0.', read_only=True),
        Parameter('weights', str, 'dtype', 'Backend compiled: in the usual precision, or in eight bits.',
                  choices=('dtype', 'fp8'), read_only=True),
        Parameter('video_pruning_rate', float, 0.0,
                  'Share of vision tokens that Efficient Video Sampling drops; a server has its own setting.',
                  range=(0.0, 0.95), read_only=True),
        Parameter('base_url', str, '', 'Backend openai: its server, e.g. http://localhost:8000/v1.',
                  read_only=True),
        Parameter('model', str, '', 'Backend openai: model name; empty takes the first of the server.',
                  read_only=True),
        Parameter('api_key_variable', str, 'OPENAI_API_KEY',
                  'Backend openai: environment variable that holds the key.', read_only=True),
        Parameter('stream', bool, True,
                  'Backend openai: take answers in pieces, up to the last bracket.', read_only=True),
        Parameter('prompts', str, '', 'YAML file of prompts; empty takes the shipped one.', read_only=True),
        Parameter('instruction', str, '',
                  'Task that task_state refers to, until one arrives on the topic instruction.'),
        Parameter('period_s', float, 2.0, 'Time between two clips.', unit='s', range=(0.05, 3600.0)),
        Parameter('deadline_s', float, 5.0, 'A report that took longer is called late.', unit='s',
                  range=(0.01, 600.0)),
        Parameter('fps', float, 4.0, 'Frames per second of a clip.', unit='Hz', range=(0.1, 60.0),
                  read_only=True),
        Parameter('frames', int, 8, 'Frames of a clip and camera, an even number.', range=(2, 256),
                  read_only=True),
        Parameter('max_age_s', float, 1.0, 'A camera whose newest frame is older has no clip.', unit='s',
                  range=(0.01, 60.0), read_only=True),
        Parameter('max_frame_pixels', int, 640 * 384, 'Larger frames are scaled down.', unit='pixels',
                  range=(1024, 2**24), read_only=True),
        Parameter('max_new_tokens', int, 0,
                  'Most tokens of an answer; 0 takes what the prompt says.', range=(0, 8192), read_only=True),
        *qos_parameters('images', 'scene', 'annotated'),
        check=lambda values: (
            f'frames: {values["frames"]} arrived, an even number is allowed'
            if values['frames'] % 2 else None),
    )

    def setup(self) -> None:
        """Load the model and wire the topics."""
        values = self.values
        robot = load_robot(values['robot'])
        slots = {slot.name: slot.topic for slot in robot.cameras}
        cameras = tuple(values['cameras']) or tuple(slots)
        self._backend: ReasonerBackend | None = None
        self._worker: Worker[_Request] | None = None
        self._backend = self.create_backend()
        self._reasoner = Reasoner(
            self._backend, PromptBook.load(values['prompts'] or None),
            scene_max_new_tokens=values['max_new_tokens'] or None)
        span_s = values['frames'] / values['fps']
        self._buffer = ClipBuffer(
            cameras, horizon_s=span_s, rate_hz=KEPT_PER_FRAME * values['fps'], max_age_s=values['max_age_s'],
            max_frame_pixels=values['max_frame_pixels'],
            max_clip_pixels=values['max_frame_pixels'] * values['frames'])
        self._latency_s = Window()
        self._late = 0
        self._instruction = values['instruction']
        self._refused = ''
        self._scene = self.create_publisher(msg.SceneReport, 'scene', qos_profile(values, 'scene'))
        self._annotated = self.create_publisher(Image, '~/annotated', qos_profile(values, 'annotated'))
        self.create_subscription(
            String, 'instruction', self._on_instruction, default_profile('instruction'),
            callback_group=self.data_group)
        self._streams = CameraStreams(
            self, {name: slots.get(name, f'{name}/image_raw') for name in cameras},
            transport=values['image_transport'], profile=qos_profile(values, 'images'),
            on_image=self._on_image)
        if not self._backend.identity.trained:
            self.get_logger().warning(
                f'{self._backend.identity.checkpoint} is untrained: what its reports say means nothing')

    def create_backend(self) -> ReasonerBackend:
        """Make the backend that the parameters name."""
        values = self.values
        options: dict[str, Any]
        if values['backend'] == 'openai':
            options = {name: values[name] for name in ('base_url', 'model', 'api_key_variable', 'stream')}
            # A report that would be late anyway is not waited for.
            options |= {'timeout_s': values['deadline_s'], 'request_timeout_s': values['deadline_s'] / 2}
        else:
            options = {name: values[name] for name in ('checkpoint', 'device', 'video_pruning_rate')}
            if values['backend'] == 'compiled':
                options['weights'] = values['weights']
        return create_backend(values['backend'], **options)

    def warm_up(self) -> None:
        """Run the model once."""
        assert self._backend is not None
        self._backend.warm_up()

    def start(self) -> None:
        """Begin to cut clips."""
        self._worker = Worker('reasoner', self._work, self._on_failure)
        self._timer = self.create_timer(
            self.values['period_s'], self._on_period, callback_group=self.data_group)

    def stop(self) -> None:
        """End the worker; a report that is being made is thrown away."""
        worker = getattr(self, '_worker', None)
        if worker is not None:
            worker.close()
            self._worker = None

    def teardown(self) -> None:
        """Release the model."""
        backend = getattr(self, '_backend', None)
        if backend is not None:
            backend.close()
            self._backend = None

    def on_values(self, values: ParameterValues) -> None:
        """Take up a changed period or instruction."""
        self._instruction = values['instruction']
        timer = getattr(self, '_timer', None)
        if timer is not None and self.active:
            timer.timer_period_ns = int(values['period_s'] * 1e9)

    def _on_image(self, camera: str, stamp_ns: int, frame: Frame) -> None:
        self._buffer.add(camera, stamp_ns, frame)

    @guarded
    def _on_instruction(self, message: String) -> None:
        self._instruction = message.data

    @guarded_when_active
    def _on_period(self) -> None:
        clips = self._buffer.take(self.values['fps'], self.values['frames'], self.now_ns())
        self._refused = clips.reason if isinstance(clips, ClipRefused) else ''
        if isinstance(clips, ClipRefused):
            self.counters.add('clips_refused')
            self.logs.warn('clip', f'no clip: {clips.reason}')
            return
        self.counters.add('clips')
        if self._worker is not None:
            self._worker.offer(_Request(clips, self._instruction, time.monotonic()))

    def _work(self, request: _Request) -> None:
        report = self._reasoner.report(
            request.clips, request.instruction, image_sizes=self._buffer.source_sizes())
        if not self.active:
            return
        self._scene.publish(scene_to_message(report))
        latency_s = time.monotonic() - request.taken_s
        self._latency_s.add(latency_s)
        self.counters.add('reports')
        if not report.parsed:
            self.counters.add('reports_unparsed')
        if latency_s > self.values['deadline_s']:
            self.counters.add('reports_late')
        if self._annotated.get_subscription_count() > 0:
            clip = request.clips[0]
            picture = annotate(clip.frames[-1], clip.camera, report)
            self._annotated.publish(rgb_message(
                picture, stamp_ns=int(clip.stamps_ns[-1]), frame_id=clip.camera))

    def _on_failure(self, error: Exception) -> None:
        self.counters.add('failures')
        self.report_exception('reasoner', error)

    def diagnose(self, report: Report) -> None:
        """Counters, latency, silent cameras, and why there is no clip."""
        self._streams.diagnose(report)
        identity = self._reasoner.backend.identity
        report.put(checkpoint=identity.checkpoint, engine=identity.engine, trained=identity.trained,
                   clips_dropped=self._worker.dropped if self._worker else 0, instruction=self._instruction,
                   **self._latency_s.summary('latency_s'))
        if isinstance(self._backend, OpenAIBackend):
            report.put(**{f'server_{name}': value for name, value in asdict(self._backend.counts).items()})
        counts = self._buffer.counts
        report.put(frames_kept=counts.frames_kept, frames_thinned=counts.frames_thinned,
                   frames_late=counts.frames_late, clock_resets=counts.clock_resets)
        if self.active and self._refused:
            report.add(Level.WARN, f'no clip: {self._refused}')
        if self.counters['failures']:
            report.add(Level.WARN, f'{self.counters["failures"]} requests to the reasoner failed')


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(PerceptionNode, args)


if __name__ == '__main__':
    sys.exit(main())
