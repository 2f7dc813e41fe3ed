"""Clips and an instruction in, a SceneReport out."""

from collections.abc import Callable, Mapping, Sequence
import time

from ..contracts import Clip, ContractError, SceneReport
from .backend import Answer, ReasonerBackend
from .deadline import Deadline
from .json_scan import printable
from .questions import PromptBook, Question
from .scene_answer import LONGEST_FIELD, read_scene
from .short_answer import Reading, read_short

ImageSizes = Mapping[str, tuple[int, int]]

FREE_PROMPTS = ('free', 'free_think')
"""Prompts of a free question: without and with reasoning."""

LONGEST_RAW = 16384
"""Characters of the verbatim answer that a report carries."""


class Reasoner:
    """Asks a backend and reads its answers. The text of an answer can never make it raise.

    :param backend: What runs the model.
    :param prompts: The prompts; the package's own if None.
    :param scene_prompt: Name of the prompt that yields a whole report.
    :param clock_s: Monotonic seconds, for durations only.
    """

    def __init__(
        self,
        backend: ReasonerBackend,
        prompts: PromptBook | None = None,
        *,
        scene_prompt: str = 'scene_report',
        scene_max_new_tokens: int | None = None,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.backend = backend
        self.prompts = prompts or PromptBook.load()
        self._scene_prompt, self._scene_tokens = scene_prompt, scene_max_new_tokens
        self._clock_s = clock_s
        # A wrong name or an edited prompt that lost its JSON must fail here, not at the first image.
        question = self._scene_question((), '')
        if question.answer != 'scene':
            raise ContractError(
                f"scene_prompt: '{scene_prompt}' is read as {question.answer}, "
                'a prompt with answer: scene is needed')

    def _scene_question(self, clips: Sequence[Clip], instruction: str) -> Question:
        return self.prompts.ask(
            self._scene_prompt, self._scene_tokens, instruction=instruction or 'none',
            cameras=', '.join(clip.camera for clip in clips))

    def report(
        self, clips: Sequence[Clip], instruction: str = '', *, image_sizes: ImageSizes | None = None,
        deadline: Deadline | None = None,
    ) -> SceneReport:
        """Say what is going on.

        :param clips: One clip per camera; boxes refer to the first unless the model names another.
        :param instruction: The task that ``task_state`` refers to; may be empty.
        :param image_sizes: Camera slot to (height, width) of its images, if clips are scaled
            (see ``ClipBuffer.source_sizes``); pixels of boxes are in these images.
        :param deadline: Until when the report is wanted; what is written then is read.
        :raises ContractError: No clips, or two of one camera.
        :raises BackendError: The backend gave no answer at all.
        """
        started_s = self._clock_s()
        sizes = _sizes(clips, image_sizes)
        answer = self.backend.answer(clips, self._scene_question(clips, instruction), deadline)
        scene = read_scene(answer.text, sizes)
        reason = '; '.join(scene.problems)
        if reason and answer.finish == 'length':
            reason = f'cut off after {answer.generated_tokens} tokens (max_new_tokens): {reason}'
        return SceneReport(
            stamp_ns=max(int(clip.stamps_ns[-1]) for clip in clips),
            clip_start_ns=min(int(clip.stamps_ns[0]) for clip in clips),
            clip_frames=max(len(clip.frames) for clip in clips),
            cameras=tuple(clip.camera for clip in clips),
            instruction=instruction,
            caption=scene.caption,
            objects=scene.objects,
            next_action=scene.next_action,
            task_state=scene.task_state,
            hazards=scene.hazards,
            plausibility=scene.plausibility,
            parsed=scene.parsed,
            reason=reason[:LONGEST_FIELD],
            raw_text=printable(answer.text)[:LONGEST_RAW],
            identity=self.backend.identity,
            latency_s=self._clock_s() - started_s,
        )

    def prepare(self, clips: Sequence[Clip], prompts: Sequence[str] = ()) -> None:
        """Let the backend get ready for reports and answers about clips of these shapes.

        :param clips: Their pixels and times do not matter, their cameras and shapes do.
        :param prompts: Further prompts that will be asked.
        :raises BackendError: The backend cannot answer about such clips.
        """
        cameras = ', '.join(clip.camera for clip in clips)
        questions = [self._scene_question(clips, '')]
        questions += [
            self.prompts.ask(name, None, instruction='', object='', question='', cameras=cameras)
            for name in prompts]
        for question in questions:
            self.backend.prepare(clips, question)

    def ask(self, clips: Sequence[Clip], question: str, *, think: bool = False) -> str:
        """Answer a free question in words.

        :param think: Let the model reason first; the reasoning is not returned.
        :raises ContractError: No clips, or two of one camera.
        :raises BackendError: The backend gave no answer at all.
        """
        reading, _ = self.read(FREE_PROMPTS[think], clips, question=question)
        if reading.problems:
            return f'{reading.value} [{"; ".join(reading.problems)}]'.strip()
        return str(reading.value)

    def read(
        self, prompt: str, clips: Sequence[Clip], *, image_sizes: ImageSizes | None = None,
        deadline: Deadline | None = None, **values: str,
    ) -> tuple[Reading, Answer]:
        """Ask any prompt of the YAML and read the answer as the prompt says.

        :param prompt: Its name.
        :param deadline: Until when the answer is wanted; what is written then is read.
        :param values: Words to fill in, e.g. ``object='the red cube'``.
        :raises PromptError: Unknown prompt, or a word missing.
        :raises ContractError: No clips, or two of one camera.
        :raises BackendError: The backend gave no answer at all.
        """
        sizes = _sizes(clips, image_sizes)
        values.setdefault('cameras', ', '.join(sizes))
        question = self.prompts.ask(prompt, None, **values)
        answer = self.backend.answer(clips, question, deadline)
        if question.answer == 'scene':
            scene = read_scene(answer.text, sizes)
            return Reading(scene, scene.problems), answer
        return read_short(question.answer, answer.text, sizes), answer


def _sizes(clips: Sequence[Clip], given: ImageSizes | None) -> dict[str, tuple[int, int]]:
    if not clips:
        raise ContractError('clips: none arrived, at least one is needed')
    sizes = {clip.camera: (given or {}).get(clip.camera, clip.size) for clip in clips}
    if len(sizes) != len(clips):
        raise ContractError(
            f'clips: cameras {[clip.camera for clip in clips]} arrived, one clip per camera is allowed')
    return sizes
