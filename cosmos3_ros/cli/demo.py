"""``cosmos3 demo``: simulated episodes through the real graph, recorded, checked, drawn and filmed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
import json
from multiprocessing import get_context
from pathlib import Path
import shutil
import time
from typing import TYPE_CHECKING, Any

from ..evaluation.limit_file import CheckedLimits, read_limits
from ..evaluation.run_summary import RunSummary, summarise_run
from ..evaluation.video import write_video
from ..resources import require
from ..sim.configuration import FIRST_EVALUATION_SEED
from .arguments import TASKS, add_graph_arguments, add_json, positive
from .checkpoint import default_checkpoint
from .console import CommandError, Output
from .running import Running, model_parameters, perception_parameters, running

if TYPE_CHECKING:
    from .episodes import EpisodeResult

POLICIES = ('cosmos3', 'oracle')
TIMEOUT_S = {'oracle': 45.0, 'cosmos3': 30.0}
BAG, VIDEO, FIGURE, SUMMARY, LOGS = 'bag', 'cameras.mp4', 'motion.png', 'summary.json', 'log'
RECORDER_CLOSE_S = 20.0
RECORDED = (
    '/clock', '/joint_states', '/simulation_state', '/action_chunk', '/scene', '/controller_state')


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'demo', help='run simulated episodes through all nodes and check every command')
    parser.add_argument('--task', choices=(*TASKS, 'all'), default='pick_place',
                        help='all: the three one after the other (default: %(default)s)')
    parser.add_argument('--policy', choices=POLICIES, default='cosmos3',
                        help='cosmos3: the checkpoint; oracle: the scripted expert on the simulated state '
                             '(default: %(default)s)')
    parser.add_argument('--episodes', type=int, default=1,
                        help='episodes of each task (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=FIRST_EVALUATION_SEED,
                        help='seed of the first episode; results are reported from the default on '
                             '(default: %(default)s)')
    parser.add_argument('--timeout', type=positive(float), metavar='S',
                        help='longest episode; 45 with the oracle, 30 with cosmos3')
    parser.add_argument('--to-the-end', action='store_true',
                        help='let an episode last until its timeout, or until the policy ends it, though its '
                             'task is done; the oracle always ends it itself')
    parser.add_argument('--injected-latency', type=float, default=0.0, metavar='S',
                        help='delay every chunk by this much, as a slower policy would')
    parser.add_argument('--output', type=Path, default=Path('demo'), metavar='DIR',
                        help='where bag, video, figure and summary go (default: %(default)s)')
    parser.add_argument('--headless', action='store_true', help='no live view')
    parser.add_argument('--no-media', action='store_true', help='write neither video nor figure')
    add_graph_arguments(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Run the demo; fails if a limit was violated or an image was lost."""
    if args.episodes < 1:
        raise CommandError(f'--episodes: {args.episodes} arrived, at least 1 is needed')
    if args.injected_latency < 0.0:
        raise CommandError(f'--injected-latency: {args.injected_latency:g} arrived, 0 or more is allowed')
    for module, extra in (('mujoco', 'sim'), ('rosbags', 'record')):
        require(module, extra)
    limits = read_limits(args.robot, args.profile)
    directory = prepare_output(args.output)
    checkpoint = args.checkpoint if args.checkpoint is not None else default_checkpoint(output)
    began_s = time.monotonic()
    results, counts = _run_graph(args, output, directory, checkpoint)
    # Filming takes as long as all the rest, in another process.
    with ProcessPoolExecutor(1, get_context('spawn')) as pool:
        film = None if args.no_media else pool.submit(
            write_video, directory / BAG, directory / VIDEO, window_ns=_window(results[0]))
        summary = summarise_run(directory / BAG, limits, breaks(results))
        values = _result(args, results, counts, summary, directory)
        if film is not None:
            _draw(directory, results[0], limits, summary)
            film.result()
            output.say(f'{directory / VIDEO}, {directory / FIGURE} and {directory / BAG} written')
    values['elapsed_s'] = time.monotonic() - began_s
    (directory / SUMMARY).write_text(json.dumps(
        {**values, 'limits': summary.limits.to_dict(), 'results': [_episode(r) for r in results]},
        indent=1, default=str) + '\n')
    output.result(values)
    faults = _faults(values)
    for fault in faults:
        output.warn(fault)
    return int(bool(faults))


