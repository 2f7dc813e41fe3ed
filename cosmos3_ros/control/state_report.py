"""Which limits shape the present plan."""

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.robots import Robot

from .planner import Planner
from .timeline import Timeline

# A quantity within this share of its limit counts as held by it.
NEAR = 0.97
NEAR_POSITION_RAD = 1e-3


def report_limits(robot: Robot, planner: Planner, timeline: Timeline, now_ns: int) -> tuple[str, ...]:
    """Return the active limits as ``joint:limit``, ``governor:cause`` or ``chunk:stale``."""
    plan, limits = planner.plan, robot.limits
    peaks = plan.peaks()
    low, high = limits.velocity_bounds(plan.position)
    speed = np.where(plan.velocity > 0.0, high, -low)
    near: dict[str, NDArray[np.bool_]] = {
        'position': (peaks.position_min < limits.lower_rad + NEAR_POSITION_RAD)
        | (peaks.position_max > limits.upper_rad - NEAR_POSITION_RAD),
        'velocity': np.asarray((np.abs(plan.velocity) > NEAR * speed).any(axis=0)),
        'acceleration': peaks.acceleration > NEAR * limits.acceleration_rad_s2,
        'jerk': peaks.jerk > NEAR * limits.jerk_rad_s3,
    }
    found = [
        f'{name}:{limit}' for limit, mask in near.items()
        for name, is_near in zip(limits.names, mask.tolist(), strict=True) if is_near]
    if planner.counts.in_a_row and planner.last_rejection is not None:
        found.append(f'{planner.last_rejection.subject}:{planner.last_rejection.limit}')
    found.extend(timeline.causes(now_ns))
    if timeline.has_run_out():
        found.append('chunk:run_out')
    return tuple(dict.fromkeys(found))
