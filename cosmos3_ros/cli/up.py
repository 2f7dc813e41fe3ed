"""``cosmos3 up``: start the nodes without launch, on a robot, in simulation or on a recorded episode."""

from __future__ import annotations

import argparse
from pathlib import Path
import shutil
import time
from typing import Any

from ..evaluation.lerobot_episode import Episode, read_episode
from ..evaluation.limit_file import read_limits
from ..evaluation.run_summary import check_shadow, summarise_run
from ..generator.policy import POLICIES
from ..sim.configuration import FIRST_EVALUATION_SEED
from .arguments import TASKS, add_graph_arguments, add_json, positive
from .checkpoint import default_checkpoint
from .console import CommandError, Output
from .running import Running, model_parameters, perception_parameters, running

SERVED_POLICIES = ('openpi', 'vllm_omni', 'nim')
SOURCE_PREFIX = 'lerobot:'
SHADOW_STATE_HZ = 100.0
"""On a recorded episode nothing is commanded, so the plan is recorded through controller_state instead."""
JOINT_STATE_LISTENERS = 3
"""Generator, controller and recorder: a replay waits for them before its first joint state."""
RECORDER_CLOSE_S = 20.0
REST_TIMEOUT_S = 5.0
PROFILES = {'robot': 'commissioning', 'simulation': 'lab', 'replay': 'lab'}


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser('up', help='start perception, generator and controller, with a live view')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--sim', action='store_true', help='start the simulator too')
    source.add_argument(
        '--source', metavar='lerobot:DIR', help='play a recorded episode; the controller only shadows')
    parser.add_argument('--episode', type=int, default=0, help='episode of the source (default: %(default)s)')
    parser.add_argument(
        '--blank-cameras', default='', metavar='SLOT,…',
        help='camera slots without a camera or a video, which the policy sees black')
    parser.add_argument(
        '--policy', choices=tuple(POLICIES), default='cosmos3',
        help='cosmos3: a checkpoint here; openpi, vllm_omni, nim: a server; replay: a recording; oracle: the '
        'scripted expert, in simulation (default: %(default)s)')
    parser.add_argument(
        '--policy-url', default='', metavar='URL',
        help='address of the server of openpi (ws://), vllm_omni or nim (http://)')
    parser.add_argument(
        '--policy-option', action='append', default=[], metavar='NAME=VALUE', dest='policy_options',
        help='argument of the policy, e.g. timeout_s=2.0; may be repeated (docs/generator.md lists them)')
    parser.add_argument('--instruction', default='',
                        help='start on this instruction; in simulation by default on that of the episode')
    parser.add_argument(
        '--task', choices=TASKS, default='pick_place', help='of the simulator (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=FIRST_EVALUATION_SEED,
                        help='of the simulator (default: %(default)s)')
    parser.add_argument(
        '--shadow', action='store_true', help='in simulation: compute everything, command nothing')
    parser.add_argument('--duration', type=positive(float), metavar='S', help='end after this long')
    parser.add_argument('--output', type=Path, metavar='DIR', help='record all topics into this directory')
    parser.add_argument('--headless', action='store_true', help='no live view')
    add_graph_arguments(parser)
    parser.set_defaults(profile=None)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Run until Ctrl-C, the duration or the end of the recorded episode."""
    from .graph import default_log_directory
    kind = 'simulation' if args.sim else 'replay' if args.source else 'robot'
    args.profile = args.profile or PROFILES[kind]
    limits = read_limits(args.robot, args.profile)
    if args.policy == 'oracle' and not args.sim:
        raise CommandError(
            "--policy oracle needs --sim: it looks at the simulator's state; cosmos3 is allowed")
    _check_server(args)
    episode = _open_source(args) if args.source else None
    checkpoint = args.checkpoint if args.checkpoint is not None else default_checkpoint(output)
    logs = args.log_dir if args.log_dir is not None else default_log_directory()
    bag = _prepare_bag(args, logs)
    began_s = time.monotonic()
    with running('cosmos3_up', logs, output, own_domain=episode is not None) as live:
        recorder = live.graph.start_recorder(bag) if bag is not None else None
        _bring_up(args, live, checkpoint, episode)
        interrupted = False
        try:
            _watch(args, live, output, replaying=episode is not None)
            _disarm(live)
        except KeyboardInterrupt:
            # The controller brakes by itself when it is asked to end.
            interrupted = True
            output.say('stopping')
        counts = _counts(live)
        if recorder is not None:
            live.processes.stop_one(recorder, RECORDER_CLOSE_S)
    values: dict[str, Any] = {
        'robot': args.robot, 'profile': args.profile, 'policy': args.policy, **counts,
        'elapsed_s': time.monotonic() - began_s}
    if bag is not None:
        summary = summarise_run(bag, limits, (), ends_at_rest=not interrupted)
        shadow, samples = check_shadow(bag, limits)
        values.update({
            'images_published': summary.images_published, 'images_recorded': summary.images_recorded,
            'messages_lost': summary.lost, 'shadow_samples_checked': samples,
            'limit_violations': summary.limits.total + shadow.total,
            'violations': {k: n for k, n in {**shadow.violations, **summary.limits.violations}.items() if n},
            'bag': str(bag)})
    output.result(values)
    return int(bool(values.get('limit_violations')))


def _check_server(args: argparse.Namespace) -> None:
    """Refuse a policy without its server's address, and an address without such a policy."""
    served = args.policy in SERVED_POLICIES
    if served and not args.policy_url:
        scheme = 'ws' if args.policy == 'openpi' else 'http'
        raise CommandError(f'--policy {args.policy} needs --policy-url, e.g. {scheme}://localhost:8000')
    if args.policy_url and not served:
        raise CommandError(
            f'--policy-url: {args.policy_url} arrived, but --policy {args.policy} asks no server; '
            f'{", ".join(SERVED_POLICIES)} do')


