"""A whole run: stages in order, within a time, from where an earlier piece stopped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import logging
from pathlib import Path
from time import perf_counter
from typing import Any

from ..model.loading import check_device
from ..resources import require
from .draws import WeightedDraws
from .generator_objective import GeneratorObjective
from .loss_plot import plot_losses
from .model_card import EVALUATION_FILE, write_card
from .objective import Batch
from .output_checkpoint import OutputCheckpoint
from .settings import NEEDS, STAGES, TrainingError, TrainingSettings
from .stages import PREPARERS, RUNNERS, stage_facts
from .tower_stage import make_generator_objective
from .training_loop import StageResult
from .weight_files import update_json
from .workplace import Workplace

logger = logging.getLogger(__name__)

SAVING_S = 20.0
"""Kept free at the end of a piece for the snapshot."""
DRY_STEPS = 3
PREPARING_NEEDS = ('vae',)
"""What windows are encoded with; the towers see them later."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a piece of a run came to.

    :param finished: All asked stages are done.
    :param stages: What is known of each stage that ran.
    """

    directory: Path
    finished: bool
    seconds: float
    size_bytes: int
    stages: Mapping[str, Mapping[str, Any]]


def run_training(
    settings: TrainingSettings, out: Path, *, stage: str = 'all', resume: bool = False,
    max_minutes: float | None = None, fit_minutes: float | None = None, prepare_only: bool = False,
    device: str = 'cpu', command: str = '',
    say: Callable[[str], None] = logger.info, note: Callable[[dict[str, Any]], None] | None = None,
) -> RunReport:
    """Train.

    :param out: Where the checkpoint goes; ``<out>.run`` beside it holds snapshots, logs and pictures.
    :param stage: One of :data:`settings.STAGES`, or ``all`` of the file's.
    :param resume: Go on with what an earlier piece left in ``out``.
    :param max_minutes: Stop after so many minutes, ready to be resumed; preparing data counts.
    :param fit_minutes: Take as many steps as are done by then, at most the settings'; for one stage.
    :param prepare_only: Only decode and encode what the stages read; a later piece finds it done.
    :param device: ``cpu`` or ``cuda``.
    :param command: What was typed, for the model card.
    :param say: Takes lines for people.
    :param note: Takes entries of the log.
    :raises TrainingError: A setting does not fit, or there is nothing to resume.
    :raises lerobot_format.DatasetError: A dataset cannot be used.
    """
    began = perf_counter()
    wanted = _stages(settings, stage)
    if fit_minutes is not None and len(wanted) > 1:
        raise TrainingError(f'--fit-minutes: {len(wanted)} stages would share it; name one with --stage')

    def remaining_s() -> float:
        return float('inf') if max_minutes is None else (
            60.0 * max_minutes - SAVING_S - (perf_counter() - began))

    accelerator = make_accelerator(settings, device)  # refuses a device before anything is written
    output = OutputCheckpoint(out, settings)
    output.begin(resume=resume)
    fit_s = None if fit_minutes is None else (lambda: 60.0 * fit_minutes - (perf_counter() - began))
    place = Workplace(settings, output, accelerator, say, note or (lambda _: None), remaining_s, fit_s)
    reports: dict[str, Mapping[str, Any]] = {}
    finished = True
    for name in wanted:
        if name in output.stages():
            say(f'{name}: done in an earlier piece')
            continue
        if remaining_s() <= 0.0:
            finished = False
            break
        _check_earlier(settings, output, name, PREPARING_NEEDS if prepare_only else NEEDS[name])
        if prepare_only:
            PREPARERS[name](place)
            finished = False
            continue
        result = RUNNERS[name](place)
        reports[name] = _summary(result)
        if not result.done:
            say(f'{name}: time is up at step {result.steps}; go on with --resume')
            finished = False
            break
        if place.accelerator.is_main_process:
            output.finish_stage(name, stage_facts(result, settings, device_name(place.device)))
    if place.accelerator.is_main_process:
        plot_losses(output.run_directory, out / 'losses.png')
        write_card(output, settings, command)
    return RunReport(out, finished, perf_counter() - began, output.size_bytes(), reports)


def dry_run(settings: TrainingSettings, out: Path, *, stage: str, device: str,
            say: Callable[[str], None] = logger.info) -> dict[str, Any]:
    """Return parameters, memory and step time of the generator without reading any data.

    Windows are made of noise at the checkpoint's sizes. The other stages report their parameters.

    :param out: A scratch directory for the starting weights.
    :raises TrainingError: A setting does not fit.
    """
    torch = require('torch', 'model')
    wanted = _stages(settings, stage)
    output = OutputCheckpoint(out, settings)
    checkpoint = output.begin(resume=False)
    place = Workplace(settings, output, make_accelerator(settings, device), say, lambda _: None,
                      lambda: float('inf'))
    report: dict[str, Any] = {
        'checkpoint': checkpoint.label, 'device': device_name(place.device), 'stages': list(wanted)}
    if settings.generator is None or 'generator' not in wanted:
        return report
    windows = [noise_windows(place, settings.generator.optimiser.batch)]
    objective = make_generator_objective(place, windows)
    trained = sum(p.numel() for p in objective.trained().values())
    report |= {
        'parameters': sum(p.numel() for p in objective.parameters()), 'trained_parameters': trained,
        'optimiser_bytes': 16 * trained}
    draws = WeightedDraws([len(windows[0])], [1.0], settings.generator.optimiser.batch, settings.seed)
    times = _time_steps(place, objective, draws)
    report |= {
        'step_s': min(times), 'hours': min(times) * settings.generator.optimiser.steps / 3600.0,
        'samples_per_s': settings.generator.optimiser.batch / min(times)}
    if place.device.type == 'cuda':
        report['peak_bytes'] = int(torch.cuda.max_memory_allocated(place.device))
    return report


def evaluate_run(
    settings: TrainingSettings, out: Path, episodes: int, *, device: str, command: str = '',
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Measure a finished checkpoint, write ``evaluation.json`` and quote it in the card.

    :param episodes: Closed-loop episodes per task, and clips shown to the reasoner.
    """
    from .measurements import measure_checkpoint

    output = OutputCheckpoint(out, settings)
    place = Workplace(
        settings, output, make_accelerator(settings, device), say, lambda _: None, lambda: float('inf'))
    found = measure_checkpoint(place, episodes)
    update_json(out / EVALUATION_FILE, found)
    write_card(output, settings, command)
    return found


