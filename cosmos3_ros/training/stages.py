"""Each stage: load its part of the checkpoint, train it, write it back."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from ..model.checkpoint import Checkpoint
from ..model.loading import load_vae
from ..reasoner.model_loading import load_model
from ..reasoner.questions import PromptBook
from ..reasoner.video_prompt import VideoSettings
from ..resources import require
from .clip_samples import ClipRecording, Examiner
from .kept_contexts import policy_texts
from .objective import measure_held_out
from .preparation import prepare_clips
from .reasoner_objective import GROUNDING_PREFIX, ReasonerObjective
from .settings import TrainingError, TrainingSettings
from .tower_stage import encode_all, policy_tokenizer, run_tower
from .training_loop import StageResult
from .vae_objective import VaeObjective, latent_statistics
from .weight_files import update_json
from .workplace import Workplace

torch = require('torch', 'model')


def run_vae(place: Workplace) -> StageResult:
    """Train the autoencoder, then measure its latents."""
    settings = place.settings.vae
    assert settings is not None
    data = place.settings.data
    pairs = place.recordings_of('vae')
    if not pairs:
        raise TrainingError('data.datasets: the stage vae needs one of episodes, glances arrived')
    recordings, entries = zip(*pairs, strict=True)
    starts = [
        recording.starts(data.held_out, entry.window_stride)
        for recording, entry in zip(recordings, entries, strict=True)]
    vae = load_vae(place.checkpoint, 'cpu', 'float32').to(place.device)
    objective = VaeObjective(
        vae, recordings, starts, settings, place.view, place.device, place.settings.seed)
    draws = place.draws([len(s) for s in starts], settings.optimiser.batch, 1, entries)
    loop = place.loop('vae', objective, draws)
    result = loop.run(place.remaining_s, place.note, fit_s=place.fit_s)
    if result.done and place.accelerator.is_main_process:
        with torch.no_grad():
            for name, parameter in vae.named_parameters():
                parameter.copy_(loop.average.values[name])
        place.output.write_weights('vae', loop.average.values)
        # Statistics are of the weights as stored, on other clips than those of any step.
        stored = load_vae(Checkpoint.open(place.output.directory), 'cpu', 'float32').to(place.device)
        measured = VaeObjective(
            stored, recordings, starts, settings, place.view, place.device, place.settings.seed)
        mean, deviation = latent_statistics(
            measured, place.draws([len(s) for s in starts], settings.statistics_clips, 9, entries)(0))
        update_json(place.output.directory / 'vae' / 'config.json', {
            'latents_mean': mean, 'latents_std': deviation})
    return result


def cut_clips(place: Workplace) -> list[ClipRecording]:
    """Return the reasoner's datasets as clips, cut on first use."""
    settings, data = place.settings.reasoner, place.settings.data
    assert settings is not None
    return [
        prepare_clips(entry, settings, place.prepared, data.workers, place.progress)
        for entry in data.reasoner_datasets]


def run_reasoner(place: Workplace) -> StageResult:
    """Train the reasoner, language model and vision tower."""
    settings = place.settings.reasoner
    assert settings is not None
    data = place.settings.data
    recordings = cut_clips(place)
    anchors = [r.anchors(data.held_out, held_out=False) for r in recordings]
    held_out = [
        r.anchors(data.held_out, held_out=True) for r in recordings] if place.looks_at_held_out else []
    model, tokenizer = load_model(place.output.directory, torch.float32, place.device)
    texts: list[tuple[int, ...]] = []
    if settings.context_weight:
        tokenize = policy_tokenizer(place)
        texts = [tokenize(text) for text in policy_texts()]
    objective = ReasonerObjective(
        model, tokenizer, recordings, anchors, Examiner(PromptBook.load(), settings),
        VideoSettings.load(place.output.directory, settings.frames * settings.max_frame_pixels), settings,
        place.settings.seed, held_out, texts)
    batch, entries = settings.optimiser.batch, data.reasoner_datasets
    draws = place.draws([len(a) for a in anchors], batch, 2, entries)
    loop = place.loop('reasoner', objective, draws)
    at_once = settings.optimiser.forward_size(place.accelerator.num_processes)
    unseen = place.draws([len(a) for a in held_out], at_once, 10, entries) if held_out else None
    result = loop.run(place.remaining_s, place.note, None if unseen is None else partial(
        measure_held_out, objective, unseen), place.fit_s)
    if result.done and place.accelerator.is_main_process:
        vision = {checkpoint: value for checkpoint, value in loop.average.values.items()
                  if checkpoint.startswith(VISION_PREFIXES)}
        place.output.write_weights('vision_encoder', vision)
        place.output.write_weights('transformer', {
            name: value for name, value in loop.average.values.items()
            if name not in vision and not name.startswith(GROUNDING_PREFIX)})
    return result


VISION_PREFIXES = ('blocks.', 'merger.', 'patch_embed.', 'pos_embed.', 'deepstack_merger_list.')


def _encode_for_tower(place: Workplace) -> None:
    """Encode what both of the tower's stages read: they look at the same pictures, which are decoded once."""
    for stage in ('actions', 'generator'):
        if getattr(place.settings, stage) is not None:
            encode_all(place, stage)


RUNNERS: dict[str, Callable[[Workplace], StageResult]] = {
    'vae': run_vae, 'reasoner': run_reasoner, 'actions': partial(run_tower, stage='actions'),
    'generator': run_tower}
PREPARERS: dict[str, Callable[[Workplace], object]] = {
    'vae': lambda place: place.recordings, 'reasoner': cut_clips,
    'actions': partial(encode_all, stage='actions'), 'generator': _encode_for_tower}


def stage_facts(result: StageResult, settings: TrainingSettings, device: str) -> dict[str, Any]:
    """Return what the checkpoint remembers of a stage."""
    if not result.done:
        raise TrainingError(f'stage {result.stage}: it is not done')
    tail = result.log[-1] if result.log else {}
    return {
        'steps': result.steps, 'seconds': round(result.seconds, 1), 'step_s': result.step_s, 'device': device,
        'last': {k: v for k, v in tail.items() if k not in ('step', 'learning_rate')},
        'settings': asdict(getattr(settings, result.stage))}
