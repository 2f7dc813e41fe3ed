"""The live view of a running graph."""

from __future__ import annotations

from collections.abc import Callable
import math
import threading

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .monitor import REASONS, Monitor

REFRESH_HZ = 4.0
LEVELS = (('ok', 'green'), ('warn', 'yellow'), ('error', 'red'), ('stale', 'magenta'))
MODE_STYLES = {'RUNNING': 'green', 'SHADOW': 'cyan', 'STOPPING': 'red', 'STOPPED': 'red'}


class LiveView:
    """Redraws in a thread of its own. Use as a context manager; does nothing if not enabled.

    :param title: Returns the headline.
    """

    def __init__(self, console: Console, monitor: Monitor, title: Callable[[], str], enabled: bool) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True) if enabled else None
        self._monitor = monitor
        self._title = title
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LiveView:
        """Begin to draw."""
        if self._live is not None:
            self._live.start()
            self._thread = threading.Thread(target=self._run, name='live view', daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing and give the terminal back."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self._live is not None:
            self._live.stop()

    def _run(self) -> None:
        assert self._live is not None
        while not self._stopping.wait(1.0 / REFRESH_HZ):
            self._live.update(render(self._monitor, self._title()), refresh=True)


def render(monitor: Monitor, title: str) -> RenderableType:
    """Return the whole view."""
    return Panel(Group(_nodes(monitor), _state(monitor)), title=title, title_align='left')


def _nodes(monitor: Monitor) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style='dim')
    for heading in ('node', 'state', '', 'says'):
        table.add_column(heading, no_wrap=True, overflow='ellipsis')
    for name, report in sorted(monitor.reports.items()):
        word, style = LEVELS[min(report.level, len(LEVELS) - 1)]
        table.add_row(name, report.values.get('state', '-'), Text(word, style=style), report.message)
    return table


def _state(monitor: Monitor) -> Table:
    table = Table(box=None, padding=(1, 2, 0, 0), show_header=False)
    table.add_column(style='dim', no_wrap=True)
    table.add_column(overflow='fold')
    cameras = '   '.join(
        f'{camera} {rate.hz:.1f} Hz' for camera, rate in sorted(monitor.rates_hz.items())
        if math.isfinite(rate.hz))
    table.add_row('cameras', cameras or 'no image yet')
    scene = monitor.scene
    if scene is not None:
        caption = scene.caption or scene.reason or '-'
        mark = '' if scene.trained else '  (untrained: means nothing)'
        table.add_row('scene', f'{caption}{mark}')
    state = monitor.controller
    if state is not None:
        mode = monitor.mode
        text = Text(mode, style=MODE_STYLES.get(mode, ''))
        if state.stop_reason:
            text.append(f'  {REASONS[state.stop_reason]}: {state.stop_detail}', style='red')
        report = monitor.reports.get('controller')
        rate = report.number('rate_hz') if report is not None else float('nan')
        text.append(f'   {rate:.0f} Hz   chunk {state.chunk_age_s:.2f} s old   speed x{state.speed_scale:.2f}'
                    f'   {state.chunks_accepted} chunks accepted, {state.chunks_rejected} rejected')
        table.add_row('controller', text)
        table.add_row('limits active', ', '.join(state.active_limits) or '-')
    if monitor.simulation is not None:
        done = 'success' if monitor.simulation.success else 'not yet'
        table.add_row('task', f'{monitor.simulation.instruction}: {done}')
    return table
