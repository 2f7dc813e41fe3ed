"""``cosmos3 engine build``: arguments, and what they ask for."""

import argparse
from pathlib import Path
from typing import Any

from ..resources import require
from .arguments import positive
from .console import CommandError, Output

SHAPES = (
    ('frame-grid', (22, 40)), ('max-frames', 4), ('max-prompt', 1024), ('cache', 1280), ('max-context', 512),
    ('action-rows', 33), ('clean-rows', 1), ('action-channels', 8), ('domain', 8))
DROID_GRID = (9, 17, 20)


def add_build(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that only building has."""
    parser.add_argument(
        '--target', action='append', default=[], metavar='SM',
        help='architecture, may be repeated: sm89 (RTX 40), sm120 (RTX 50, RTX PRO Blackwell), current')
    parser.add_argument('--dry-run', action='store_true', help='only say time, memory and disk')
    parser.add_argument(
        '--weight-streaming', action='store_true', help='plans may keep weights in host memory')
    parser.add_argument('--refittable', action='store_true', help='weights can be exchanged; needs a GPU')
    parser.add_argument(
        '--segment-bytes', type=positive(int), default=2_600_000_000,
        help='most bfloat16 weights of one segment; smaller needs less memory (default: %(default)s)')
    parser.add_argument(
        '--calibration', type=Path, metavar='JSON', help='scales for fp8, from "cosmos3 engine calibrate"')
    parser.add_argument('--prompts', type=int, default=64, help='stored prompts (default: %(default)s)')
    parser.add_argument(
        '--prompt-memory-gb', type=positive(float), default=2.0,
        help='prompts are stored if the language model fits into this (default: %(default)s)')
    parser.add_argument(
        '--no-onnx-check', dest='check_onnx', action='store_false',
        help='do not hold a float32 export on ONNX Runtime to torch')
    parser.add_argument(
        '--no-vectors', dest='vectors', action='store_false',
        help='store no vectors: faster, but such plans can never pass the gate')
    for name, what in (('least-cosine', 'cosine'), ('most-deviation', 'deviation')):
        parser.add_argument(
            f'--{name}', type=float, help=f"the gate's bound on every {what} (default: the precision's)")
    parser.add_argument('--keep-onnx', action='store_true', help='leave the ONNX files beside the plans')
    parser.add_argument('--seed', type=int, default=0, help='of stored inputs (default: %(default)s)')
    for name, value in SHAPES:
        parser.add_argument(
            f'--{name}', type=int, default=value, nargs=len(value) if isinstance(value, tuple) else None,
            help=f'see docs/engine.md (default: {value})')
    parser.add_argument(
        '--latent-grid', type=int, nargs=3,
        help="see docs/engine.md (default: the checkpoint's camera view, 9 frames)")


def run_build(args: argparse.Namespace, output: Output) -> int:
    """Build plans, or say what building would take."""
    building = require('cosmos3_ros.engine.build', 'tensorrt')
    estimating = require('cosmos3_ros.engine.estimate', 'tensorrt')
    errors = require('cosmos3_ros.engine.errors', 'tensorrt')
    try:
        request = make_request(args)
        planned = estimating.estimate(request)
        output.say(
            f'{len(planned.segments)} segments; about {planned.seconds / 60:.0f} min, '
            f'{planned.peak_rss_bytes / 1e9:.1f} GB of memory, {planned.disk_bytes / 1e9:.1f} GB of disk')
        if args.dry_run:
            output.result({
                'dry_run': True, 'segments': [segment.name for segment in planned.segments],
                'seconds': round(planned.seconds), 'peak_rss_gb': round(planned.peak_rss_bytes / 1e9, 2),
                'disk_gb': round(planned.disk_bytes / 1e9, 2)})
            return 0
        result = building.build(
            request, lambda p: output.say(f'[{p.index + 1}/{p.count}] {p.segment}: {p.stage}'))
    except errors.EngineError as error:
        raise CommandError(str(error)) from error
    output.result({
        'plans': [str(folder / plan.file) for folder, made in result.engines for plan in made.plans],
        'bytes': result.plan_bytes, 'seconds': round(result.seconds, 1),
        'peak_rss_gb': round(result.peak_rss_bytes / 1e9, 2),
        'fidelity_cosine_min': result.fidelity_cosine_min, 'tokens_identical': result.tokens_identical})
    return 0


def make_request(args: argparse.Namespace) -> Any:
    """Return the :class:`engine.build.BuildRequest` that arguments ask for.

    :raises engine.errors.EngineError: They cannot be met.
    """
    building = require('cosmos3_ros.engine.build', 'tensorrt')
    compiler = require('cosmos3_ros.engine.compiler', 'tensorrt')
    dimensions = require('cosmos3_ros.engine.dimensions', 'tensorrt')
    scales = require('cosmos3_ros.engine.scales', 'tensorrt')
    segments = require('cosmos3_ros.engine.segments', 'tensorrt')
    source = require('cosmos3_ros.engine.sources', 'tensorrt').EngineSource.open(args.checkpoint, args.seed)
    shapes = dimensions.Shapes(
        frame_grid=tuple(args.frame_grid), max_frames=args.max_frames, max_prompt=args.max_prompt,
        cache=args.cache, max_context=args.max_context,
        latent_grid=_latent_grid(source) if args.latent_grid is None else tuple(args.latent_grid),
        action_rows=args.action_rows, clean_rows=args.clean_rows, action_channels=args.action_channels,
        domain=args.domain)
    return building.BuildRequest(
        checkpoint=source.directory, checkpoint_hash=source.content_hash, label=source.label,
        source=args.checkpoint, dimensions=source.dimensions, shapes=shapes,
        towers=tuple(args.tower or segments.TOWERS), precision=args.precision,
        options=compiler.BuildOptions(tuple(args.target), args.weight_streaming, args.refittable),
        out=args.out, flavour=args.flavour, segment_bytes=args.segment_bytes, seed=args.seed,
        least_cosine=args.least_cosine, most_deviation=args.most_deviation,
        scales=None if args.calibration is None else scales.Scales.read(args.calibration),
        with_vectors=args.vectors, check_onnx=args.check_onnx, keep_onnx=args.keep_onnx,
        prompts=args.prompts, prompt_memory_bytes=int(args.prompt_memory_gb * 1e9))


def _latent_grid(source: Any) -> tuple[int, int, int]:
    """Return the latent frames and patches of the policy's requests."""
    if source.view is None:
        return DROID_GRID
    view = require('cosmos3_ros.generator.composed_view', 'model').View.of(*source.view)
    patch = source.dimensions.latent_patch
    return DROID_GRID[0], -(-view.latent_height // patch), -(-view.latent_width // patch)