def _open_source(args: argparse.Namespace) -> Episode:
    """Read the episode's table, so that a wrong directory fails before anything is started."""
    if not args.source.startswith(SOURCE_PREFIX):
        raise CommandError(f"--source: '{args.source}' arrived, {SOURCE_PREFIX}DIR is allowed")
    episode = read_episode(Path(args.source.removeprefix(SOURCE_PREFIX)).expanduser(), args.episode)
    blank = _blank(args)
    missing = {slot: why for slot, why in episode.missing.items() if slot not in blank}
    if missing:
        raise CommandError(
            'no video for ' + '; '.join(f'{slot}: {why}' for slot, why in missing.items())
            + f'. To go on without: --blank-cameras {",".join(episode.missing)}')
    return episode


def _blank(args: argparse.Namespace) -> list[str]:
    return [slot for slot in args.blank_cameras.split(',') if slot]


def _prepare_bag(args: argparse.Namespace, logs: Path) -> Path | None:
    """Return where to record: where asked to, and for a recorded episode always, since counts need it."""
    if args.output is None and not args.source:
        return None
    directory = args.output if args.output is not None else logs
    directory.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(directory / 'bag', ignore_errors=True)
    return Path(directory / 'bag')


def _bring_up(args: argparse.Namespace, live: Running, checkpoint: Path, episode: Episode | None) -> None:
    from .graph import NodeSpec, parse_settings
    models = model_parameters(checkpoint, args.device)
    common = {'robot': args.robot, 'use_sim_time': bool(args.sim)}
    blank = _blank(args)
    instruction = args.instruction or (episode.instruction if episode is not None else '')
    if episode is not None and not instruction:
        # DROID episodes may lack an annotation; a policy needs some sentence.
        instruction = 'do the task'
    perception: dict[str, Any] = {**common, **models, **perception_parameters(args.device, checkpoint)}
    generator: dict[str, Any] = {
        **common, **models, 'policy': args.policy, 'policy_url': args.policy_url,
        'policy_options': args.policy_options, 'instruction': instruction, 'blank_cameras': blank,
        'follow_simulation': bool(args.sim)}
    controller: dict[str, Any] = {
        **common, 'profile': args.profile, 'arm_on_activate': bool(args.sim and not args.shadow)}
    sources: list[NodeSpec] = []
    if args.sim:
        sources = [NodeSpec('simulator', {'robot': args.robot, 'task': args.task, 'seed': args.seed})]
    if episode is not None:
        cameras = list(episode.videos)
        perception['cameras'] = cameras
        controller['state_rate_hz'] = SHADOW_STATE_HZ
        sources = [NodeSpec('replay', {
            'robot': args.robot, 'source': str(episode.root.resolve()), 'episode': args.episode,
            'blank_cameras': blank, 'joint_states_listeners': JOINT_STATE_LISTENERS})]
    elif blank:
        from ..robots import load_robot
        slots = [slot.name for slot in load_robot(args.robot).cameras]
        perception['cameras'] = [slot for slot in slots if slot not in blank]
    specs = [*sources, NodeSpec('perception', perception), NodeSpec('generator', generator),
             NodeSpec('controller', controller)]
    live.graph.start(specs, parse_settings(args.settings))
    live.graph.configure()
    names = [spec.name for spec in specs]
    if episode is not None:
        # The source last: then no node misses the first image.
        names = [*names[1:], names[0]]
        live.graph.wait_for_recorder(('/joint_states', '/scene', '/action_chunk', '/controller_state'))
    live.graph.activate(names)


