"""The demo's graph, struck at a moment of a task: kill a process, watch what happens, repair the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import signal
import sys
import threading
import time
from typing import Any

from cosmos3_ros.srv import SetInstruction

from cosmos3_ros.cli.console import CommandError
from cosmos3_ros.cli.environment import cosmos3_command
from cosmos3_ros.cli.episodes import EpisodeRunner
from cosmos3_ros.cli.graph import NodeSpec
from cosmos3_ros.cli.processes import ManagedProcess
from cosmos3_ros.cli.running import Running, perception_parameters

EXPECTED = {
    'generator': 'STALE_CHUNK',
    'perception': 'STALE_CHUNK',
    'cameras': 'STALE_CHUNK',
    'sigterm': 'SHUTDOWN',
    'joint_states': 'STALE_JOINT_STATE',
    'controller': '',
}
"""What is struck, to the reason that must be latched. Nobody is left to latch one after ``controller``: there
the simulator must notice (``command_timeouts``) and hold. ``perception`` is no part of the control loop: the
arm must go on; then the generator is paused, and the end of its chunks is what stops the arm."""

TASK = 'pick_place'
CHUNK_STALE_S = 2.0
"""Not the profile's 0.5 s: the oracle shares two cores with all the rest and takes a second now and then."""
GO_ON_S = 2.0
LIMIT_S = 60.0
"""Bound of every wait; reached only when something is broken."""
REST_WATCH_S = 1.0
"""Joint states are recorded this long after the stop was latched, or the commands ended."""
BRAKED_S = 2.5
"""The simulator's hold after its time-out, from any speed."""
BEAT_S = 0.05
STALL_S = 0.5
"""A run in which this process was held up for so long says nothing about the arm."""
RELAYED = ('joint_states:=joint_states_relayed',)
IGNORED = 'image|camera_info|clock|simulation_state|rosout|relayed|_event|_action|annotated|scene'
RECORDED = ('/joint_command', '/joint_states', '/controller_state')


class StallWatch:
    """Notices when this machine, or somebody with SIGSTOP, holds up its processes."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        threading.Thread(target=self._run, name='stalls', daemon=True).start()

    def _run(self) -> None:
        last_s = time.monotonic()
        while True:
            time.sleep(BEAT_S)
            now_s = time.monotonic()
            self._longest_s = max(self._longest_s, now_s - last_s - BEAT_S)
            last_s = now_s

    def take(self) -> float:
        """Return the longest stall since the last call, seconds."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s


@dataclass(slots=True)
class Attempt:
    """One strike.

    :param struck: Key of :data:`EXPECTED`.
    :param armed_ns: Machine time (CLOCK_REALTIME, as the recorder's) at which the arm was armed; likewise
        ``struck_ns`` and ``ended_ns``.
    :param disturbed: Why this says nothing: the arm was not running when it was to be struck, or the machine
        stalled. Empty if it does.
    :param went_on: After ``perception``: chunks kept coming and nothing stopped.
    :param held: After ``controller``: the simulator noticed the end of commands.
    :param exit_code: After ``sigterm``: of the controller.
    :param broken: What did not come after the strike, though it was waited for.
    """

    struck: str
    seed: int
    delay_s: float
    armed_ns: int = 0
    struck_ns: int = 0
    ended_ns: int = 0
    disturbed: str = ''
    went_on: bool | None = None
    held: bool | None = None
    exit_code: int | None = None
    broken: str = ''


