"""Seconds per step of each part of a training run at the shapes of its file, on noise: sizes a recipe.

Run ``python benchmarks/training.py config/training/tiny.yaml --device cuda [--json]``. Reads no data.

Per stage: the median of some steps after two that warm up, with optimiser and averaging, at the file's batch
(or ``--batch``); for the generator also the encoding of its windows. With it what the file asks for in all.
"""

import argparse
from contextlib import nullcontext
import json
from pathlib import Path
import sys
import tempfile
from time import perf_counter
from typing import Any

import numpy as np
import torch

from cosmos3_ros.generator.droid_joint import ROWS, WIDTH
from cosmos3_ros.model.loading import load_vae
from cosmos3_ros.reasoner.model_loading import load_model
from cosmos3_ros.reasoner.questions import PromptBook
from cosmos3_ros.reasoner.video_prompt import VideoSettings
from cosmos3_ros.training.clip_samples import ClipRecording, Examiner, scale_like_perception
from cosmos3_ros.training.latent_windows import ClipEncoder, encode_windows
from cosmos3_ros.training.objective import PreparedObjective
from cosmos3_ros.training.output_checkpoint import OutputCheckpoint
from cosmos3_ros.training.question_tokens import QuestionTokens
from cosmos3_ros.training.reasoner_objective import ReasonerObjective
from cosmos3_ros.training.recording import Recording
from cosmos3_ros.training.settings_file import load_settings
from cosmos3_ros.training.tower_stage import make_generator_objective
from cosmos3_ros.training.training_loop import TrainingLoop
from cosmos3_ros.training.training_run import device_name, make_accelerator, noise_windows
from cosmos3_ros.training.vae_objective import VaeObjective
from cosmos3_ros.training.workplace import Workplace

CAMERA_PIXELS = {'wrist': (180, 320), 'exterior_1': (180, 320), 'exterior_2': (180, 320)}
FRAMES = 160


def noise_recording(view: Any) -> Recording:
    """Return an episode of noise."""
    random = np.random.default_rng(0)
    return Recording(
        name='noise', pictures=random.integers(0, 256, (FRAMES, view.height, view.width, 3), dtype=np.uint8),
        state=np.zeros((FRAMES, WIDTH), np.float32), action=np.zeros((FRAMES, WIDTH), np.float32),
        ends=np.full(FRAMES, FRAMES), demonstration=np.ones(FRAMES, bool), episode=np.zeros(FRAMES, np.int64),
        text_index=np.zeros(FRAMES, np.int64), texts=('move the gripper above the red cube',))


def noise_clips(settings: Any) -> ClipRecording:
    """Return clips of noise with a report of the usual length."""
    random = np.random.default_rng(0)
    things = [{'label': f'{colour} cube', 'bbox_2d': [123, 456, 234, 567]}
              for colour in ('red', 'green', 'blue', 'yellow')]
    report = json.dumps({
        'caption': 'The robot moves towards the red cube.', 'objects': things,
        'next_action': 'move above the red cube', 'task_state': 'in_progress', 'hazards': [],
        'plausibility': 'possible'})
    facts = json.dumps([['open', 'Semantic Alignment', 'Is the gripper open?', True]])
    return ClipRecording(
        name='noise', episode=np.zeros(FRAMES, np.int64), begins=np.array([0, FRAMES]),
        pictures={slot: scale_like_perception(
            random.integers(0, 256, (FRAMES, *CAMERA_PIXELS[slot], 3), dtype=np.uint8), settings)
            for slot in settings.cameras},
        instructions=('move the gripper above the red cube',) * FRAMES, reports=(report,) * FRAMES,
        statements=(facts,) * FRAMES, things=(json.dumps({slot: [] for slot in settings.cameras}),) * FRAMES)


