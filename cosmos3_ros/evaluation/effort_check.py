"""Efforts of a motion by the recursive Newton-Euler method; shares no code with ``robots/``.

Luh, Walker, Paul 1980 ("On-line computational scheme for mechanical manipulators"): velocities and
accelerations outwards link by link, forces and moments inwards, gravity as an acceleration of the base.
Everything is in the base frame, where it needs only the poses of :mod:`.geometry_check`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .geometry_check import link_poses
from .limit_file import CheckedLimits
from .limit_report import LimitReport

Array = NDArray[np.float64]

RELATIVE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class EffortSamples:
    """States of a motion, each of shape (M, N)."""

    position: Array
    velocity: Array
    acceleration: Array


def joint_efforts(limits: CheckedLimits, states: EffortSamples) -> Array:
    """Return the efforts (M, N), N m, that the rigid arm needs for ``states``.

    :raises ValueError: The robot has no inertial parameters.
    """
    if limits.masses is None:
        raise ValueError(f'{limits.robot} has no inertial parameters')
    masses = limits.masses
    poses = link_poses(limits, states.position)
    count, joints = states.position.shape
    # Vectors as columns, (3, M).
    turn, bend = np.zeros((3, count)), np.zeros((3, count))
    rise = np.broadcast_to(-masses.gravity_m_s2[:, None], (3, count))
    origin = np.ascontiguousarray(poses[:, 0, :3, 3].T)
    motion = []
    for i in range(joints):
        rotation = poses[:, i + 1, :3, :3]
        place = np.ascontiguousarray(poses[:, i + 1, :3, 3].T)
        axis = np.ascontiguousarray(rotation[:, :, 2].T)
        # The joint's origin rides on the link before.
        arm = place - origin
        rise = rise + _cross(bend, arm) + _cross(turn, _cross(turn, arm))
        spin = axis * states.velocity[:, i]
        bend = bend + axis * states.acceleration[:, i] + _cross(turn, spin)
        turn = turn + spin
        origin = place
        motion.append((rotation, axis, place, turn, bend, rise))
    efforts = np.empty((count, joints))
    force, moment, outer = np.zeros((3, count)), np.zeros((3, count)), np.zeros((3, count))
    for i in reversed(range(joints)):
        rotation, axis, place, turn, bend, rise = motion[i]
        # What the link beyond takes, moved to this joint's origin.
        moment = moment + _cross(outer - place, force)
        outer = place
        own_turn, own_bend = (np.einsum('mij,im->jm', rotation, x) for x in (turn, bend))
        for body in masses.bodies:
            if body.link != i + 1:
                continue
            arm = np.einsum('mij,j->im', rotation, body.com_m)
            push = body.mass_kg * (rise + _cross(bend, arm) + _cross(turn, _cross(turn, arm)))
            twist = body.inertia_kg_m2 @ own_bend + _cross(own_turn, body.inertia_kg_m2 @ own_turn)
            force = force + push
            moment = moment + _cross(arm, push) + np.einsum('mij,jm->im', rotation, twist)
        efforts[:, i] = (moment * axis).sum(axis=0)
    return efforts


def _cross(x: Array, y: Array) -> Array:
    """Return the cross products of columns (3, M); numpy's own takes several times as long."""
    product = np.empty_like(y)
    for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
        product[i] = x[j] * y[k] - x[k] * y[j]
    return product


def check_efforts(report: LimitReport, limits: CheckedLimits, states: EffortSamples, times_s: Array) -> None:
    """Hold efforts and their mean change from sample to sample against the limits.

    A motion that begins in a pose that gravity alone overloads has to leave it: there, no joint may need more
    than at the beginning.
    """
    if limits.masses is None or len(times_s) == 0:
        return
    names = limits.joint_names
    efforts = joint_efforts(limits, states)
    size = np.abs(efforts)
    bound = np.broadcast_to(np.maximum(limits.effort, size[0]), size.shape)
    report.record('effort', size - bound, size, bound, names, times_s, RELATIVE_TOLERANCE * bound)
    if len(times_s) < 2:
        return
    rate = np.abs(np.diff(efforts, axis=0)) / np.diff(times_s)[:, None]
    bound = np.broadcast_to(limits.effort_rate, rate.shape)
    report.record('effort_rate', rate - bound, rate, bound, names, times_s[1:], RELATIVE_TOLERANCE * bound)
