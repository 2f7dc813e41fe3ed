"""A running graph as one context: environment, processes, session and monitor, and nothing left after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
import signal
import time
from typing import TYPE_CHECKING, Any

from .console import Output
from .domain import choose_domain, domain_ports
from .environment import child_environment
from .final_counts import LONGEST_S, FinalCounts
from .processes import ProcessGroup
from .shared_memory import clean_dead_segments, list_files

if TYPE_CHECKING:
    from .graph import Graph
    from .monitor import Monitor
    from .session import RosSession

RELEASE_S = 0.2
"""Fast DDS removes its own segments while its participant closes; dead ones are looked for after this."""


@dataclass(frozen=True, slots=True)
class Running:
    """What a command needs while the nodes run."""

    session: RosSession
    processes: ProcessGroup
    graph: Graph
    monitor: Monitor
    domain_id: int

    def rest(self, duration_s: float) -> None:
        """Wait, and notice a process that dies meanwhile."""
        self.session.wait_for(lambda: False, duration_s, self.processes.check)

    def wait_for_final_counts(self, *nodes: str) -> None:
        """Wait until these nodes' counts of images do not change any more: the cameras have stopped."""
        self.session.wait_for(
            FinalCounts(self.monitor, nodes, time.monotonic()), LONGEST_S, self.processes.check)


@contextmanager
def running(name: str, log_directory: Path, output: Output, *, own_domain: bool) -> Iterator[Running]:
    """Prepare everything, and on leaving stop all processes and remove the shared memory they left.

    rclpy is imported here and not before: it reads the environment that is set here.

    :param name: Name of the command's own node.
    :param own_domain: Use a free ROS domain unless the user has set one; else the default domain.
    """
    domain_id = choose_domain(os.environ) if own_domain else int(os.environ.get('ROS_DOMAIN_ID') or 0)
    os.environ.update(child_environment(os.environ, domain_id))
    from .graph import Graph
    from .monitor import Monitor
    from .session import RosSession

    before = list_files()
    killed: list[str] = []
    # SIGTERM ends the command as Ctrl-C does: in order, with nothing left behind.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ProcessGroup(log_directory, os.environ) as processes, RosSession(name) as session:
            graph = Graph(session, processes, log_directory)
            yield Running(session, processes, graph, Monitor(session.node), domain_id)
            killed = processes.stop()
    finally:
        signal.signal(signal.SIGTERM, previous)
        time.sleep(RELEASE_S)
        clean_dead_segments(before, ports=domain_ports(domain_id))
        if killed:
            output.warn(f'had to be killed: {", ".join(killed)} (logs in {log_directory})')


def model_parameters(checkpoint: Path, device: str) -> dict[str, Any]:
    """Return the parameters that perception and generator share."""
    return {'checkpoint': str(checkpoint), 'device': device}


TRAINED_PERIOD_S = 1.5


def perception_parameters(device: str, checkpoint: Path | None = None) -> dict[str, Any]:
    """Return how large a clip perception asks about.

    A checkpoint that ``cosmos3 train`` made is shown what it was trained on. Another one on a CPU gets a
    small clip and a short answer, beside everything else.
    """
    from ..reasoner.trained_clips import trained_clips
    shown = trained_clips(checkpoint) if checkpoint is not None else {}
    if shown:
        return {**shown, 'period_s': TRAINED_PERIOD_S, 'answer_lookup': device == 'cpu'}
    if device != 'cpu':
        return {}
    return {'period_s': 1.5, 'frames': 4, 'max_frame_pixels': 256 * 160, 'max_new_tokens': 48}
