"""The stages that train the generation tower: what they read, start from, minimise and write back."""

from collections.abc import Callable, Sequence
from functools import partial
import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..generator.droid_joint import ROWS
from ..generator.prompt import build_prompt
from ..model.checkpoint import Checkpoint
from ..model.loading import load_tokenizer, load_transformer, load_vae
from ..model.prompt_tokens import prompt_tokens
from .draws import AlternatingDraws, WeightedDraws
from .generator_objective import GeneratorObjective
from .latent_windows import ClipEncoder, LatentWindows, encode_windows
from .lora import merged_tensors
from .objective import measure_held_out
from .preparation import dataset_key
from .recording import Recording
from .settings import DatasetEntry, GeneratorSettings, TrainingError
from .starting_weights import copy_understanding, pass_noise, reinitialise_heads
from .training_loop import StageResult
from .workplace import Workplace

OBSERVATION_FRAMES = 1
_STREAMS = {'generator': 3, 'actions': 5}
_ALONE_STREAM = 7


def section_of(place: Workplace, stage: str) -> GeneratorSettings:
    """Return the settings of a stage of this tower.

    :raises TrainingError: The file has none.
    """
    settings: GeneratorSettings | None = getattr(place.settings, stage)
    if settings is None:
        raise TrainingError(f'the file has no section {stage}')
    return settings


def make_generator_objective(
    place: Workplace, windows: Sequence[LatentWindows], held_out: Sequence[LatentWindows] = (), *,
    stage: str = 'generator', trained: bool = False,
) -> GeneratorObjective:
    """Load the transformer and build its objective.

    :param stage: ``actions`` or ``generator``.
    :param trained: The weights are taken as they are, whatever the settings say of a start.
    """
    settings = section_of(place, stage)
    run = place.settings.run
    frozen = 'bfloat16' if run.frozen_bfloat16 else 'float32'
    transformer = load_transformer(place.checkpoint, 'cpu', frozen)
    if not trained:
        _change_start(transformer, settings, place.settings.seed)
    transformer.to(place.device)
    if run.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return GeneratorObjective(
        transformer, windows, policy_tokenizer(place), settings, place.settings.seed, held_out)


def policy_tokenizer(place: Workplace) -> Callable[[str], tuple[int, ...]]:
    """Return what turns an instruction, or the unconditional text, into the token ids of its prompt."""
    tokenizer = load_tokenizer(place.checkpoint)
    canvas = (place.view.canvas_height, place.view.canvas_width)

    def tokenize(text: str) -> tuple[int, ...]:
        return prompt_tokens(
            tokenizer, build_prompt(text, place.checkpoint.prompt_variant, canvas) if text else '')

    return tokenize


def _change_start(transformer: Any, settings: GeneratorSettings, seed: int) -> None:
    if settings.reinitialise_heads:
        reinitialise_heads(transformer, seed)
    if settings.copy_understanding:
        copy_understanding(transformer)
    if settings.pass_noise:
        pass_noise(transformer)


def encode_recordings(
    place: Workplace, *, held_out: bool = False, stride: int | None = None, stage: str = 'generator',
) -> list[LatentWindows]:
    """Encode a stage's windows with the checkpoint's VAE, or read what an earlier piece encoded.

    One for each of :meth:`Workplace.recordings_of` this stage.

    :param stride: Every how many frames a window starts; None: as the stage or the dataset says.
    :param stage: ``actions`` sees the observation alone, ``generator`` all frames.
    """
    settings = section_of(place, stage)
    frames = OBSERVATION_FRAMES if stage == 'actions' else ROWS
    stride = stride or settings.window_stride
    frozen = place.settings.run.frozen_bfloat16
    keep = 'cpu' if settings.latents == 'host' else place.device
    encoder: ClipEncoder | None = None
    found = []
    for recording, entry in place.recordings_of(stage):
        starts = np.zeros(0, np.int64) if recording.is_glances else np.asarray(recording.starts(
            place.settings.data.held_out, stride or entry.window_stride, held_out=held_out))
        jitter = 0.0 if held_out else settings.picture_jitter
        others = recording.chosen_alternatives(
            place.settings.data.held_out, held_out=held_out) if frames == OBSERVATION_FRAMES else None
        key = _windows_key(place, entry, recording, starts, jitter, frames, others)
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
                seed=place.settings.seed, frames=frames, alternatives=others)
        if place.accelerator.is_main_process:
            windows.save(file)
        found.append(windows)
    return found


def _windows_key(
    place: Workplace, entry: DatasetEntry, recording: Recording, starts: NDArray[np.int64],
    jitter: float, frames: int, others: NDArray[np.int64] | None,
) -> str:
    """Return a name for encoded windows: of pictures, looks, rows, and weights and config of the VAE."""
    vae = hashlib.sha256()
    for path in sorted((place.output.directory / 'vae').iterdir()):
        vae.update(path.read_bytes())
    rows = hashlib.sha256(recording.action_rows(starts)[0].tobytes())
    rows.update(recording.unknown(starts, ROWS, 0).tobytes())
    if others is not None and recording.alternatives is not None:
        rows.update(others.tobytes() + recording.alternatives.action[others].tobytes())
    view = place.view
    return dataset_key(
        entry, view.height, view.width, place.device.type, vae.hexdigest(), rows.hexdigest(),
        hashlib.sha256(starts.tobytes()).hexdigest(), jitter, place.settings.seed, frames)


def run_tower(place: Workplace, stage: str = 'generator') -> StageResult:
    """Train the generation tower: ``actions`` alone, or ``generator``, future video and actions."""
    settings = section_of(place, stage)
    if not place.recordings_of(stage):
        raise TrainingError(f'data.datasets: the stage {stage} needs one of episodes, glances arrived')
    windows, held_out = encode_all(place, stage)
    alone = encode_recordings(place, stage='actions') if settings.observation_share else []
    objective = make_generator_objective(place, [*windows, *alone], held_out, stage=stage)
    size = settings.optimiser.forward_size(place.accelerator.num_processes)
    draws = _stage_draws(place, stage, windows, settings.optimiser.batch, _STREAMS[stage])
    loop = place.loop(stage, objective, draws if not alone else AlternatingDraws(
        draws, _stage_draws(place, 'actions', alone, settings.optimiser.batch, _ALONE_STREAM),
        settings.observation_share, len(windows)))
    unseen = _stage_draws(place, stage, held_out, size, _STREAMS[stage] + 1) if held_out else None
    result = loop.run(place.remaining_s, place.note, None if unseen is None else partial(
        measure_held_out, objective, unseen), place.fit_s)
    if result.done and place.accelerator.is_main_process:
        place.output.write_weights(
            'transformer', merged_tensors(objective.transformer, loop.average.values))
    return result


def _stage_draws(
    place: Workplace, stage: str, windows: Sequence[LatentWindows], batch: int, stream: int,
) -> WeightedDraws:
    entries = [entry for _, entry in place.recordings_of(stage)]
    return place.draws([len(part) for part in windows], batch, stream, entries)


def encode_all(place: Workplace, stage: str) -> tuple[list[LatentWindows], list[LatentWindows]]:
    """Return the windows to train on, and the held-out ones if they are to be looked at."""
    return (encode_recordings(place, stage=stage),
            encode_recordings(place, held_out=True, stage=stage) if place.looks_at_held_out else [])
