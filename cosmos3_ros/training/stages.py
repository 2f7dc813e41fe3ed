"""Each stage: load its part of the checkpoint, train it, write it back."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..generator.composed_view import View
from ..generator.prompt import build_prompt
from ..model.checkpoint import Checkpoint
from ..model.loading import load_tokenizer, load_transformer, load_vae
from ..model.prompt_tokens import prompt_tokens
from ..reasoner.model_loading import load_model
from ..reasoner.questions import PromptBook
from ..reasoner.video_prompt import VideoSettings
from ..resources import require
from .clip_samples import ClipRecording, Examiner
from .draws import WeightedDraws
from .generator_objective import GeneratorObjective
from .latent_windows import ClipEncoder, LatentWindows, encode_windows
from .lora import merged_tensors
from .objective import Batch
from .output_checkpoint import OutputCheckpoint
from .preparation import dataset_key, prepare_clips, prepare_recording
from .reasoner_objective import ReasonerObjective
from .recording import Recording
from .settings import DatasetEntry, TrainingError, TrainingSettings
from .settings_file import settings_digest
from .starting_weights import copy_understanding, pass_noise, reinitialise_heads
from .training_loop import StageResult, TrainingLoop
from .vae_objective import VaeObjective, latent_statistics
from .weight_files import update_json

torch = require('torch', 'model')

Say = Callable[[str], None]
NO_LIMIT = float('inf')
MEASURED_BATCHES = 4
MEASURED_STEP = 1_000_000_000
"""No step of training has such a number: noise of held-out batches is of its own."""


@dataclass
class Workplace:
    """What all stages of a run share.

    :param accelerator: ``accelerate.Accelerator``.
    :param say: Takes lines for people.
    :param note: Takes entries of the log.
    :param remaining_s: Seconds that this piece may still take.
    """

    settings: TrainingSettings
    output: OutputCheckpoint
    accelerator: Any
    say: Say
    note: Callable[[dict[str, Any]], None]
    remaining_s: Callable[[], float]

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint as it was when the run began: sizes and configs, which do not change."""
        return Checkpoint.open(self.output.directory)

    @property
    def device(self) -> Any:
        """Where training happens."""
        return self.accelerator.device

    @cached_property
    def view(self) -> View:
        """The composed camera view."""
        return View.of(*self.checkpoint.view)

    @cached_property
    def recordings(self) -> list[Recording]:
        """Composed views of the policy's datasets, prepared on first use."""
        data = self.settings.data
        return [
            prepare_recording(entry, self.view, self.prepared, data.workers, self.progress)
            for entry in data.policy_datasets]

    @property
    def prepared(self) -> Path:
        """Where decoded pictures are kept."""
        return self.output.run_directory / 'prepared'

    def progress(self, what: str, done: int, total: int) -> None:
        """Say how far something is, ten times."""
        if done == total or done * 10 // total != (done - 1) * 10 // total:
            self.say(f'{what}: {done} of {total}')

    def draws(
        self, sizes: Sequence[int], batch: int, stream: int, entries: Sequence[DatasetEntry] | None = None,
    ) -> WeightedDraws:
        """Return which samples each step takes, of several datasets with their weights.

        :param sizes: Samples of each.
        :param entries: The datasets; None: the policy's.
        """
        chosen = self.settings.data.policy_datasets if entries is None else entries
        return WeightedDraws(
            sizes, [entry.weight for entry in chosen], batch, self.settings.seed * 16 + stream)

    def loop(self, stage: str, objective: Any, draw: Callable[[int], Any]) -> TrainingLoop:
        """Return the loop of a stage, resumed if it was begun before."""
        section = getattr(self.settings, stage)
        loop = TrainingLoop(
            stage, objective, draw, section.optimiser, self.settings.run, self.accelerator,
            self.output.run_directory, settings_digest(self.settings, stage))
        if loop.resume():
            self.say(f'{stage}: goes on at step {loop.step}')
        return loop


