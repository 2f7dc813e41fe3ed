"""Node ``perception``: camera images in, scene reports out. Shell around ``cosmos3_ros.reasoner``."""

from dataclasses import asdict, dataclass
from functools import partial
import json
import sys
import time
from typing import Any

from sensor_msgs.msg import Image
from std_msgs.msg import String

from cosmos3_ros.contracts import Clip
from cosmos3_ros.generator.composed_view import DROID_VIEW, View, compose_view
from cosmos3_ros.model.checkpoint import Checkpoint, CheckpointError
import cosmos3_ros.msg as msg
from cosmos3_ros.reasoner import (
    ClipBuffer,
    ClipRefused,
    Deadline,
    PromptBook,
    Reasoner,
    ReasonerBackend,
    create_backend,
)
from cosmos3_ros.reasoner.annotation import annotate
from cosmos3_ros.reasoner.composed_clip import compose_clips
from cosmos3_ros.reasoner.openai_backend import OpenAIBackend
from cosmos3_ros.reasoner.reasoner import FREE_PROMPTS, ImageSizes
from cosmos3_ros.reasoner.trained_clips import trained_clips
from cosmos3_ros.robots import load_robot
import cosmos3_ros.srv as srv

from .base import LifecycleBase, SetupError, guarded, guarded_service, guarded_when_active
from .cameras import CameraStreams, Frame
from .diagnostics import Level, Report, Window
from .images import rgb_message
from .messages import scene_to_message
from .parameters import ParameterValues
from .perception_parameters import PERCEPTION_TABLE
from .qos import default_profile, qos_profile
from .question_service import QuestionService
from .run import run_node
from .worker import Worker

# Frames kept per frame of a clip: enough that one lies near every wanted instant at any camera rate.
KEPT_PER_FRAME = 2
# A report has no end of its own but its token budget; deactivation gives it up.
UNTIL_GIVEN_UP_S = 1e9


@dataclass(frozen=True, slots=True)
class _Request:
    clips: tuple[Clip, ...]
    instruction: str
    taken_s: float