class KillGraph:
    """Simulator with its cameras, generator with the oracle, controller, and perception unless ``light``.

    :param live: Where processes run.
    :param directory: Bag and logs.
    :param checkpoint: For perception; with ``light`` none is needed.
    :param light: Without perception and with small images: the oracle does not look at them.
    :param settings: Node to parameters, e.g. a longer patience on a loaded machine.
    """

    def __init__(
        self, live: Running, directory: Path, *, checkpoint: Path | None, light: bool,
        settings: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._live = live
        self._settings = settings
        self.bag = directory / 'bag'
        common = {'robot': 'panda', 'use_sim_time': True}
        small = {'image_width': 64, 'image_height': 64, 'exterior_divisor': 1} if light else {}
        self._specs = {spec.name: spec for spec in (
            NodeSpec('simulator', {'robot': 'panda', 'task': TASK, 'seed': 1, **small}),
            NodeSpec('generator', {**common, 'policy': 'oracle'}),
            NodeSpec('controller', {
                **common, 'profile': 'lab', 'arm_on_activate': False, 'stop_on_stale_chunk': True,
                'chunk_stale_s': CHUNK_STALE_S}),
        )}
        if not light:
            self._specs['perception'] = NodeSpec(
                'perception', {**common, 'checkpoint': str(checkpoint), 'device': 'cpu',
                               **perception_parameters('cpu')})
        self._relay: ManagedProcess | None = None
        self._recorder: ManagedProcess | None = None
        self._relayed = False
        self._to_repair = ''
        self._attempt = Attempt('', 0, 0.0)
        self._stalls = StallWatch()
        self._runner = EpisodeRunner(live.session, live.monitor, lambda: None)
        node = live.session.node
        self._instruct_client = node.create_client(SetInstruction, 'generator/set_instruction')

    def start(self) -> None:
        """Start everything."""
        live = self._live
        self._recorder = live.processes.start(
            'recorder', [*cosmos3_command(), 'record', '--output', str(self.bag), '--json',
                         '--exclude', IGNORED])
        self._relay = live.processes.start(
            'joint_relay', [sys.executable, str(Path(__file__).with_name('joint_relay.py'))])
        live.graph.start(self._specs.values(), self._settings)
        live.graph.configure()
        live.graph.wait_for_recorder(RECORDED[1:])
        live.graph.activate(sorted(self._specs, key=lambda name: name != 'simulator'))

    def finish(self) -> None:
        """Close the recording."""
        assert self._recorder is not None
        self._live.processes.stop_one(self._recorder, 20.0)

    # One strike -----------------------------------------------------------------------------

    def strike(self, struck: str, seed: int, delay_s: float) -> Attempt:
        """Repair what was struck before, begin the task, strike after ``delay_s`` of it, await the outcome.

        :raises CommandError: The outcome did not come, or the graph cannot be repaired.
        """
        self._attempt = attempt = Attempt(struck, seed, delay_s)
        self._prepare(relayed=struck == 'joint_states')
        self._stalls.take()
        monitor = self._live.monitor
        self._instruct('')
        instruction, _ = self._runner.set_scene(TASK, seed)
        attempt.armed_ns = time.time_ns()
        self._runner.arm()
        before = monitor.controller.chunks_accepted
        self._instruct(instruction)
        # A first chunk that came too late was refused: then nothing moves, and nothing can become stale.
        if not self._live.session.wait_for(
                lambda: monitor.controller.chunks_accepted > before or monitor.mode != 'RUNNING', LIMIT_S):
            attempt.disturbed = f'no chunk was accepted within {LIMIT_S:g} s'
            self._runner.disarm()
            attempt.ended_ns = time.time_ns()
            return attempt
        self._live.session.wait_for(lambda: monitor.mode != 'RUNNING', delay_s)
        if monitor.mode != 'RUNNING':
            stop = monitor.stops[-1]
            attempt.disturbed = f'{monitor.mode}: {stop.reason}: {stop.detail}'
            # The stop itself is part of what is judged.
            self._expect(lambda: monitor.mode == 'STOPPED', 'STOPPED')
            attempt.ended_ns = time.time_ns()
            return attempt
        self._hit(attempt)
        attempt.ended_ns = time.time_ns()
        stall_s = self._stalls.take()
        if stall_s > STALL_S:
            attempt.disturbed = f'the machine stalled for {stall_s:.1f} s'
        self._to_repair = struck
        return attempt

    def give_up(self, reason: str) -> Attempt:
        """End the attempt in which something did not come, and return it; nothing can be struck after it."""
        attempt = self._attempt
        attempt.ended_ns, attempt.broken = time.time_ns(), reason
        stall_s = self._stalls.take()
        if attempt.struck_ns and stall_s > STALL_S:
            attempt.disturbed = f'the machine stalled for {stall_s:.1f} s'
        return attempt

    def _hit(self, attempt: Attempt) -> None:
        graph, monitor, struck = self._live.graph, self._live.monitor, attempt.struck
        timeouts = self._simulator_number('command_timeouts')
        chunks = monitor.chunks
        attempt.struck_ns = time.time_ns()
        if struck in ('generator', 'perception', 'controller'):
            graph.process(struck).send(signal.SIGKILL)
        elif struck == 'cameras':
            os.kill(int(self._simulator_number('camera_pid')), signal.SIGKILL)
        elif struck == 'sigterm':
            graph.process('controller').send(signal.SIGTERM)
        else:
            assert self._relay is not None
            self._relay.send(signal.SIGUSR1)
        if struck == 'perception':
            self._live.session.wait_for(lambda: monitor.mode != 'RUNNING', GO_ON_S)
            attempt.went_on = monitor.mode == 'RUNNING' and monitor.chunks > chunks
            self._instruct('')
        if struck == 'controller':
            attempt.held = self._live.session.wait_for(
                lambda: self._simulator_number('command_timeouts') > timeouts, LIMIT_S)
            self._rest(BRAKED_S)
        elif struck == 'sigterm':
            process = graph.process('controller')
            self._expect(lambda: process.returncode is not None, 'the end of the controller')
            attempt.exit_code = process.returncode
        else:
            self._expect(lambda: monitor.mode == 'STOPPED', 'STOPPED')
        self._rest(REST_WATCH_S)

    # Repair ---------------------------------------------------------------------------------

    def _repair(self, struck: str) -> None:
        if struck in ('generator', 'perception'):
            self._restart(struck)
        elif struck in ('controller', 'sigterm'):
            self._restart('controller')
        elif struck == 'joint_states':
            assert self._relay is not None
            self._relay.send(signal.SIGUSR2)
        else:
            graph = self._live.graph
            graph.deactivate('simulator')
            graph.clean_up('simulator')
            graph.configure(('simulator',))
            graph.activate(('simulator',))

    def _prepare(self, *, relayed: bool) -> None:
        """Repair, and let the controller hear the arm through the relay, or directly."""
        struck, self._to_repair = self._to_repair, ''
        switched, self._relayed = relayed != self._relayed, relayed
        if struck:
            self._repair(struck)
        if switched and struck not in ('controller', 'sigterm'):
            self._live.graph.process('controller').send(signal.SIGTERM)
            self._restart('controller')

    def _restart(self, name: str) -> None:
        """Start a node anew that has ended, once the graph has forgotten the old one."""
        live, spec = self._live, self._specs[name]
        process = live.graph.process(name)
        self._expect(lambda: not process.group_alive, f'the end of {name}')
        live.graph.retire(name)
        node = live.session.node
        self._expect(lambda: name not in node.get_node_names(), f'{name} to fade')
        if name == 'controller':
            live.monitor.controller = None
            spec = NodeSpec(name, spec.parameters, RELAYED if self._relayed else ())
        live.graph.start((spec,), {name: self._settings.get(name, {})})
        live.graph.configure((name,))
        live.graph.activate((name,))
        if name == 'controller':
            self._expect(lambda: live.monitor.controller is not None, 'controller_state')

    # Helpers --------------------------------------------------------------------------------

    def _instruct(self, instruction: str) -> None:
        answer = self._live.session.call(
            self._instruct_client, SetInstruction.Request(instruction=instruction), LIMIT_S)
        if not answer.accepted:
            raise CommandError(f'the generator refused {instruction!r}: {answer.message}')

    def _simulator_number(self, key: str) -> float:
        return self._live.monitor.reports['simulator'].number(key)

    def _expect(self, condition: Callable[[], bool], what: str) -> None:
        if not self._live.session.wait_for(condition, LIMIT_S):
            raise CommandError(f'{what}: not within {LIMIT_S:g} s; mode {self._live.monitor.mode}')

    def _rest(self, duration_s: float) -> None:
        self._live.session.wait_for(lambda: False, duration_s)
