"""How late a 500 Hz loop of this controller is on this machine, without ROS."""

import gc
import time

import numpy as np

from cosmos3_ros.contracts import JointMeasurement
from cosmos3_ros.robots import Robot, load_robot

from .config import ControllerConfig
from .controller import Controller
from .hostile import HostileChunks

CHUNK_PERIOD_NS = 500_000_000


def measure_lateness(duration_s: float, robot: Robot | None = None) -> dict[str, float]:
    """Run the controller on smooth chunks against absolute deadlines; return lateness p50, p99, max in ms.

    A deadline is the instant at which a tick is due; its lateness is how much later the tick's command
    was ready. A tick whose successor is due already is still made: nothing is skipped.

    :param robot: None takes the Panda under ``lab``.
    """
    robot = robot or load_robot('panda', 'lab')
    controller = Controller(robot, ControllerConfig())
    controller.warm_up()
    period_ns = round(1e9 / controller.config.rate_hz)
    chunks = HostileChunks(robot, 'nominal', np.random.default_rng(0))
    position, velocity = robot.home_rad, np.zeros_like(robot.home_rad)
    due_ns = time.monotonic_ns() + 10_000_000
    end_ns, next_chunk_ns = due_ns + int(duration_s * 1e9), due_ns
    controller.measure(JointMeasurement(due_ns, robot.joint_names, position, velocity), due_ns)
    controller.arm(due_ns)
    late_ns: list[int] = []
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        while due_ns < end_ns:
            wait_ns = due_ns - time.monotonic_ns()
            if wait_ns > 0:
                time.sleep(wait_ns * 1e-9)
            command = controller.tick(due_ns)
            late_ns.append(time.monotonic_ns() - due_ns)
            if command is not None:
                position, velocity = command.position, command.velocity
            controller.measure(JointMeasurement(due_ns, robot.joint_names, position, velocity), due_ns)
            if due_ns >= next_chunk_ns:
                next_chunk_ns += CHUNK_PERIOD_NS
                controller.submit(chunks.draw(position, due_ns), due_ns)
            due_ns += period_ns
    finally:
        if was_enabled:
            gc.enable()
    p50, p99 = np.percentile(late_ns, [50, 99]) * 1e-6
    return {'p50': round(float(p50), 4), 'p99': round(float(p99), 4), 'max': round(max(late_ns) * 1e-6, 4)}
