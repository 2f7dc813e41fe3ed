"""What a checkpoint's autoencoder makes of pictures: a sheet to look at, and the error where it matters.

``python benchmarks/autoencoder_look.py --checkpoint DIR [--checkpoint DIR] --data DATASET --out sheet.png``.
One row for each of some frames, spread over the dataset: the composed view, then what each checkpoint makes
of it. The last line is JSON: mean absolute error of all pixels and of small coloured things (pixels whose
weight in ``VaeObjective`` is the highest hundredth), 0..255.
"""

import argparse
import json
from pathlib import Path
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cosmos3_ros.generator.composed_view import View, compose_view
from cosmos3_ros.generator.droid_joint import CAMERA_SLOTS
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.loading import load_vae
from cosmos3_ros.training.dataset_reader import Dataset
from cosmos3_ros.training.latent_windows import ClipEncoder
from cosmos3_ros.training.vae_objective import pixel_weights

BATCH = 16


def choose_views(path: Path, view: View, count: int) -> NDArray[np.uint8]:
    """Return composed views of frames spread over a dataset, (count, H, W, 3)."""
    dataset = Dataset.open(path, width=view.width)
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    found = []
    for episode, frame in (dataset.place(int(i)) for i in chosen):
        found.append(compose_view(
            {slot: dataset.pictures(episode, slot)[frame] for slot in CAMERA_SLOTS}, view))
    return np.stack(found)


def reconstruct(checkpoint: Checkpoint, views: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Any]:
    """Return pictures there and back, and the canvases they were made from."""
    vae, view = load_vae(checkpoint, 'cpu', 'float32'), View.of(*checkpoint.view)
    encoder = ClipEncoder(vae, view, 'cpu')
    found, canvases = [], []
    for first in range(0, len(views), BATCH):
        clips = torch.from_numpy(views[first:first + BATCH, None])
        with torch.no_grad():
            got = vae.decode(encoder.distribution(clips).mode()).sample
        canvases.append(encoder.canvas(clips))
        pixels = ((got.clamp(-1.0, 1.0) + 1.0) * 127.5).round().byte()[:, :, 0].permute(0, 2, 3, 1)
        found.append(pixels[:, :view.height, :view.width].numpy())
    return np.concatenate(found), torch.cat(canvases)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--checkpoint', action='append', required=True)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--frames', type=int, default=64, help='measured')
    parser.add_argument('--rows', type=int, default=3, help='drawn')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    checkpoints = [Checkpoint.open(name) for name in args.checkpoint]
    view = View.of(*checkpoints[0].view)
    views = choose_views(args.data, view, args.frames)
    columns, report = [views], {}
    for name, checkpoint in zip(args.checkpoint, checkpoints, strict=True):
        got, canvas = reconstruct(checkpoint, views)
        columns.append(got)
        error = np.abs(got.astype(float) - views).mean(axis=-1)
        weights = pixel_weights(canvas, 1.0)[:, 0, 0, :view.height, :view.width].numpy()
        report[name] = {
            'error': float(error.mean()),
            'error_of_coloured': float(error[weights >= np.quantile(weights, 0.99)].mean())}
    if args.out is not None:
        rows = np.linspace(0, len(views) - 1, args.rows).astype(int)
        sheet = np.concatenate([np.concatenate([column[i] for column in columns], axis=1) for i in rows])
        size = (2 * sheet.shape[1], 2 * sheet.shape[0])
        Image.fromarray(sheet).resize(size, Image.Resampling.NEAREST).save(args.out, optimize=True)
    sys.stdout.write(json.dumps(report) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
