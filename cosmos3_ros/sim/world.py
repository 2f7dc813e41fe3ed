"""The simulated world: physics, servo and episodes. No thread, no clock: time is what it is stepped to."""

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import JointCommand

from .configuration import ARM_JOINTS, FINGER_JOINTS, FINGER_TRAVEL_M, SimulationConfig, SimulationError
from .inverse_kinematics import InverseKinematics
from .mujoco_library import mujoco
from .scene import CUBE_HALF_M, build_scene, simulated_robot
from .servo import CommandCounters, JointServo
from .snapshot import SimulationSnapshot, WorldState
from .tasks import Goal, Placement, TaskView, check_task, draw_placement, is_success, parse_instruction

_SETTLE_STEPS = 50
# Start noise turns the tool as well: 0.02 m goes with 0.1 rad.
_YAW_PER_METRE = 5.0


class World:
    """A tabletop with a Panda, cubes and a target zone.

    :param config: How it is built.
    :param start_ns: Simulated time of the first state. Time only grows, resets included.
    """

    def __init__(self, config: SimulationConfig, *, start_ns: int = 0) -> None:
        self.config = config
        self.scene = build_scene(config)
        self._data = mujoco.MjData(self.scene.model)
        self._servo = JointServo(self.scene, config)
        self._kinematics = InverseKinematics()
        self._finger_qvel = int(self.scene.model.joint(FINGER_JOINTS[0]).dofadr[0])
        self._start_ns = start_ns
        self._steps = 0
        self._episode = -1
        self._seed = 0
        self._goal = Goal('reach', config.cubes[0])
        self._cube_start = np.zeros(3)
        self._finger_target_m = FINGER_TRAVEL_M
        self.reset('reach', 0)

    @property
    def time_ns(self) -> int:
        """Simulated time now."""
        return self._start_ns + self._steps * self.config.step_ns

    @property
    def goal(self) -> Goal:
        """What the present episode asks for."""
        return self._goal

    @property
    def episode(self) -> int:
        """Number of the present episode, counted from 0 (the one the world was built with)."""
        return self._episode

    @property
    def counters(self) -> CommandCounters:
        """What became of the commands."""
        return self._servo.counters

    @property
    def is_following(self) -> bool:
        """True while commands arrive in time; False while the arm holds by itself."""
        return self._servo.following

    def reset(self, task: str, seed: int) -> Goal:
        """Start the episode of this task and seed. The arm is put into its start pose at once.

        :param task: One of ``tasks.TASKS``; empty keeps the present one.
        :param seed: Draws the target, the places of cubes and zone, and the start pose.
        :raises SimulationError: Unknown task or negative seed; the present episode then goes on.
        """
        task = check_task(task) if task else self._goal.task
        if seed < 0:
            raise SimulationError(f'seed: {seed} arrived, 0 or more is allowed')
        rng = np.random.default_rng(seed)
        placement = draw_placement(task, self.config.cubes, rng)
        self._place(placement, self._draw_start(rng))
        self._goal, self._seed = placement.goal, seed
        self._episode += 1
        self._settle()
        self._cube_start = self.cube_pose(self._goal.colour)[:3]
        return self._goal

    def apply(self, command: JointCommand) -> None:
        """Give the servo a command.

        :raises ContractError: The command is refused and the previous one stays in force.
        """
        self._servo.accept(command, self._data.qpos[self.scene.arm_qpos], self.time_ns)

    def step_until(self, time_ns: int) -> int:
        """Simulate up to ``time_ns`` (the last whole step not after it) and return the steps made."""
        steps = max(0, (time_ns - self.time_ns) // self.config.step_ns)
        for _ in range(steps):
            self._step()
        return int(steps)

    def track(self, start: NDArray[np.float64], end: NDArray[np.float64], gripper: float,
              duration_ns: int) -> None:
        """Simulate ``duration_ns`` while the arm is led on a straight joint path.

        For rollouts on a copy of the world; the command interface and its checks are left out.

        :param start: Shape (7,), radians, the reference now.
        :param end: Shape (7,), radians, the reference at the end.
        """
        steps = duration_ns // self.config.step_ns
        velocity = (end - start) / (duration_ns * 1e-9)
        for index in range(steps):
            self._servo.lead(start + (end - start) * (index / steps), velocity, gripper)
            self._step()

    def state(self) -> WorldState:
        """Return what the arm's sensors say now."""
        data, scene = self._data, self.scene
        finger = float(data.qpos[scene.finger_qpos[0]])
        return WorldState(
            stamp_ns=self.time_ns,
            position=data.qpos[scene.arm_qpos].copy(),
            velocity=data.qvel[scene.arm_qvel].copy(),
            effort=data.actuator_force[:len(ARM_JOINTS)].copy(),
            finger_m=finger,
            finger_velocity_m_s=float(data.qvel[self._finger_qvel]),
            gripper=float(np.clip(1.0 - finger / FINGER_TRAVEL_M, 0.0, 1.0)),
            tcp=self.tcp)

    def snapshot(self) -> SimulationSnapshot:
        """Return the privileged state now."""
        return SimulationSnapshot(
            stamp_ns=self.time_ns, task=self._goal.task, instruction=self._goal.instruction,
            seed=self._seed, episode=self._episode, success=self.success(),
            qpos=self._data.qpos.copy(), qvel=self._data.qvel.copy(), ctrl=self._data.ctrl.copy(),
            zone_xy=self.zone_xy)

    def restore(self, snapshot: SimulationSnapshot) -> None:
        """Continue from ``snapshot``: its state and its time. The servo holds the arm's position.

        :raises SimulationError: The snapshot comes from a scene with another state vector.
        """
        model, data = self.scene.model, self._data
        if len(snapshot.qpos) != model.nq or len(snapshot.qvel) != model.nv or len(snapshot.ctrl) != model.nu:
            raise SimulationError(
                f'simulation state: {len(snapshot.qpos)} positions, {len(snapshot.qvel)} velocities and '
                f'{len(snapshot.ctrl)} inputs arrived, {model.nq}, {model.nv} and {model.nu} belong to cubes '
                f'{list(self.config.cubes)}; give both sides the same cubes')
        mujoco.mj_resetData(model, data)
        data.qpos[:] = snapshot.qpos
        data.qvel[:] = snapshot.qvel
        data.ctrl[:] = snapshot.ctrl
        data.mocap_pos[self.scene.zone_mocap, :2] = snapshot.zone_xy
        mujoco.mj_forward(model, data)
        self._start_ns, self._steps = snapshot.stamp_ns, 0
        self._goal, self._seed = parse_instruction(snapshot.instruction), snapshot.seed
        self._episode = snapshot.episode
        self._finger_target_m = float(snapshot.ctrl[-1])
        self._servo.reset(
            data.qpos[self.scene.arm_qpos], 1.0 - self._finger_target_m / FINGER_TRAVEL_M,
            data.qvel[self.scene.arm_qvel])

    def success(self) -> bool:
        """Return whether the episode's task is done now."""
        finger = float(self._data.qpos[self.scene.finger_qpos[0]])
        return is_success(self._goal.task, TaskView(
            tcp=self.tcp, cube=self.cube_pose(self._goal.colour)[:3], cube_start=self._cube_start,
            zone_xy=self.zone_xy, gripper=1.0 - finger / FINGER_TRAVEL_M))

    @property
    def tcp(self) -> NDArray[np.float64]:
        """The tool's position, shape (3,), metres, base frame."""
        return np.array(self._data.site_xpos[self.scene.tcp_site])

    @property
    def tcp_rotation(self) -> NDArray[np.float64]:
        """The tool's rotation matrix, shape (3, 3), base frame."""
        return np.array(self._data.site_xmat[self.scene.tcp_site]).reshape(3, 3)

    @property
    def zone_xy(self) -> NDArray[np.float64]:
        """Middle of the target zone, shape (2,), metres, base frame."""
        return np.array(self._data.mocap_pos[self.scene.zone_mocap, :2])

    def cube_pose(self, colour: str) -> NDArray[np.float64]:
        """Position and quaternion (w x y z) of a cube, shape (7,).

        :raises SimulationError: There is no such cube.
        """
        if colour not in self.scene.cube_qpos:
            raise SimulationError(
                f'cube: {colour!r} arrived, one of {", ".join(self.config.cubes)} is on the table')
        start = self.scene.cube_qpos[colour]
        return np.array(self._data.qpos[start:start + 7])

    def cube_contacts(self) -> dict[str, frozenset[str]]:
        """Return for each cube what touches it: a finger, ``robot``, another cube or ``table``."""
        model, touching = self.scene.model, {colour: set[str]() for colour in self.config.cubes}
        cubes = {int(model.geom(f'cube_{colour}').id): colour for colour in self.config.cubes}
        for pair in self._data.contact.geom[:self._data.ncon]:
            for mine, other in (pair, pair[::-1]):
                if int(mine) in cubes:
                    touching[cubes[int(mine)]].add(self._toucher(int(other)))
        return {colour: frozenset(names) for colour, names in touching.items()}

    def _toucher(self, geom: int) -> str:
        model = self.scene.model
        body = str(model.body(int(model.geom_bodyid[geom])).name)
        if body in FINGER_JOINTS:
            return body
        cubes = (f'cube_{colour}' for colour in self.config.cubes)
        return str(model.geom(geom).name) if body in ('world', *cubes) else 'robot'

    def _draw_start(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw a start pose around home, tool down."""
        noise = self.config.start_noise_m
        offset = rng.normal(0.0, 1.0, 4).clip(-2.0, 2.0)
        arm = simulated_robot().home_rad
        home, _ = self._kinematics.tool_pose(arm)
        yaw = _YAW_PER_METRE * noise * float(offset[3])
        return self._kinematics.solve(arm, home + noise * offset[:3], yaw, iterations=50)

    def _place(self, placement: Placement, arm: NDArray[np.float64]) -> None:
        data, scene = self._data, self.scene
        mujoco.mj_resetData(scene.model, data)
        for colour, (x, y) in placement.cube_xy.items():
            half = 0.5 * placement.cube_yaw[colour]
            start = scene.cube_qpos[colour]
            data.qpos[start:start + 7] = [x, y, CUBE_HALF_M + 1e-4, np.cos(half), 0.0, 0.0, np.sin(half)]
        data.mocap_pos[scene.zone_mocap, :2] = placement.zone_xy
        data.qpos[scene.arm_qpos] = arm
        data.qpos[scene.finger_qpos] = FINGER_TRAVEL_M
        self._finger_target_m = FINGER_TRAVEL_M
        self._servo.reset(arm, 0.0)
        mujoco.mj_forward(scene.model, data)

    def _settle(self) -> None:
        """Let the cubes come to rest; simulated time stands still meanwhile."""
        for _ in range(_SETTLE_STEPS):
            self._step_physics(self.time_ns)

    def _step(self) -> None:
        self._step_physics(self.time_ns)
        self._steps += 1

    def _step_physics(self, now_ns: int) -> None:
        model, data = self.scene.model, self._data
        mujoco.mj_step1(model, data)
        self._servo.drive(data, now_ns)
        travel = self.config.gripper_speed_m_s * self.config.step_ns * 1e-9
        wanted = (1.0 - self._servo.gripper_target) * FINGER_TRAVEL_M
        self._finger_target_m += min(max(wanted - self._finger_target_m, -travel), travel)
        data.ctrl[len(ARM_JOINTS)] = self._finger_target_m
        mujoco.mj_step2(model, data)
