"""One joint as a triple integrator driven by piecewise-constant jerk on a fixed grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ContractError

Array = NDArray[np.float64]


def discretise(step_s: float) -> tuple[Array, Array]:
    """Return A (3, 3) and B (3,) of x[k+1] = A x[k] + B u[k] with x = (q, v, a) and u the jerk.

    Exact, since the jerk is constant over a step: the Taylor series of a cubic ends.
    """
    h = step_s
    transition = np.array([[1.0, h, h * h / 2.0], [0.0, 1.0, h], [0.0, 0.0, 1.0]])
    return transition, np.array([h**3 / 6.0, h * h / 2.0, h])


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """States 1..N of the grid as linear functions of the first state and the N jerks.

    ``q[1:] = free_q @ x0 + forced_q @ u``, and so for v and a.

    :param steps: N.
    :param step_s: Grid step.
    :param free_q: Shape (N, 3); likewise ``free_v``, ``free_a``.
    :param forced_q: Shape (N, N), lower triangular; likewise ``forced_v``, ``forced_a``.
    :param rest_correction: Shape (N, 2): the smallest change of the jerks that takes a terminal
        (v, a) to rest.
    :param rollout: Shape (4 N + 6, N + 3), all of this as one product with the first state and the jerks
        below each other: q, v, a and the jerk (a zero at last) at nodes 0..N after the correction, and the
        terminal v and a before it.
    """

    steps: int
    step_s: float
    free_q: Array
    free_v: Array
    free_a: Array
    forced_q: Array
    forced_v: Array
    forced_a: Array
    rest_correction: Array
    rollout: Array


def predict(steps: int, step_s: float) -> Prediction:
    """Build the prediction matrices of ``steps`` steps of ``step_s`` seconds.

    :raises ContractError: Fewer than 2 steps (rest is two equations) or a step that is not positive.
    """
    if steps < 2 or not step_s > 0.0:
        raise ContractError(
            f'{steps} steps of {step_s} s arrived, at least 2 steps of a positive length are needed')
    transition, drive = discretise(step_s)
    free = np.empty((steps, 3, 3))
    power = np.eye(3)
    responses = np.empty((steps, 3))
    for k in range(steps):
        responses[k] = power @ drive
        power = transition @ power
        free[k] = power
    forced = np.zeros((3, steps, steps))
    for k in range(steps):
        forced[:, k, : k + 1] = responses[k::-1].T
    terminal = np.stack([forced[1, -1], forced[2, -1]])
    correction = -np.linalg.pinv(terminal)
    parts = [np.ascontiguousarray(free[:, i]) for i in range(3)]
    return Prediction(
        steps, step_s, parts[0], parts[1], parts[2],
        np.ascontiguousarray(forced[0]), np.ascontiguousarray(forced[1]),
        np.ascontiguousarray(forced[2]), np.ascontiguousarray(correction),
        _roll_out(free, forced, correction))


def _roll_out(free: Array, forced: Array, correction: Array) -> Array:
    """Return the matrix ``rollout`` of :class:`Prediction`."""
    steps = len(free)
    nodes = np.zeros((4, steps + 1, 3 + steps))
    nodes[:3, 0, :3] = np.eye(3)
    nodes[:3, 1:, :3] = free.transpose(1, 0, 2)
    nodes[:3, 1:, 3:] = forced
    nodes[3, :-1, 3:] = np.eye(steps)
    ends = nodes[1:3, -1].copy()
    change = np.zeros((4, steps + 1, 2))
    change[:3, 1:] = forced @ correction
    change[3, :-1] = correction
    return np.vstack([(nodes + change @ ends).reshape(-1, 3 + steps), ends])