class PerceptionNode(LifecycleBase):
    """Cuts a clip every period, asks the reasoner about it and publishes the report on ``scene``."""

    NAME = 'perception'
    THREADS = 5
    """As in the base, one that a question occupies, one to refuse a second question."""
    TABLE = PERCEPTION_TABLE

    def setup(self) -> None:
        """Load the model and wire the topics."""
        values = self.values
        self._robot = robot = load_robot(values['robot'])
        slots = {slot.name: slot.topic for slot in robot.cameras}
        self._shown = shown = {**values, **self._trained_clips()}
        cameras = tuple(shown['cameras']) or tuple(slots)
        self._backend: ReasonerBackend | None = None
        self._worker: Worker[_Request] | None = None
        self._questions: QuestionService | None = None
        self._backend = self.create_backend()
        view = getattr(self._backend, 'view', None)
        self._view = DROID_VIEW if view is None else View.of(*view)
        self._reasoner = Reasoner(
            self._backend, PromptBook.load(values['prompts'] or None),
            scene_max_new_tokens=shown['max_new_tokens'] or None)
        span_s = shown['frames'] / shown['fps']
        self._buffer = ClipBuffer(
            cameras, horizon_s=span_s, rate_hz=KEPT_PER_FRAME * shown['fps'], max_age_s=values['max_age_s'],
            max_frame_pixels=shown['max_frame_pixels'],
            max_clip_pixels=shown['max_frame_pixels'] * shown['frames'])
        self._latency_s = Window()
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
        self._questions = QuestionService(
            self._reasoner, self._clips_for_question, self._image_sizes, self.counters)
        self.create_service(srv.Ask, '~/ask', self._on_ask, callback_group=self.service_group)
        if not self._backend.identity.trained:
            self.get_logger().warning(
                f'{self._backend.identity.checkpoint} is untrained: what its reports say means nothing')

    def _trained_clips(self) -> dict[str, Any]:
        if not self.values['trained_clips'] or not self.values['checkpoint']:
            return {}
        try:
            return trained_clips(Checkpoint.open(self.values['checkpoint']).directory)
        except CheckpointError as error:
            raise SetupError(f'checkpoint: {error}') from error

    def create_backend(self) -> ReasonerBackend:
        """Make the backend that the parameters name."""
        values = self.values
        options: dict[str, Any]
        if values['backend'] == 'openai':
            options = {name: values[name] for name in ('base_url', 'model', 'api_key_variable', 'stream')}
            # A report that would be late anyway is not waited for.
            options |= {'timeout_s': values['deadline_s'], 'request_timeout_s': values['deadline_s'] / 2,
                        'request_options': self._request_options()}
        else:
            options = {name: values[name] for name in ('checkpoint', 'device', 'video_pruning_rate')}
            options['max_clip_pixels'] = self._shown['max_frame_pixels'] * self._shown['frames']
            if values['backend'] == 'compiled':
                options |= {name: values[name] for name in ('weights', 'answer_lookup')}
            elif values['backend'] == 'tensorrt':
                options |= {'engines': values['engines'], 'precision': values['engine_precision']}
        return create_backend(values['backend'], **options)

    def _request_options(self) -> dict[str, Any]:
        text = self.values['request_options']
        try:
            options = json.loads(text or '{}')
        except ValueError as error:
            raise SetupError(f'request_options: {text!r} is not JSON ({error})') from error
        if not isinstance(options, dict):
            raise SetupError(f'request_options: {text!r} arrived, a JSON object is allowed')
        return options

    def warm_up(self) -> None:
        """Run the model once, and prepare it for the clips of these cameras.

        A camera's images have the size in which they already arrive, otherwise what the robot's file says.
        """
        assert self._backend is not None
        self._backend.warm_up()
        known = {slot.name: (slot.height, slot.width) for slot in self._robot.cameras}
        known |= self._buffer.source_sizes()
        unknown = [camera for camera in self._buffer.cameras if camera not in known]
        if unknown:
            self.get_logger().warning(
                f'the image size of {", ".join(unknown)} is not known yet: the first clip may be slow')
            return
        self._reasoner.prepare(self._arrange(tuple(
            self._buffer.grey_clip(camera, known[camera], self._shown['fps'], self._shown['frames'])
            for camera in self._buffer.cameras)), FREE_PROMPTS[:1])

    def start(self) -> None:
        """Begin to cut clips."""
        self._activated_ns = self.now_ns()
        self._wanted = Deadline(UNTIL_GIVEN_UP_S)
        self._worker = Worker('reasoner', partial(self._work, self._wanted), self._on_failure)
        self._timer = self.create_timer(
            self.values['period_s'], self._on_period, callback_group=self.data_group)

    def stop(self) -> None:
        """End the worker; a report that is being made is thrown away."""
        questions = getattr(self, '_questions', None)
        if questions is not None:
            questions.abandon('perception was deactivated')
        worker = getattr(self, '_worker', None)
        if worker is not None:
            self._wanted.give_up()
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

    def _take(self, cameras: tuple[str, ...] | None = None) -> tuple[Clip, ...] | ClipRefused:
        return self._buffer.take(self._shown['fps'], self._shown['frames'], self.now_ns(), cameras)

    def _arrange(self, clips: tuple[Clip, ...]) -> tuple[Clip, ...]:
        if self.values['clip_layout'] == 'separate':
            return clips
        return (compose_clips(clips, lambda images: compose_view(images, self._view)),)

    def _image_sizes(self) -> ImageSizes:
        return self._buffer.source_sizes()

    def _clips_for_question(self, camera: str) -> tuple[Clip, ...] | ClipRefused:
        if camera:
            return self._take((camera,))
        clips = self._take()
        return clips if isinstance(clips, ClipRefused) else self._arrange(clips)

    @guarded_service
    def _on_ask(self, request: Any, response: Any) -> Any:
        if not self.active or self._questions is None:
            response.message = f'perception is {self.state_label}; activate it first'
            return response
        return self._questions.serve(request, response, self._instruction, self.values['ask_timeout_s'])

    @guarded_when_active
    def _on_period(self) -> None:
        clips = self._take()
        self._refused = clips.reason if isinstance(clips, ClipRefused) else ''
        if isinstance(clips, ClipRefused):
            self.counters.add('clips_refused')
            self.logs.warn('clip', f'no clip: {clips.reason}')
            return
        if self._is_filling(clips):
            self.counters.add('clips_filling')
            return
        self.counters.add('clips')
        if self._worker is not None:
            self._worker.offer(_Request(self._arrange(clips), self._instruction, time.monotonic()))

    def _is_filling(self, clips: tuple[Clip, ...]) -> bool:
        """Tell whether clips are short only because activation is so recent.

        A backend is prepared for whole clips; whoever asks about the first frames waits for it instead.
        """
        span_ns = int(self._shown['frames'] / self._shown['fps'] * 1e9)
        short = any(len(clip.frames) < self._shown['frames'] for clip in clips)
        return short and 0 <= self.now_ns() - self._activated_ns < span_ns

    def _work(self, wanted: Deadline, request: _Request) -> None:
        # A server has time limits of its own, which a deadline would replace.
        report = self._reasoner.report(
            request.clips, request.instruction, image_sizes=self._image_sizes(),
            deadline=None if isinstance(self._backend, OpenAIBackend) else wanted)
        if wanted.over:
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
        if self._questions is not None:
            self._questions.diagnose(report)
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