def time_loop(place: Workplace, stage: str, objective: Any, samples: int, batch: int, steps: int) -> float:
    """Return median seconds of a step, data and log included."""
    section = getattr(place.settings, stage)
    loop = TrainingLoop(
        stage, objective, place.draws([samples], batch, 1), section.optimiser, place.settings.run,
        place.accelerator, place.output.run_directory, 'benchmark')
    times = []
    with objective.ahead(loop._coming()) if isinstance(objective, PreparedObjective) else nullcontext():
        for _ in range(steps + 2):
            began = perf_counter()
            values = loop._take_step()
            float(values['loss'])
            times.append(perf_counter() - began)
            loop.step += 1
    return float(np.median(times[2:]))


def measure(path: Path, device: str, batch: int, steps: int, channels_last: bool) -> dict[str, Any]:
    """Return seconds per step and in all for every stage of a file."""
    settings = load_settings(path)
    found: dict[str, Any] = {'file': path.name}
    with tempfile.TemporaryDirectory() as scratch:
        output = OutputCheckpoint(Path(scratch) / 'out', settings)
        output.begin(resume=False)
        place = Workplace(
            settings, output, make_accelerator(settings, device), print, lambda _: None, lambda: float('inf'))
        found['device'] = device_name(place.device)
        recording = noise_recording(place.view)
        starts = np.arange(0, FRAMES - ROWS)
        if settings.vae is not None:
            size = batch or settings.vae.optimiser.batch
            vae = load_vae(place.checkpoint, 'cpu', 'float32').to(place.device)
            if channels_last:
                vae.to(memory_format=torch.channels_last_3d)
            objective = VaeObjective(
                vae, [recording], [starts], settings.vae, place.view, place.device, settings.seed)
            step_s = time_loop(place, 'vae', objective, len(starts), size, steps)
            found['vae'] = {'batch': size, 'step_s': step_s, 'total_s': step_s * settings.vae.optimiser.steps}
        if settings.reasoner is not None:
            size = batch or settings.reasoner.optimiser.batch
            model, tokenizer = load_model(output.directory, torch.float32, place.device)
            clips = noise_clips(settings.reasoner)
            video = VideoSettings.load(
                output.directory, settings.reasoner.frames * settings.reasoner.max_frame_pixels)
            examiner = Examiner(PromptBook.load(), settings.reasoner)
            reasoner = ReasonerObjective(
                model, tokenizer, [clips], [np.arange(FRAMES)], examiner, video, settings.reasoner,
                settings.seed)
            step_s = time_loop(place, 'reasoner', reasoner, FRAMES, size, steps)
            asked = examiner.scene(clips, 100)
            tokens = QuestionTokens(model, tokenizer, clips, video, settings.reasoner)
            found['reasoner'] = {
                'batch': size, 'step_s': step_s, 'total_s': step_s * settings.reasoner.optimiser.steps,
                'prompt_tokens': len(tokens.prompt(asked.question)),
                'report_tokens': len(tokens.answers([asked])[0])}
        if settings.generator is not None:
            size = batch or settings.generator.optimiser.batch
            encoder = ClipEncoder(
                load_vae(place.checkpoint, 'cpu', 'float32').to(place.device), place.view, place.device)
            count = 64 if place.device.type == 'cuda' else 4
            for _ in range(2):
                began = perf_counter()
                encode_windows(recording, starts[:count], encoder, place.view, place.device, place.device)
                if place.device.type == 'cuda':
                    torch.cuda.synchronize()
                encode_s = (perf_counter() - began) / count
            windows = noise_windows(place, size)
            generator = make_generator_objective(place, [windows])
            step_s = time_loop(place, 'generator', generator, size, size, steps)
            found['generator'] = {
                'batch': size, 'step_s': step_s, 'total_s': step_s * settings.generator.optimiser.steps,
                'encode_s_per_window': encode_s}
        if place.device.type == 'cuda':
            found['peak_bytes'] = int(torch.cuda.max_memory_allocated())
    return found


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('file', type=Path)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--batch', type=int, default=0, help="instead of the file's")
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--channels-last', action='store_true', help="store the VAE's weights so")
    options = parser.parse_args()
    found = measure(
        options.file, options.device, options.batch, options.steps, options.channels_last)
    sys.stdout.write(json.dumps(found) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
