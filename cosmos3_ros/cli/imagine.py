"""``cosmos3 imagine``: what a checkpoint says would be seen, or was done, in a recorded episode."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import add_json
from .console import CommandError, Output

DYNAMICS = ('forward', 'inverse')


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'imagine', help='imagine a video from actions, or find the actions behind a video')
    parser.add_argument('data', type=Path, help='LeRobot v3 dataset in the layout of DROID')
    parser.add_argument('--episode', type=int, default=0, help='episode (default: %(default)s)')
    parser.add_argument(
        '--at', type=float, default=0.0, metavar='S', help='moment in the episode (default: its start)')
    parser.add_argument(
        '--dynamics', choices=DYNAMICS, default='forward',
        help="forward: a film of the recorded actions; inverse: the recorded film's actions and their "
             'error (default: %(default)s)')
    parser.add_argument('--checkpoint', required=True, help='directory, packaged name or Hub id')
    parser.add_argument('--robot', default='panda', help='robot of config/robots (default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='torch device (default: %(default)s)')
    parser.add_argument('--dtype', default='float32', help='as of the policy (default: %(default)s)')
    parser.add_argument('--steps', type=int, help="denoising steps (default: the contract's)")
    parser.add_argument('--seed', type=int, default=0, help='seed of the noise (default: %(default)s)')
    parser.add_argument(
        '--output', type=Path, default=Path('imagined.mp4'), help='film of forward (default: %(default)s)')
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, output: Output) -> int:
    """Imagine or infer."""
    try:
        return _answer(args, output)
    except ValueError as error:  # what policies, checkpoints, robots and episodes refuse with
        raise CommandError(str(error)) from error


def _answer(args: argparse.Namespace, output: Output) -> int:
    # Heavy imports only here: the other subcommands must start fast.
    from ..evaluation.lerobot_episode import read_episode
    from ..generator.cosmos3_policy import create_cosmos3
    from ..robots import load_robot

    robot = load_robot(args.robot)
    policy = create_cosmos3(
        checkpoint=args.checkpoint, robot=robot, device=args.device, dtype=args.dtype, steps=args.steps,
        torch_threads=0)
    if not policy.identity.trained:
        output.warn(f'{policy.identity.checkpoint} is untrained: what it says means nothing')
    episode = read_episode(args.data, args.episode)
    wanted = _indices(episode, args.at, policy.step_ns, policy.horizon)
    inverse = args.dynamics == 'inverse'
    observations = _observations(
        episode, wanted if inverse else wanted[:1], policy.joint_names, policy.camera_slots)
    instruction = episode.instruction or 'do the task'
    common = {'checkpoint': policy.identity.checkpoint, 'trained': policy.identity.trained,
              'contract': policy.contract, 'instruction': instruction,
              'at_s': float(episode.stamps_s[wanted[0]])}
    if inverse:
        chunk = policy.imagination.infer_actions(observations, instruction, seed=args.seed)
        apart = chunk.positions - episode.joint_position[wanted[1:]]
        still = episode.joint_position[wanted[0]] - episode.joint_position[wanted[1:]]
        output.result({
            **common, 'rms_rad': [float(x) for x in np.sqrt((apart ** 2).mean(axis=0))],
            'rms_of_standing_still_rad': [float(x) for x in np.sqrt((still ** 2).mean(axis=0))],
            'latency_s': chunk.latency_s})
        return 0
    film = policy.imagination.imagine(
        observations[0], _recorded_chunk(episode, wanted, policy, instruction), seed=args.seed)
    film.write(args.output)
    output.result({
        **common, 'film': str(args.output), 'frames': len(film.frames),
        'size': [int(n) for n in film.frames.shape[1:3]], 'latency_s': film.latency_s})
    return 0


def _indices(episode: Any, at_s: float, step_ns: int, horizon: int) -> list[int]:
    """Return the recorded rows nearest to the moment and to the chunk's rows after it."""
    times = at_s + np.arange(horizon + 1) * step_ns * 1e-9
    if at_s < 0.0 or times[-1] > episode.duration_s + step_ns * 0.5e-9:
        raise CommandError(
            f'at: {at_s:g} s arrived, the episode lasts {episode.duration_s:.2f} s and a chunk '
            f'{horizon * step_ns * 1e-9:.2f} s; 0 to {max(0.0, episode.duration_s - times[-1] + at_s):.2f} '
            'is allowed')
    return [int(np.abs(episode.stamps_s - t).argmin()) for t in times]


def _observations(
    episode: Any, wanted: list[int], joint_names: tuple[str, ...], slots: tuple[str, ...],
) -> list[Any]:
    from ..contracts import Observation
    from ..evaluation.lerobot_episode import decode_frames

    missing = [slot for slot in slots if slot not in episode.videos]
    if missing:
        raise CommandError(
            f'{episode.root}: no video of {", ".join(missing)}; it has {", ".join(episode.videos) or "none"}')
    if episode.joint_position.shape[1] != len(joint_names):
        raise CommandError(
            f'{episode.root}: {episode.joint_position.shape[1]} joints were recorded, the robot has '
            f'{len(joint_names)}; change --robot')
    needed, pictures = set(wanted), {}
    for slot in slots:
        for i, frame in enumerate(decode_frames(episode.videos[slot])):
            if i in needed:
                pictures[slot, i] = frame
            if i >= max(needed):
                break
    return [
        Observation(
            stamp_ns=round(float(episode.stamps_s[i]) * 1e9), skew_ns=0, joint_names=joint_names,
            joint_position=episode.joint_position[i], gripper=float(episode.gripper[i]),
            images={slot: pictures[slot, i] for slot in slots}) for i in wanted]


def _recorded_chunk(episode: Any, wanted: list[int], policy: Any, instruction: str) -> Any:
    from ..contracts import ActionChunk

    if episode.action_position is None or episode.action_gripper is None:
        raise CommandError(f'{episode.root}: it holds no actions, so there is nothing to imagine')
    rows = wanted[:-1]  # the action recorded at a frame leads to the next one
    return ActionChunk(
        stamp_ns=round(float(episode.stamps_s[wanted[0]]) * 1e9), step_ns=policy.step_ns,
        joint_names=policy.joint_names, positions=episode.action_position[rows],
        gripper=np.clip(episode.action_gripper[rows], 0.0, 1.0), contract=policy.contract,
        instruction=instruction, seed=0, steps=0, guidance=1.0, policy='recorded', identity=policy.identity,
        trace_id=f'episode-{episode.index}-{wanted[0]}', latency_s=0.0)