def _watch(args: argparse.Namespace, live: Running, output: Output, *, replaying: bool) -> None:
    """Show the live view until the time is up or the episode has been played."""
    from .live_view import LiveView
    monitor = live.monitor

    def played() -> bool:
        report = monitor.reports.get('replay')
        return report is not None and report.values.get('finished') == 'True'

    title = f'cosmos3 up: {args.robot}, {args.policy}'
    with LiveView(output.console, monitor, lambda: title, not args.headless):
        live.session.wait_for(
            (lambda: replaying and played()), args.duration or float('inf'), live.graph.check)
        if replaying:
            live.wait_for_final_counts('perception', 'generator')


def _disarm(live: Running) -> None:
    """Bring a commanded arm to rest before the processes end."""
    if live.monitor.mode != 'RUNNING':
        return
    from std_srvs.srv import Trigger
    client = live.session.node.create_client(Trigger, 'controller/disarm')
    live.session.call(client, Trigger.Request(), REST_TIMEOUT_S, live.graph.check)
    live.session.wait_for(
        lambda: live.monitor.mode not in ('RUNNING', 'STOPPING'), REST_TIMEOUT_S, live.graph.check)


def _counts(live: Running) -> dict[str, Any]:
    """Return what the nodes counted."""
    monitor = live.monitor

    def value(node: str, key: str) -> int:
        report = monitor.reports.get(node)
        return int(float(report.values.get(key, 0))) if report is not None else 0

    state = monitor.controller
    replay = monitor.reports.get('replay')
    sent = sum(int(n) for key, n in (replay.values if replay is not None else {}).items()
               if key.startswith('images.'))
    generator = monitor.reports.get('generator')
    joints = {key: value('controller', f'joint_states_{key}') for key in ('missed', 'before', 'newest')}
    replayed = value('replay', 'joint_states')
    return {
        'images_sent': sent,
        'images_received': sum(monitor.images_received('perception').values()),
        'images_received_generator': sum(monitor.images_received('generator').values()),
        # Of the episode; the pose that is held after its end is received too, and counted apart.
        'joint_states_sent': replayed,
        'joint_states_held': value('replay', 'joint_states_held'),
        'joint_states_received': value('controller', 'joint_states'),
        # All that was sent up to the newest that was heard, from the publisher's own numbers.
        'joint_states_missed': joints['missed'],
        'joint_states_before': joints['before'],
        'joint_states_newest': joints['newest'],
        'joint_states_lost': joints['missed'] + joints['before'] + max(0, replayed - joints['newest']),
        'observations': value('generator', 'observations'),
        'observations_refused': value('generator', 'observations_refused'),
        'scene_reports': monitor.scenes,
        'chunks': value('generator', 'chunks'),
        'chunks_accepted': state.chunks_accepted if state is not None else 0,
        'chunks_rejected': state.chunks_rejected if state is not None else 0,
        'last_rejection': state.last_rejection if state is not None else '',
        'plans_committed': state.plans_committed if state is not None else 0,
        'plans_rejected': state.plans_rejected if state is not None else 0,
        'would_be_commands': value('controller', 'ticks'),
        'commands_sent': value('controller', 'commands_sent'),
        'controller_mode': monitor.mode,
        'stops': len(monitor.stops),
        'stop_reasons': [f'{stop.reason}: {stop.detail}' for stop in monitor.stops],
        'checkpoint': generator.values.get('checkpoint', '') if generator is not None else '',
        'trained': generator is not None and generator.values.get('trained') == 'True',
    }
