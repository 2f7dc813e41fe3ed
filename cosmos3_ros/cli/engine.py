"""``cosmos3 engine``: build towers as TensorRT plans, verify them, measure them, compare precisions."""

import argparse
from pathlib import Path
from typing import Any

from ..resources import require
from .arguments import add_json, positive
from .console import CommandError, Output

TOWERS = ('vision', 'language', 'generation')
PRECISIONS = ('bf16', 'fp8')
DEFAULT_OUT = Path('engines')


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('engine', help='build, verify and measure TensorRT engines')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    _add_build(actions.add_parser('build', help='export towers and build plans; needs no GPU'))
    verify = actions.add_parser('verify', help='run plans on this GPU and hold them to the stored vectors')
    _add_common(verify)
    verify.set_defaults(run=run_verify)
    bench = actions.add_parser('bench', help='verify, then time prefill, decode and denoising on this GPU')
    _add_common(bench)
    bench.add_argument(
        '--repetitions', type=positive(int), default=50, help='timed runs (default: %(default)s)')
    bench.set_defaults(run=run_bench)
    drift = actions.add_parser('drift', help='compare two precisions of the same tower on real frames')
    drift.add_argument('a', help='precision, the reference: fp32, bf16, fp8')
    drift.add_argument('b', help='precision to compare')
    drift.add_argument('--checkpoint', required=True, help='directory, packaged name or Hub id')
    drift.add_argument('--data', type=Path, required=True, help='a LeRobot v3 episode, or a video')
    drift.add_argument(
        '--frames', type=positive(int), default=4, help='moments compared (default: %(default)s)')
    drift.add_argument('--out', type=Path, default=Path('drift'), help='for drift.json and drift.html')
    add_json(drift)
    drift.set_defaults(run=run_drift)


def run_build(args: argparse.Namespace, output: Output) -> int:
    """Build plans, or say what building would take."""
    building = require('cosmos3_ros.engine.build', 'tensorrt')
    errors = require('cosmos3_ros.engine.errors', 'tensorrt')
    try:
        request = _request(args)
        planned = building.estimate(request)
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


def run_verify(args: argparse.Namespace, output: Output) -> int:
    """Run the gate on this machine's GPU."""
    errors = require('cosmos3_ros.engine.errors', 'tensorrt')
    verification = require('cosmos3_ros.engine.verification', 'tensorrt')
    try:
        reports = [
            verification.verify_tower(args.out, tower, args.precision, _open(args.checkpoint), args.flavour)
            for tower in args.tower or TOWERS]
    except errors.EngineError as error:
        raise CommandError(str(error)) from error
    output.result({report.tower: report.to_json() for report in reports})
    return 0


def run_bench(args: argparse.Namespace, output: Output) -> int:
    """Verify, then time; ends with a table to paste into an issue."""
    errors = require('cosmos3_ros.engine.errors', 'tensorrt')
    verification = require('cosmos3_ros.engine.verification', 'tensorrt')
    try:
        rows = [
            row for tower in args.tower or TOWERS
            for row in verification.measure_tower(
                args.out, tower, args.precision, _open(args.checkpoint), args.flavour, args.repetitions)]
    except errors.EngineError as error:
        raise CommandError(str(error)) from error
    output.say(verification.markdown_table(rows))
    output.result({'rows': rows})
    return 0


def run_drift(args: argparse.Namespace, output: Output) -> int:
    """Compare two precisions."""
    errors = require('cosmos3_ros.engine.errors', 'tensorrt')
    drift = require('cosmos3_ros.cli.engine_drift', 'tensorrt')
    try:
        report = drift.compare_on_data(args.a, args.b, _open(args.checkpoint), args.data, args.frames)
    except errors.EngineError as error:
        raise CommandError(str(error)) from error
    report.write(args.out)
    output.say(f'wrote {args.out / "drift.html"} and {args.out / "drift.json"}')
    output.result(report.summary())
    return 0


def _add_build(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
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
    parser.add_argument('--calibration', type=Path, help='further inputs, as engine/vectors.py stores them')
    parser.add_argument('--prompts', type=int, default=64, help='stored prompts (default: %(default)s)')
    parser.add_argument(
        '--no-onnx-check', dest='check_onnx', action='store_false',
        help='do not hold a float32 export on ONNX Runtime to torch')
    parser.add_argument(
        '--no-vectors', dest='vectors', action='store_false',
        help='store no vectors: faster, but such plans can never pass the gate')
    parser.add_argument('--keep-onnx', action='store_true', help='leave the ONNX files beside the plans')
    parser.add_argument('--seed', type=int, default=0, help='of stored inputs (default: %(default)s)')
    for name, value in (
            ('frame-grid', (22, 40)), ('max-frames', 4), ('max-prompt', 1024), ('cache', 1280),
            ('max-context', 512), ('latent-grid', (9, 17, 20)), ('action-rows', 33)):
        parser.add_argument(
            f'--{name}', type=int, default=value, nargs=len(value) if isinstance(value, tuple) else None,
            help=f'see docs/engine.md (default: {value})')
    parser.set_defaults(run=run_build)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--checkpoint', required=True, help='directory, packaged name or Hub id')
    parser.add_argument('--tower', action='append', choices=TOWERS, help='may be repeated (default: all)')
    parser.add_argument('--precision', default='bf16', choices=PRECISIONS, help='(default: %(default)s)')
    parser.add_argument(
        '--flavour', default='rtx', choices=('rtx', 'classic'),
        help='TensorRT-RTX, or classic TensorRT for data-centre GPUs (default: %(default)s)')
    parser.add_argument(
        '--out', type=Path, default=DEFAULT_OUT, help='directory of all engines (default: %(default)s)')
    add_json(parser)


def _open(source: str) -> Any:
    checkpoints = require('cosmos3_ros.model.checkpoint', 'model')
    try:
        return checkpoints.Checkpoint.open(source, parts=('reasoner',))
    except checkpoints.CheckpointError as error:
        raise CommandError(str(error)) from error


def _request(args: argparse.Namespace) -> Any:
    building = require('cosmos3_ros.engine.build', 'tensorrt')
    compiler = require('cosmos3_ros.engine.compiler', 'tensorrt')
    dimensions = require('cosmos3_ros.engine.dimensions', 'tensorrt')
    if args.checkpoint in dimensions.RANDOM:
        directory, sizes = None, dimensions.RANDOM[args.checkpoint]
        identity = f'{args.checkpoint}-{args.seed}'
        label = identity
    else:
        opened = _open(args.checkpoint)
        directory, sizes = opened.directory, dimensions.Dimensions.read(opened.directory)
        identity, label = opened.content_hash, opened.label
    shapes = dimensions.Shapes(
        frame_grid=tuple(args.frame_grid), max_frames=args.max_frames, max_prompt=args.max_prompt,
        cache=args.cache, max_context=args.max_context, latent_grid=tuple(args.latent_grid),
        action_rows=args.action_rows)
    return building.BuildRequest(
        checkpoint=directory, checkpoint_hash=identity, label=label, source=args.checkpoint,
        dimensions=sizes, shapes=shapes,
        towers=tuple(args.tower or TOWERS), precision=args.precision,
        options=compiler.BuildOptions(tuple(args.target), args.weight_streaming, args.refittable),
        out=args.out, flavour=args.flavour, segment_bytes=args.segment_bytes, seed=args.seed,
        calibration=args.calibration, with_vectors=args.vectors, check_onnx=args.check_onnx,
        keep_onnx=args.keep_onnx, prompts=args.prompts)