def noise_windows(place: Workplace, count: int) -> Any:
    """Return windows of noise, as many as a batch, for timing."""
    import numpy as np

    from ..generator.droid_joint import HORIZON, ROWS, WIDTH
    from .latent_windows import LatentWindows

    torch = require('torch', 'model')
    view = place.view
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(
        (count, 48, HORIZON // 4 + 1, view.latent_height, view.latent_width), generator=generator)
    rows = torch.randn((count, ROWS, WIDTH), generator=generator)
    none = torch.zeros((count, ROWS), dtype=torch.bool, device=place.device)
    return LatentWindows(
        latents.half().to(place.device), rows.to(place.device), past=none, unknown=none,
        unseen=none[:, :latents.shape[2]], text_index=np.zeros(count, np.int64),
        texts=('pick up the red cube and place it on the white circle',))


def make_accelerator(settings: TrainingSettings, device: str) -> Any:
    """Return accelerate's helper for a device.

    :raises TrainingError: This machine does not have it.
    """
    try:
        check_device(device)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    on_cuda = device.startswith('cuda')
    mixed = 'bf16' if on_cuda and settings.run.autocast == 'bfloat16' else 'no'
    if on_cuda:
        torch = require('torch', 'model')
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        # With a mask its gradients may be NaN on H100 and H200 (pytorch issue 196678); other kernels serve.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return require('accelerate', 'model').Accelerator(cpu=not on_cuda, mixed_precision=mixed)


def device_name(device: Any) -> str:
    """Return how reports call a device."""
    if device.type != 'cuda':
        return str(device)
    return str(require('torch', 'model').cuda.get_device_name(device))


def _time_steps(place: Workplace, objective: GeneratorObjective, draws: WeightedDraws) -> list[float]:
    torch = require('torch', 'model')
    settings = place.settings.generator
    assert settings is not None
    model = place.accelerator.prepare(objective)
    optimiser = torch.optim.AdamW(list(objective.trained().values()), lr=1e-9)
    size = settings.optimiser.forward_size(place.accelerator.num_processes)
    times = []
    for step in range(DRY_STEPS):
        began = perf_counter()
        taken = draws(step)
        for i in range(0, len(taken), size):
            place.accelerator.backward(model(Batch(step, i, taken[i:i + size]))['loss'])
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if place.device.type == 'cuda':
            torch.cuda.synchronize(place.device)
        times.append(perf_counter() - began)
        place.say(f'step {step}: {times[-1]:.3f} s')
    return times


def _stages(settings: TrainingSettings, stage: str) -> tuple[str, ...]:
    if stage == 'all':
        return settings.stages
    if stage not in settings.stages:
        raise TrainingError(
            f'--stage: {stage!r} arrived, one of {", ".join((*settings.stages, "all"))} is in this file '
            f'(stages there are: {", ".join(STAGES)})')
    return (stage,)


def _check_earlier(
    settings: TrainingSettings, output: OutputCheckpoint, stage: str, needs: tuple[str, ...],
) -> None:
    """Refuse a stage that would learn from another that is not done: from an untrained autoencoder, say.

    :raises TrainingError: One of the file's stages that this one reads is not done.
    """
    done = output.stages()
    missing = [
        name for name in settings.stages if name in needs and name in NEEDS[stage] and name not in done]
    if missing:
        raise TrainingError(
            f'stage {stage}: it reads what {", ".join(missing)} trains, which is not done in '
            f'{output.directory} (done: {", ".join(done) or "nothing"}); train it first, or take its section '
            'out of the file to keep the weights that are there')


def _summary(result: StageResult) -> dict[str, Any]:
    return {
        'done': result.done, 'steps': result.steps, 'step_s': result.step_s, 'seconds': result.seconds,
        'first_loss': result.log[0]['loss'] if result.log else None,
        'last_loss': result.log[-1]['loss'] if result.log else None}