def _faults(values: dict[str, Any]) -> list[str]:
    """Return why the run failed, if it did: a failed episode is a result, these are not."""
    found = []
    if values['limit_violations']:
        found.append(
            f'{values["limit_violations"]} samples of the commands are past a limit '
            f'({", ".join(f"{name}: {count}" for name, count in values["violations"].items())})')
    missing = values['images_published'] - values['images_received']
    if missing:
        found.append(
            f'perception counted {values["images_received"]} of {values["images_published"]} images: it had '
            'no processor to take the rest in time (a busy machine?), or its transport is not the one that '
            'cosmos3 sets (FASTRTPS_DEFAULT_PROFILES_FILE)')
    return found


def prepare_output(directory: Path) -> Path:
    """Return the output directory with the files of an earlier run removed, and only those.

    :raises CommandError: It exists and is no directory.
    """
    if directory.exists() and not directory.is_dir():
        raise CommandError(f'--output: {directory} is no directory')
    directory.mkdir(parents=True, exist_ok=True)
    for name in (BAG, LOGS):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in (VIDEO, FIGURE, SUMMARY):
        (directory / name).unlink(missing_ok=True)
    return directory


def breaks(results: list[EpisodeResult]) -> tuple[int, ...]:
    """Return the simulated instants of the resets, which move the arm at once."""
    return tuple(instant for result in results for instant in result.reset_ns if instant)


def _node_specs(args: argparse.Namespace, checkpoint: Path) -> list[Any]:
    from .graph import NodeSpec
    models = model_parameters(checkpoint, args.device)
    first_task = TASKS[0] if args.task == 'all' else args.task
    common = {'robot': args.robot, 'use_sim_time': True}
    generator = {'policy': args.policy, 'injected_latency_s': float(args.injected_latency)}
    return [
        NodeSpec('simulator', {'robot': args.robot, 'task': first_task, 'seed': args.seed}),
        NodeSpec('perception', {**common, **models, **perception_parameters(args.device, checkpoint)}),
        NodeSpec('generator', {**common, **models, **generator}),
        NodeSpec('controller', {**common, 'profile': args.profile, 'arm_on_activate': False}),
    ]


def _episodes(args: argparse.Namespace) -> Iterator[tuple[str, int]]:
    for task in TASKS if args.task == 'all' else (args.task,):
        for number in range(args.episodes):
            yield task, args.seed + number


def _run_graph(
    args: argparse.Namespace, output: Output, directory: Path, checkpoint: Path,
) -> tuple[list[EpisodeResult], dict[str, Any]]:
    """Start everything, run the episodes, and return their results and the nodes' own counts."""
    logs = args.log_dir if args.log_dir is not None else directory / LOGS
    timeout_s = args.timeout or TIMEOUT_S[args.policy]
    results: list[EpisodeResult] = []
    with running('cosmos3_demo', logs, output, own_domain=True) as live:
        from .episodes import EpisodeRunner
        from .graph import parse_settings
        from .live_view import LiveView
        headline = ['starting']
        with LiveView(output.console, live.monitor, lambda: headline[0], not args.headless):
            recorder = live.graph.start_recorder(directory / BAG)
            live.graph.start(_node_specs(args, checkpoint), parse_settings(args.settings))
            live.graph.configure()
            live.graph.wait_for_recorder(RECORDED)
            live.graph.activate()
            # The oracle knows itself when it is done.
            until_done = args.policy != 'oracle' and not args.to_the_end
            runner = EpisodeRunner(live.session, live.monitor, live.graph.check)
            for task, seed in _episodes(args):
                headline[0] = f'{task}, seed {seed}, {sum(r.success for r in results)} of {len(results)} done'
                result = runner.run(task, seed, timeout_s, until_done=until_done)
                results.append(result)
                output.say(
                    f'{task:10} seed {seed:<4} {"success" if result.success else "no success":10} '
                    f'{result.elapsed_s:5.1f} s  {result.chunks} chunks  {result.reason}')
            headline[0] = 'finishing'
            live.graph.deactivate('simulator')
            live.wait_for_final_counts('perception', 'generator')
        counts = _counts(live)
        live.processes.stop_one(recorder, RECORDER_CLOSE_S)
    return results, counts


