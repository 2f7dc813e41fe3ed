"""Figures of a motion against its limits."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..resources import require
from .limit_check import GAP_S, CommandLog
from .limit_file import CheckedLimits

Array = NDArray[np.float64]

LINE, LIMIT, GRID = '#1b5e9c', '#c0392b', '#dddddd'
HEADROOM = 1.12
"""How far the axes reach past the limits, so that a violation would be seen."""
COLUMNS = (
    ('position', 'rad'), ('velocity', 'rad/s'), ('acceleration', 'rad/s²'), ('jerk', 'rad/s³'))


def differentiate(log: CommandLog) -> tuple[tuple[Array, Array], ...]:
    """Return (times, values) of position, velocity, acceleration and jerk.

    Each is the divided difference of the positions at its own midpoint; pauses are NaN, so that a line is
    broken there instead of jumping.
    """
    t = (log.stamps_ns - log.stamps_ns[0]).astype(np.float64) * 1e-9
    step = np.diff(t)
    values, times = log.position, t
    found = [(times, values)]
    broken = (step > GAP_S) | (step <= 0.0)
    for _ in range(3):
        with np.errstate(divide='ignore', invalid='ignore'):
            slope = np.diff(values, axis=0) / np.diff(times)[:, None]
        if len(found) == 1:
            slope[broken] = np.nan
        values, times = slope, 0.5 * (times[1:] + times[:-1])
        found.append((times, values))
    return tuple(found)


def write_motion_figure(
    log: CommandLog, limits: CheckedLimits, path: Path, *, title: str,
    window_ns: tuple[int, int] | None = None,
) -> None:
    """Draw position, velocity, acceleration and jerk of every joint, with the forbidden ranges shaded.

    :param window_ns: Only commands stamped within; None draws all.
    :raises ValueError: Fewer than 4 commands in the window.
    """
    if window_ns is not None:
        low, high = np.searchsorted(log.stamps_ns, window_ns)
        log = log.rows(int(low), int(high))
    if len(log.stamps_ns) < 4:
        raise ValueError(f'{len(log.stamps_ns)} commands arrived, at least 4 are needed to draw jerk')
    matplotlib = require('matplotlib', 'record')
    matplotlib.use('Agg')
    pyplot = require('matplotlib.pyplot', 'record')
    joints = len(limits.joint_names)
    figure, axes = pyplot.subplots(
        joints, 4, figsize=(17, 1.75 * joints + 1.2), sharex=True, squeeze=False)
    bounds = [
        (limits.lower, limits.upper), (-limits.velocity, limits.velocity),
        (-limits.acceleration, limits.acceleration), (-limits.jerk, limits.jerk)]
    series = differentiate(log)
    for column, ((name, unit), (lower, upper), (times, values)) in enumerate(
            zip(COLUMNS, bounds, series, strict=True)):
        axes[0, column].set_title(f'{name} [{unit}]', fontsize=12)
        for joint in range(joints):
            axis = axes[joint, column]
            _draw(axis, times, values[:, joint], float(lower[joint]), float(upper[joint]), column > 0)
            if column == 0:
                axis.set_ylabel(limits.joint_names[joint], fontsize=9)
            if joint == joints - 1:
                axis.set_xlabel('time [s]', fontsize=9)
    figure.suptitle(f'Commanded motion against its limits: {title}', fontsize=13, x=0.01, ha='left')
    figure.text(
        0.01, 0.006, 'Velocity, acceleration and jerk are differences of the commanded positions. '
        f'Red: outside the limits of {limits.robot}, profile {limits.profile}.', fontsize=9, color='#555555')
    figure.tight_layout(rect=(0.0, 0.02, 1.0, 0.985))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _draw(axis: Any, times: Array, values: Array, lower: float, upper: float, symmetric: bool) -> None:
    middle, half = 0.5 * (lower + upper), 0.5 * (upper - lower)
    seen = values[np.isfinite(values)]
    reach = max(half, float(np.abs(seen - middle).max()) if len(seen) else 0.0) * HEADROOM
    axis.axhspan(upper, middle + reach, color=LIMIT, alpha=0.13, lw=0)
    axis.axhspan(middle - reach, lower, color=LIMIT, alpha=0.13, lw=0)
    for bound in (lower, upper):
        axis.axhline(bound, color=LIMIT, lw=0.8)
    axis.plot(times, values, color=LINE, lw=1.0)
    axis.set_ylim(middle - reach, middle + reach)
    axis.set_xlim(times[0], times[-1])
    axis.grid(True, color=GRID, lw=0.5)
    axis.tick_params(labelsize=8)
    axis.margins(x=0)
    if symmetric and len(seen):
        axis.text(
            0.985, 0.90, f'peak {100.0 * float(np.abs(seen).max()) / upper:.0f} %', transform=axis.transAxes,
            ha='right', va='top', fontsize=8, color='#333333',
            bbox={'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.75, 'pad': 1.5})