def run_vae(place: Workplace) -> StageResult:
    """Train the autoencoder, then measure its latents."""
    settings = place.settings.vae
    assert settings is not None
    data = place.settings.data
    starts = [
        recording.starts(data.held_out, entry.window_stride)
        for recording, entry in zip(place.recordings, data.policy_datasets, strict=True)]
    vae = load_vae(place.checkpoint, 'cpu', 'float32').to(place.device)
    objective = VaeObjective(
        vae, place.recordings, starts, settings, place.view, place.device, place.settings.seed)
    draws = place.draws([len(s) for s in starts], settings.optimiser.batch, 1)
    loop = place.loop('vae', objective, draws)
    result = loop.run(place.remaining_s, place.note)
    if result.done and place.accelerator.is_main_process:
        with torch.no_grad():
            for name, parameter in vae.named_parameters():
                parameter.copy_(loop.average.values[name])
        place.output.write_weights('vae', loop.average.values)
        # Statistics are of the weights as stored, on other clips than those of any step.
        stored = load_vae(Checkpoint.open(place.output.directory), 'cpu', 'float32').to(place.device)
        measured = VaeObjective(
            stored, place.recordings, starts, settings, place.view, place.device, place.settings.seed)
        mean, deviation = latent_statistics(
            measured, place.draws([len(s) for s in starts], settings.statistics_clips, 9)(0))
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
    model, tokenizer = load_model(place.output.directory, torch.float32, place.device)
    objective = ReasonerObjective(
        model, tokenizer, recordings, anchors, Examiner(PromptBook.load(), settings),
        VideoSettings.load(place.output.directory, settings.frames * settings.max_frame_pixels), settings,
        place.settings.seed)
    draws = place.draws([len(a) for a in anchors], settings.optimiser.batch, 2, data.reasoner_datasets)
    loop = place.loop('reasoner', objective, draws)
    result = loop.run(place.remaining_s, place.note)
    if result.done and place.accelerator.is_main_process:
        vision = {checkpoint: value for checkpoint, value in loop.average.values.items()
                  if checkpoint.startswith(VISION_PREFIXES)}
        place.output.write_weights('vision_encoder', vision)
        place.output.write_weights('transformer', {
            name: value for name, value in loop.average.values.items() if name not in vision})
    return result


VISION_PREFIXES = ('blocks.', 'merger.', 'patch_embed.', 'pos_embed.', 'deepstack_merger_list.')


def make_generator_objective(
    place: Workplace, windows: Sequence[LatentWindows], held_out: Sequence[LatentWindows] = (),
) -> GeneratorObjective:
    """Load the transformer and build its objective."""
    settings = place.settings.generator
    assert settings is not None
    run = place.settings.run
    frozen = 'bfloat16' if run.frozen_bfloat16 else 'float32'
    transformer = load_transformer(place.checkpoint, 'cpu', frozen)
    if settings.reinitialise_heads:
        reinitialise_heads(transformer, place.settings.seed)
    if settings.copy_understanding:
        copy_understanding(transformer)
    if settings.pass_noise:
        pass_noise(transformer)
    transformer.to(place.device)
    if run.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    tokenizer = load_tokenizer(place.checkpoint)
    canvas = (place.view.canvas_height, place.view.canvas_width)

    def tokenize(text: str) -> tuple[int, ...]:
        return prompt_tokens(
            tokenizer, build_prompt(text, place.checkpoint.prompt_variant, canvas) if text else '')

    return GeneratorObjective(transformer, windows, tokenize, settings, place.settings.seed, held_out)