def _counts(live: Running) -> dict[str, Any]:
    """Return what the nodes counted, after the last image."""
    monitor = live.monitor
    generator = monitor.reports.get('generator')
    values = generator.values if generator is not None else {}
    return {
        'scene_reports': monitor.scenes,
        'images_received': monitor.images_received('perception'),
        'images_received_generator': monitor.images_received('generator'),
        'lateness_p99_ms': max(monitor.lateness_p99_us, default=float('nan')) * 1e-3,
        'stops': [f'{stop.reason}: {stop.detail}' for stop in monitor.stops],
        'checkpoint': values.get('checkpoint', ''),
        'trained': values.get('trained', '') == 'True',
        'scene_checkpoint': monitor.scene.checkpoint if monitor.scene is not None else '',
        'scene_trained': bool(monitor.scene.trained) if monitor.scene is not None else False,
    }


def _result(
    args: argparse.Namespace, results: list[EpisodeResult], counts: dict[str, Any], summary: RunSummary,
    directory: Path,
) -> dict[str, Any]:
    return {
        'task': args.task, 'policy': args.policy, 'seed': args.seed, 'profile': args.profile,
        'robot': args.robot, 'injected_latency_s': args.injected_latency,
        'episodes': len(results), 'successes': sum(result.success for result in results),
        'chunks': sum(result.chunks for result in results),
        'chunks_per_episode_min': min(result.chunks for result in results),
        'scene_reports': counts['scene_reports'],
        'scene_reports_per_episode_min': min(result.scene_reports for result in results),
        'images_published': summary.images_published,
        'images_received': sum(counts['images_received'].values()),
        'images_recorded': summary.images_recorded,
        'command_rate_hz': summary.command_rate_hz,
        'command_lateness_p99_ms': counts['lateness_p99_ms'],
        'limit_violations': summary.limits.total,
        'violations': {name: count for name, count in summary.limits.violations.items() if count},
        'stops': len(counts['stops']), 'stop_reasons': counts['stops'],
        'realtime_factor': summary.realtime_factor,
        'checkpoint': counts['checkpoint'], 'trained': counts['trained'],
        'scene_checkpoint': counts['scene_checkpoint'], 'scene_trained': counts['scene_trained'],
        'messages_lost': summary.lost, 'bag': str(directory / BAG),
    }


def _episode(result: EpisodeResult) -> dict[str, Any]:
    return {
        'task': result.task, 'seed': result.seed, 'instruction': result.instruction,
        'success': result.success, 'reason': result.reason, 'elapsed_s': result.elapsed_s,
        'chunks': result.chunks, 'scene_reports': result.scene_reports, 'stops': list(result.stops)}


def _window(episode: EpisodeResult) -> tuple[int, int]:
    """Return when an episode began, after its reset, and ended."""
    return episode.reset_ns[1], episode.end_ns


def _draw(directory: Path, first: EpisodeResult, limits: CheckedLimits, summary: RunSummary) -> None:
    """Draw the motion of the first episode of the run."""
    from ..evaluation.figures import write_motion_figure
    if summary.commands is not None:
        title = f'{first.task}: "{first.instruction}", profile {limits.profile}'
        write_motion_figure(
            summary.commands.log, limits, directory / FIGURE, title=title, window_ns=_window(first))
