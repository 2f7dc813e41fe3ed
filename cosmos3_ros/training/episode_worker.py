"""Record one episode into a directory of its own. Runs in the processes of ``episode_recorder``."""

from collections.abc import MutableMapping, Sequence
from dataclasses import asdict, dataclass
import json
import multiprocessing
import os
from pathlib import Path
import shutil
import signal
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..generator.droid_joint import HORIZON, WIDTH
from ..resources import require
from ..sim.configuration import CAMERA_SLOTS
from ..sim.world import World
from .dataset_layout import DROID_LAYOUT
from .episode_alternatives import Alternative, AlternativeRunner
from .episode_pictures import EpisodePainter
from .episode_plan import EpisodePlan, plan_episode
from .episode_rollout import EpisodeRunner
from .episode_settings import RATE_HZ, RecordingSettings
from .episode_trace import EpisodeTrace
from .lerobot_video import encode_video
from .parent_watch import end_with_parent
from .scene_facts import FrameFacts
from .scene_glances import GlanceRunner

SUMMARY_FILE = 'episode.json'
DATA_FILE = 'data.parquet'
FACTS_FILE = 'facts.parquet'
ALTERNATIVES_FILE = 'alternatives.parquet'

# Every so many frames go into the pictures' statistics; neighbours say the same.
_STATISTICS_EVERY = 4


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """What became of an episode.

    :param failure: How it was made to fail, or empty.
    :param anomaly: What is shown wrongly, or empty.
    :param rollout_s: Seconds that the physics took; 0 once the dataset is written.
    :param drawing_s: Seconds for pictures, facts and videos, likewise.
    """

    index: int
    task: str
    instruction: str
    frames: int
    success: bool
    failure: str
    anomaly: str
    rollout_s: float = 0.0
    drawing_s: float = 0.0


class EpisodeWorker:
    """Records episodes; keeps one world and one OpenGL context for each set of cubes."""

    def __init__(self, settings: RecordingSettings) -> None:
        self._settings = settings
        self._stages: dict[tuple[str, ...], tuple[EpisodeRunner | GlanceRunner, EpisodePainter]] = {}

    def record(self, index: int, directory: Path) -> EpisodeSummary:
        """Record an episode; ``directory`` appears only once it is complete."""
        plan = plan_episode(self._settings, index)
        if plan.cubes not in self._stages:
            world = World(self._settings.simulation(plan.cubes))
            self._stages[plan.cubes] = self._runner(world), EpisodePainter(
                world, self._settings.width, facts=self._settings.facts)
        runner, painter = self._stages[plan.cubes]
        started = perf_counter()
        trace = runner.run(plan)
        rolled_out = perf_counter()
        partial = directory.with_name(f'.{directory.name}.{os.getpid()}')
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        pictures: dict[str, list[NDArray[np.uint8]]] = {slot: [] for slot in CAMERA_SLOTS}
        facts: list[FrameFacts] = []
        for frame in painter.draw(plan, trace):
            if frame.facts is not None:
                facts.append(frame.facts)
            for slot, picture in frame.pictures.items():
                pictures[slot].append(picture)
        for slot in CAMERA_SLOTS:
            encode_video(partial / f'{slot}.mp4', pictures[slot], RATE_HZ)
        _write_tables(partial, plan, trace, facts)
        if self._settings.alternatives:
            _write_alternatives(partial, trace.alternatives if trace.success else ())
        summary = EpisodeSummary(
            index=index, task=plan.task, instruction=trace.instruction, frames=len(trace.frames),
            success=trace.success, failure=plan.failure, anomaly=plan.anomaly.kind if plan.anomaly else '',
            rollout_s=round(rolled_out - started, 3), drawing_s=round(perf_counter() - rolled_out, 3))
        (partial / SUMMARY_FILE).write_text(json.dumps({
            'summary': asdict(summary), 'plan': plan.to_document(), 'target': trace.goal.colour,
            'histograms': {slot: _histogram(pictures[slot]) for slot in CAMERA_SLOTS}}))
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
        return summary

    def _runner(self, world: World) -> EpisodeRunner | GlanceRunner:
        settings = self._settings
        if settings.glances:
            return GlanceRunner(world, settings.tasks, settings.glances, settings.alternatives)
        if not settings.alternatives:
            return EpisodeRunner(world)
        return EpisodeRunner(world, AlternativeRunner(
            world.config, settings.tasks, settings.alternatives, settings.alternatives_every))

    def close(self) -> None:
        """Free the OpenGL contexts."""
        for _, painter in self._stages.values():
            painter.close()
        self._stages.clear()


