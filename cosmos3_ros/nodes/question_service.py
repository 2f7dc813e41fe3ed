"""What ``~/ask`` of perception does: a question about the newest clip, beside the reports."""

from collections.abc import Callable
from dataclasses import dataclass, field
import threading
import time
from typing import Any

from cosmos3_ros.contracts import Clip, SceneObject
from cosmos3_ros.reasoner import Answer, BackendError, ClipRefused, Deadline, PromptError, Reasoner
from cosmos3_ros.reasoner.json_scan import printable, split_reasoning
from cosmos3_ros.reasoner.reasoner import FREE_PROMPTS, LONGEST_RAW, ImageSizes
from cosmos3_ros.reasoner.short_answer import Reading

from .diagnostics import Counters, Report, Window
from .messages import objects_to_messages, to_ns, to_time

# An answer that ends with its deadline has still to be read and handed over.
GRACE_S = 0.5

TakeClips = Callable[[str], tuple[Clip, ...] | ClipRefused]
"""From a camera slot, or nothing for all, to the newest clips."""


@dataclass(slots=True)
class _Question:
    """A question under way."""

    deadline: Deadline
    done: threading.Event = field(default_factory=threading.Event)
    reading: Reading | None = None
    answer: Answer | None = None
    problem: str = ''

    def end(self, problem: str) -> None:
        """End the waiting; the first reason counts."""
        if not self.done.is_set():
            self.problem = problem
        self.done.set()


class QuestionService:
    """Answers one question at a time. Reports and the answer take turns, neither waits for the other's end.

    A question is refused, with the reason, while another one is under way and when there is no clip. An
    answer that is not there in time is given up.

    :param reasoner: Who answers.
    :param take_clips: Cuts the newest clips.
    :param image_sizes: Height and width of each camera's images.
    :param counters: Counts ``questions``, and of these ``questions_refused`` and ``questions_failed``.
    """

    def __init__(
        self, reasoner: Reasoner, take_clips: TakeClips, image_sizes: Callable[[], ImageSizes],
        counters: Counters,
    ) -> None:
        self._reasoner, self._take_clips, self._image_sizes = reasoner, take_clips, image_sizes
        self._counters = counters
        self._place = threading.Lock()
        self._under_way: _Question | None = None
        self._latency_s = Window()

    def abandon(self, reason: str) -> None:
        """Give up the question under way, if any; whoever asked is told why."""
        question = self._under_way
        if question is not None:
            question.deadline.give_up()
            question.end(reason)

    def diagnose(self, report: Report) -> None:
        """Latency, and whether a question is under way."""
        report.put(question_under_way=self._place.locked(), **self._latency_s.summary('question_latency_s'))

    def serve(self, request: Any, response: Any, instruction: str, timeout_s: float) -> Any:
        """Fill in the response of ``srv/Ask``; returns at the latest when the time is up.

        :param instruction: For prompts with ``$instruction``.
        :param timeout_s: If the request does not say any.
        """
        began_s = time.monotonic()
        self._counters.add('questions')
        prompt, problem = self._choose_prompt(request)
        clips = self._take_clips(request.camera) if not problem else ()
        if isinstance(clips, ClipRefused):
            problem = f'no clip: {clips.reason}'
        if not problem and not self._place.acquire(blocking=False):
            problem = 'another question is being answered; ask again when it is done'
        if problem or isinstance(clips, ClipRefused):
            self._counters.add('questions_refused')
            response.message = problem
            return response
        limit_s = to_ns(request.timeout) / 1e9 or timeout_s
        question = self._under_way = _Question(Deadline(limit_s))
        words = {'question': request.question, 'object': request.question, 'instruction': instruction}
        threading.Thread(
            target=self._ask, args=(question, prompt, clips, words), name='question', daemon=True).start()
        if not question.done.wait(limit_s + GRACE_S):
            question.deadline.give_up()
            question.end('')
        self._fill(response, question, clips, limit_s)
        response.latency_s = time.monotonic() - began_s
        self._latency_s.add(response.latency_s)
        if not response.success:
            self._counters.add('questions_failed')
        return response

    def _choose_prompt(self, request: Any) -> tuple[str, str]:
        """Return the prompt's name and what is wrong with the request."""
        prompt = request.prompt or FREE_PROMPTS[request.think]
        prompts = self._reasoner.prompts.prompts
        if prompt not in prompts:
            return prompt, f'prompt: {prompt!r} arrived, one of {", ".join(sorted(prompts))} is allowed'
        needs = {'question', 'object'} & set(prompts[prompt].placeholders)
        if needs and not request.question.strip():
            return prompt, f'question: nothing arrived, the prompt {prompt} needs some text'
        if to_ns(request.timeout) < 0:
            return prompt, 'timeout: a negative one arrived, 0 (ask_timeout_s) or more is allowed'
        return prompt, ''

    def _ask(
        self, question: _Question, prompt: str, clips: tuple[Clip, ...], words: dict[str, str],
    ) -> None:
        problem = ''
        try:
            question.reading, question.answer = self._reasoner.read(
                prompt, clips, image_sizes=self._image_sizes(), deadline=question.deadline, **words)
        except (BackendError, PromptError) as error:
            problem = str(error)
        except Exception as error:  # a bug in a backend must not leave the place taken
            problem = f'{type(error).__name__}: {error}'
        finally:
            self._under_way = None
            self._place.release()
            question.end(problem)

    def _fill(
        self, response: Any, question: _Question, clips: tuple[Clip, ...], limit_s: float,
    ) -> None:
        identity = self._reasoner.backend.identity
        response.checkpoint, response.engine, response.trained = (
            identity.checkpoint, identity.engine, identity.trained)
        response.stamp = to_time(max(int(clip.stamps_ns[-1]) for clip in clips))
        response.clip_start = to_time(min(int(clip.stamps_ns[0]) for clip in clips))
        response.cameras = [clip.camera for clip in clips]
        reading, answer = question.reading, question.answer
        late = f'no answer within {limit_s:g} s (timeout of the request, or parameter ask_timeout_s)'
        if question.problem or reading is None or answer is None:
            response.message = question.problem or late
            return
        response.answer = printable(split_reasoning(answer.text).answer)[:LONGEST_RAW]
        response.reasoning = reading.reasoning
        found = getattr(reading.value, 'objects', reading.value)
        if isinstance(found, tuple):
            response.objects = objects_to_messages(
                [entry for entry in found if isinstance(entry, SceneObject)])
        problems = list(reading.problems)
        if answer.finish == 'late':
            problems.insert(0, f'cut off after {limit_s:g} s')
        elif answer.finish == 'length':
            problems.insert(0, f'cut off after {answer.generated_tokens} tokens (max_new_tokens)')
        response.message = '; '.join(problems)
        response.success = answer.finish != 'late' and not reading.problems
