"""Episodes with a checkpoint in the loop, without ROS, many at a time: success rates on any machine.

``python benchmarks/closed_loop.py --checkpoint cosmos3-tiny --episodes 50 --workers 2 --json``. Simulated
time only (``cosmos3_ros.evaluation.closed_loop``): world, cameras, the package's controller, and a policy
whose latency is a number, so that the result does not depend on what else the machine does. Several values
of ``--latency``, ``--replan`` and ``--guidance`` are combined. ``--swap`` asks for a cube of another colour
than the episode's own and judges by that one. The last line is JSON.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import product
import json
from multiprocessing import get_context
import os
from pathlib import Path
import sys
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cosmos3_ros.evaluation.closed_loop import ClosedLoop, LoopSettings
from cosmos3_ros.generator.policy import create_policy
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.sim.configuration import ARM_JOINTS, CUBE_COLOURS, FIRST_EVALUATION_SEED, SimulationConfig
from cosmos3_ros.sim.tasks import TASKS
from cosmos3_ros.sim.world import World

Job = tuple[str, int, float, float, float]
"""Task, seed, latency, seconds between observations, guidance."""

_policies: dict[float, Any] = {}
_options: dict[str, Any] = {}


def start(options: dict[str, Any], numbers: Any, devices: int) -> None:
    """Prepare a process: one thread, and its share of the machine's renderers."""
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1
    if devices > 1:
        os.environ['MUJOCO_EGL_DEVICE_ID'] = str(number % devices)
    _options.update(options)


def run_job(job: Job) -> dict[str, Any]:
    """Run one episode."""
    task, seed, latency_s, replan_s, guidance = job
    if guidance not in _policies:
        _policies[guidance] = create_policy(
            'cosmos3', checkpoint=_options['checkpoint'], joint_names=ARM_JOINTS, device='cpu',
            guidance=guidance, torch_threads=1)
    loop = ClosedLoop(_policies[guidance], LoopSettings(
        latency_s=latency_s, replan_s=replan_s, limit_s=_options['limit'][task]))
    try:
        colour = other_colour(task, seed) if _options['swap'] else None
        episode = loop.run(task, seed, colour)
    finally:
        loop.close()
    return {**asdict(episode), 'latency_s': latency_s, 'replan_s': replan_s, 'guidance': guidance}


def other_colour(task: str, seed: int) -> str:
    """Return a colour on the table that the episode does not ask for, drawn by its seed."""
    goal = World(SimulationConfig()).reset(task, seed)
    others = [colour for colour in CUBE_COLOURS if colour != goal.colour]
    return others[seed % len(others)]


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """Yield all episodes."""
    for latency_s, replan_s, guidance in product(args.latency, args.replan, args.guidance):
        for task in args.task or TASKS:
            for seed in range(args.seed, args.seed + args.episodes):
                yield task, seed, latency_s, replan_s, guidance


def summarise(episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each task and setting."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for episode in episodes:
        key = tuple(episode[name] for name in ('latency_s', 'replan_s', 'guidance', 'task'))
        groups[key].append(episode)
    return [{
        'task': key[3], 'latency_s': key[0], 'replan_s': key[1], 'guidance': key[2],
        'success': sum(e['success'] for e in mine), 'episodes': len(mine),
        'mean_s': sum(e['seconds'] for e in mine) / len(mine),
        'mean_nearest_m': sum(e['nearest_m'] for e in mine) / len(mine),
        'refused_chunks': sum(e['refusals'] for e in mine), 'chunks': sum(e['chunks'] for e in mine),
    } for key, mine in sorted(groups.items())]


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--checkpoint', default='cosmos3-tiny')
    parser.add_argument('--task', action='append', choices=TASKS)
    parser.add_argument('--episodes', type=int, default=10)
    parser.add_argument('--seed', type=int, default=FIRST_EVALUATION_SEED)
    parser.add_argument('--latency', type=float, nargs='+', default=[0.3])
    parser.add_argument('--replan', type=float, nargs='+', default=[0.5])
    parser.add_argument('--guidance', type=float, nargs='+', default=[1.0])
    parser.add_argument('--limit', type=float, nargs=3, default=[10.0, 25.0, 30.0], metavar='S',
                        help='longest reach, push and pick_place')
    parser.add_argument('--swap', action='store_true', help='ask for another colour')
    parser.add_argument('--workers', type=int, default=1)
    parser.add_argument('--egl-devices', type=int, default=1, help='GPUs that share the rendering')
    parser.add_argument('--log', type=Path, help='every episode, one JSON line each')
    parser.add_argument('--json', action='store_true', help='nothing but the last line')
    args = parser.parse_args()
    # A path does not say which weights lie there.
    label = Checkpoint.open(args.checkpoint, parts=('generator',)).label
    options = {'checkpoint': args.checkpoint, 'swap': args.swap,
               'limit': dict(zip(('reach', 'push', 'pick_place'), args.limit, strict=True))}
    context, done = get_context('spawn'), []
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    with ProcessPoolExecutor(
            args.workers, context, start, (options, context.Value('i', 0), args.egl_devices)) as pool:
        waiting = [pool.submit(run_job, job) for job in jobs(args)]
        for future in as_completed(waiting):
            done.append(future.result())
            if args.log is not None:
                with args.log.open('a', encoding='utf-8') as file:
                    file.write(json.dumps({'checkpoint': label, **done[-1]}) + '\n')
            if not args.json:
                sys.stderr.write(f'{len(done)} of {len(waiting)}\n')
    rows = summarise(done)
    if not args.json:
        for row in rows:
            sys.stderr.write(
                '{task:>10}  latency {latency_s:.1f} s, every {replan_s:.1f} s, guidance {guidance:g}: '
                '{success}/{episodes}, {mean_s:.1f} s\n'.format(**row))
    sys.stdout.write(json.dumps({'checkpoint': label, 'swapped': args.swap, 'rows': rows}) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