def read_summary(directory: Path) -> EpisodeSummary:
    """Return the summary of a finished episode's directory."""
    return EpisodeSummary(**json.loads((directory / SUMMARY_FILE).read_text())['summary'])


def is_demonstration(plan: EpisodePlan, trace: EpisodeTrace) -> NDArray[np.bool_]:
    """Return for each frame whether its action is one to learn from.

    Failed episodes and those with wrong pictures teach nothing; nor does an arm that is led astray.
    """
    whole = trace.success and not plan.failure and plan.anomaly is None
    return np.array([whole and frame.is_expert for frame in trace.frames], bool)


def _write_tables(directory: Path, plan: EpisodePlan, trace: EpisodeTrace, facts: list[FrameFacts]) -> None:
    arrow: Any = require('pyarrow', 'record')
    parquet: Any = require('pyarrow.parquet', 'record')
    layout = DROID_LAYOUT
    state = np.array([frame.state for frame in trace.frames], np.float32)
    action = np.array([frame.action for frame in trace.frames], np.float32)
    count = len(state)

    def vectors(values: NDArray[np.float32]) -> Any:
        return arrow.FixedSizeListArray.from_arrays(arrow.array(values.ravel()), values.shape[1])

    frames = np.arange(count, dtype=np.int64)
    parquet.write_table(arrow.table({
        layout.joint_position: vectors(state[:, :-1]), layout.gripper: state[:, -1],
        layout.action_position: vectors(action[:, :-1]), layout.action_gripper: action[:, -1],
        layout.demonstration: is_demonstration(plan, trace),
        'timestamp': (frames / RATE_HZ).astype(np.float32), 'frame_index': frames,
    }), directory / DATA_FILE)
    if facts:
        parquet.write_table(arrow.table({
            'frame_index': frames, 'facts': [found.to_json() for found in facts]}), directory / FACTS_FILE)


def _write_alternatives(directory: Path, alternatives: Sequence[Alternative]) -> None:
    arrow: Any = require('pyarrow', 'record')
    parquet: Any = require('pyarrow.parquet', 'record')
    rows = np.array([a.rows.ravel() for a in alternatives], np.float32).reshape(-1, HORIZON * WIDTH)
    parquet.write_table(arrow.table({
        'frame_index': np.array([a.frame for a in alternatives], np.int64),
        'instruction': arrow.array([a.instruction for a in alternatives], arrow.string()),
        'action': arrow.FixedSizeListArray.from_arrays(arrow.array(rows.ravel()), HORIZON * WIDTH),
    }), directory / ALTERNATIVES_FILE)


def _histogram(pictures: list[NDArray[np.uint8]]) -> list[list[int]]:
    """Return how often each level 0..255 occurs in red, green and blue."""
    some = np.stack(pictures[::_STATISTICS_EVERY])
    return [np.bincount(some[..., channel].ravel(), minlength=256).tolist() for channel in range(3)]


_worker: EpisodeWorker | None = None


def start_process(settings: RecordingSettings, threads: int) -> None:
    """Prepare a process of the pool."""
    global _worker
    # Mesa's software renderer would start a thread for every core in every process.
    os.environ.setdefault('LP_NUM_THREADS', str(threads))
    share_renderers(os.environ, multiprocessing.current_process()._identity)
    # Ctrl-C reaches the whole process group: the recorder decides, and an episode that has begun ends well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = EpisodeWorker(settings)
    end_with_parent()


def share_renderers(environment: MutableMapping[str, str], identity: Sequence[int]) -> None:
    """Give a process one of the GPUs in ``MUJOCO_EGL_DEVICE_ID``, which may name several: ``0,1``.

    :param identity: The process's number in its pool, from 1 on, last.
    """
    devices = environment.get('MUJOCO_EGL_DEVICE_ID', '').split(',')
    if len(devices) > 1 and identity:
        environment['MUJOCO_EGL_DEVICE_ID'] = devices[identity[-1] % len(devices)]


def record_in_process(index: int, directory: Path) -> EpisodeSummary:
    """Record an episode in a process prepared by :func:`start_process`."""
    if _worker is None:
        raise RuntimeError('start_process has not run in this process')
    return _worker.record(index, directory)
