"""What a finished checkpoint is worth: actions on held-out data, episodes in the loop, answers on clips."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..evaluation.action_error import action_errors
from ..evaluation.reasoner_metrics import FactAnswer, fact_metrics, read_yes_no, scene_metrics
from ..generator.droid_joint import ARM_JOINTS
from ..generator.guidance import Guidance
from ..generator.sampler import schedule
from ..reasoner.compiled_backend import CompiledBackend
from ..reasoner.questions import PromptBook
from ..resources import require
from ..sim.configuration import FIRST_EVALUATION_SEED
from ..sim.tasks import TASKS
from .batched_policy import denoise_batch
from .clip_samples import YES, Asked, ClipRecording, Examiner, as_clip
from .settings import ReasonerSettings, TrainingError
from .stages import cut_clips
from .tower_stage import encode_recordings, make_generator_objective
from .workplace import Workplace

torch = require('torch', 'model')

GUIDANCES = (1.0, 3.0)
MOST_WINDOWS = 512
BATCH = 32
KNOWN_CLIPS = 400


def measure_checkpoint(place: Workplace, episodes: int) -> dict[str, Any]:
    """Measure what the settings trained.

    :param episodes: Closed-loop episodes per task, and clips shown to the reasoner.
    """
    found: dict[str, Any] = {}
    if place.settings.generator is not None:
        found['actions'] = measure_actions(place)
        found['closed_loop'] = measure_closed_loop(place, episodes)
    if place.settings.reasoner is not None:
        found['reasoner'] = measure_reasoner(place, episodes)
    return found


def measure_actions(place: Workplace) -> dict[str, Any]:
    """Return action errors on windows of held-out episodes, for each guidance."""
    windows = encode_recordings(place, held_out=True, stride=4)
    objective = make_generator_objective(place, windows, trained=True)
    plan = schedule(4, place.settings.generator.shift if place.settings.generator else 5.0)
    found: dict[str, Any] = {}
    for scale in GUIDANCES:
        for (recording, _), window in zip(place.recordings_of('generator'), windows, strict=True):
            kept = np.linspace(0, len(window) - 1, min(MOST_WINDOWS, len(window))).astype(int)
            rows = []
            for first in range(0, len(kept), BATCH):
                part = kept[first:first + BATCH]
                indices = torch.from_numpy(part).to(window.rows.device)
                clean = window.latents[indices][:, :, :1].float().to(place.device)
                texts = objective.contexts(objective.places_of(window, [int(i) for i in part]))
                rows.append(denoise_batch(
                    objective.step, texts, objective.contexts([0] * len(part)), clean,
                    window.rows[indices][:, 0].cpu().numpy(), plan, Guidance(scale),
                    [int(i) for i in part], window.latents.shape[2]))
            found[f'{recording.name}, guidance {scale:g}'] = action_errors(
                np.concatenate(rows)[..., :ARM_JOINTS + 1].astype(np.float64),
                window.rows[torch.from_numpy(kept).to(window.rows.device)].cpu().numpy().astype(np.float64),
                ~window.past[torch.from_numpy(kept).to(window.past.device)].cpu().numpy())
    return found


def measure_closed_loop(place: Workplace, episodes: int) -> dict[str, Any]:
    """Return successes of the policy ``cosmos3`` with this checkpoint, on seeds that no recording uses."""
    from ..evaluation.closed_loop import ClosedLoop, summarise
    from ..generator.policy import create_policy
    from ..sim.configuration import ARM_JOINTS as JOINTS

    found: dict[str, Any] = {}
    device = 'cpu' if place.device.type == 'cpu' else str(place.device)
    for scale in GUIDANCES:
        policy = create_policy(
            'cosmos3', checkpoint=str(place.output.directory), joint_names=JOINTS, device=device,
            guidance=scale, torch_threads=0)
        loop = ClosedLoop(policy)
        ended = []
        for task in TASKS:
            mine = [loop.run(task, FIRST_EVALUATION_SEED + i) for i in range(episodes)]
            place.say(f'{task}, guidance {scale:g}: {sum(e.success for e in mine)}/{episodes}')
            ended += mine
        loop.close()
        policy.close()
        found[f'guidance {scale:g}'] = summarise(ended)
    return found


def measure_reasoner(place: Workplace, clips: int) -> dict[str, Any]:
    """Return the reasoner's metrics on held-out clips, and those of the same questions without pictures."""
    settings = place.settings.reasoner
    if settings is None:
        raise TrainingError('reasoner: the file has no such stage')
    data, recordings = place.settings.data, cut_clips(place)
    examiner = Examiner(PromptBook.load(), settings)
    backend = CompiledBackend(
        place.output.directory, device=str(place.device), threads=None,
        max_clip_pixels=settings.frames * settings.max_frame_pixels)
    try:
        chosen = _choose(recordings, data.held_out, clips, held_out=True)
        known = [
            FactAnswer(a.dimension, a.key, a.answer == YES, None)
            for recording, anchor in _choose(recordings, data.held_out, KNOWN_CLIPS, held_out=False)
            for a in examiner.facts(recording, anchor)]
        return {
            'seen': _examine(backend.answer, examiner, settings, chosen, known, blank=False),
            'without_pictures': _examine(backend.answer, examiner, settings, chosen, known, blank=True)}
    finally:
        backend.close()


def _choose(
    recordings: list[ClipRecording], share: float, count: int, *, held_out: bool,
) -> list[tuple[ClipRecording, int]]:
    every = [(r, int(a)) for r in recordings for a in r.anchors(share, held_out=held_out)]
    return [every[int(i)] for i in np.linspace(0, len(every) - 1, min(count, len(every)))]


def _examine(
    answer: Callable[..., Any], examiner: Examiner, settings: ReasonerSettings,
    chosen: list[tuple[ClipRecording, int]], known: list[FactAnswer], *, blank: bool,
) -> dict[str, Any]:
    reports, truths, facts = [], [], []
    for i, (recording, anchor) in enumerate(chosen):
        clips = [as_clip(recording, anchor, slot, settings, blank=blank) for slot in settings.cameras]
        asked: Asked = examiner.scene(recording, anchor)
        reports.append(answer(clips, asked.question).text)
        truths.append(asked.answer)
        rng = np.random.default_rng([i, anchor])
        for dimension in ('Visual Integrity', 'Semantic Alignment', 'Physical Laws', 'Geometric Reasoning'):
            fact = examiner.draw_fact(recording, anchor, rng, dimension)
            if fact is not None:
                said = read_yes_no(answer(clips, fact.question).text)
                facts.append(FactAnswer(dimension, fact.key, fact.answer == YES, said))
    return {**scene_metrics(reports, truths), 'facts': fact_metrics(facts, known)}