def encode_recordings(place: Workplace, *, held_out: bool = False, stride: int | None = None,
                      ) -> list[LatentWindows]:
    """Encode all datasets' windows with the checkpoint's VAE, or read what an earlier piece encoded."""
    settings = place.settings.generator
    frozen = place.settings.run.frozen_bfloat16
    keep = 'cpu' if settings is not None and settings.latents == 'host' else place.device
    encoder: ClipEncoder | None = None
    found = []
    for recording, entry in zip(place.recordings, place.settings.data.policy_datasets, strict=True):
        starts = np.asarray(recording.starts(
            place.settings.data.held_out, stride or entry.window_stride, held_out=held_out))
        jitter = settings.picture_jitter if settings is not None and not held_out else 0.0
        key = _windows_key(place, entry, recording, starts, jitter)
        file = place.prepared / f'latents-{key}.pt'
        if file.is_file():
            found.append(LatentWindows.load(file, keep))
            continue
        if encoder is None:
            dtype = 'bfloat16' if frozen else 'float32'
            vae = load_vae(Checkpoint.open(place.output.directory), 'cpu', dtype).to(place.device)
            encoder = ClipEncoder(vae, place.view, place.device)
        # Under autocast as everything else: bfloat16's error is far below the noise that is trained on.
        with place.accelerator.autocast():
            windows = encode_windows(
                recording, starts, encoder, place.view, place.device, keep,
                partial(place.progress, f'{recording.name}: windows encoded'), jitter=jitter,
                seed=place.settings.seed)
        if place.accelerator.is_main_process:
            windows.save(file)
        found.append(windows)
    return found


def _windows_key(
    place: Workplace, entry: DatasetEntry, recording: Recording, starts: NDArray[np.int64],
    jitter: float,
) -> str:
    """Return a name for encoded windows: of pictures, looks, rows, and weights and config of the VAE."""
    vae = hashlib.sha256()
    for path in sorted((place.output.directory / 'vae').iterdir()):
        vae.update(path.read_bytes())
    rows = hashlib.sha256(recording.action_rows(starts)[0].tobytes())
    view = place.view
    return dataset_key(
        entry, view.height, view.width, place.device.type, vae.hexdigest(), rows.hexdigest(),
        hashlib.sha256(starts.tobytes()).hexdigest(), jitter, place.settings.seed)


def run_generator(place: Workplace) -> StageResult:
    """Train the generation tower to denoise future video and actions."""
    settings = place.settings.generator
    assert settings is not None
    windows, held_out = _encode_all(place)
    objective = make_generator_objective(place, windows, held_out)
    size = settings.optimiser.micro_batch or settings.optimiser.batch
    draws = place.draws([len(w) for w in windows], settings.optimiser.batch, 3)
    loop = place.loop('generator', objective, draws)
    unseen = place.draws([len(w) for w in held_out], size, 4) if held_out else None
    result = loop.run(place.remaining_s, place.note, None if unseen is None else partial(
        _measure_held_out, objective, unseen))
    if result.done and place.accelerator.is_main_process:
        place.output.write_weights(
            'transformer', merged_tensors(objective.transformer, loop.average.values))
    return result


def _encode_all(place: Workplace) -> tuple[list[LatentWindows], list[LatentWindows]]:
    """Return the windows to train on, and the held-out ones if they are to be looked at."""
    looks = place.settings.run.measure_every and place.settings.data.held_out
    return encode_recordings(place), encode_recordings(place, held_out=True) if looks else []


def _measure_held_out(objective: GeneratorObjective, draw: WeightedDraws) -> dict[str, float]:
    """Return mean losses of a few batches, the same ones every time, with the weights as they are."""
    found = []
    for i in range(MEASURED_BATCHES):
        # With gradients, unused: layers that are compiled for training would be compiled anew without.
        losses = objective.measure(Batch(MEASURED_STEP + i, 0, draw(i)))
        found.append({name: float(value.detach()) for name, value in losses.items()})
    return {name: sum(losses[name] for losses in found) / len(found) for name in found[0]}


RUNNERS: dict[str, Callable[[Workplace], StageResult]] = {
    'vae': run_vae, 'reasoner': run_reasoner, 'generator': run_generator}
PREPARERS: dict[str, Callable[[Workplace], object]] = {
    'vae': lambda place: place.recordings, 'reasoner': cut_clips, 'generator': _encode_all}


def stage_facts(result: StageResult, settings: TrainingSettings, device: str) -> dict[str, Any]:
    """Return what the checkpoint remembers of a stage."""
    if not result.done:
        raise TrainingError(f'stage {result.stage}: it is not done')
    tail = result.log[-1] if result.log else {}
    return {
        'steps': result.steps, 'seconds': round(result.seconds, 1), 'step_s': result.step_s, 'device': device,
        'last': {k: v for k, v in tail.items() if k not in ('step', 'learning_rate')},
        'settings': asdict(getattr(settings, result.stage))}
