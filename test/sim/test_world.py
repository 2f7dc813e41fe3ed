from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.contracts import ContractError, JointCommand
from cosmos3_ros.sim.configuration import (
    ARM_JOINTS,
    CAMERA_SLOTS,
    CUBE_COLOURS,
    FINGER_TRAVEL_M,
    SimulationConfig,
    SimulationError,
)
from cosmos3_ros.sim.mujoco_library import mujoco
from cosmos3_ros.sim.scene import simulated_robot
from cosmos3_ros.sim.tasks import TASKS
from cosmos3_ros.sim.world import World

STEP = 2_000_000
STILL = np.zeros(7)


@pytest.fixture(scope='module')
def world():
    return World(SimulationConfig())


def command(world, position, velocity=STILL, gripper=0.0, stamp_ns=None):
    stamp = world.time_ns if stamp_ns is None else stamp_ns
    return JointCommand(stamp, np.asarray(position, float), np.asarray(velocity, float), STILL, gripper)


# The model and the robot's description are two texts about one arm.


def test_model_and_description_agree(world):
    robot, model = simulated_robot(), world.scene.model
    assert robot.joint_names == ARM_JOINTS
    limits = robot.hardware_limits
    for i, name in enumerate(ARM_JOINTS):
        assert model.joint(name).range == pytest.approx([limits.lower_rad[i], limits.upper_rad[i]])
        assert model.actuator(name).ctrlrange[1] == pytest.approx(limits.effort_nm[i])
    assert {slot.name for slot in robot.cameras} == set(CAMERA_SLOTS)


@pytest.mark.parametrize('seed', range(5))
def test_kinematics_agree_with_the_description(world, seed):
    robot, scene = simulated_robot(), world.scene
    rng = np.random.default_rng(seed)
    q = rng.uniform(robot.limits.lower_rad, robot.limits.upper_rad)
    data = mujoco.MjData(scene.model)
    data.qpos[scene.arm_qpos] = q
    mujoco.mj_forward(scene.model, data)
    tool = np.array(robot.kinematics.points(q[None])[0])
    names = list(robot.kinematics.point_names)
    assert tool[names.index('tool')] == pytest.approx(data.site_xpos[scene.tcp_site], abs=1e-9)
    gravity = robot.dynamics.gravity(q)
    assert gravity == pytest.approx(data.qfrc_bias[scene.arm_qvel], abs=0.02)


# Episodes


@pytest.mark.parametrize('task', TASKS)
def test_a_seed_says_everything_about_an_episode(world, task):
    first = (world.reset(task, 7), world.snapshot())
    world.step_until(world.time_ns + 50 * STEP)
    world.reset(task, 8)
    other = world.snapshot()
    second = (world.reset(task, 7), world.snapshot())
    assert first[0] == second[0]
    assert np.array_equal(first[1].qpos, second[1].qpos)
    assert not np.array_equal(first[1].qpos, other.qpos)
    assert second[1].stamp_ns > first[1].stamp_ns and second[1].episode == first[1].episode + 2


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('seed', [0, 11, 23, 2**40])
def test_a_start_state_is_fair(world, task, seed):
    goal = world.reset(task, seed)
    assert goal.task == task and goal.colour in CUBE_COLOURS and goal.colour in goal.instruction
    assert not world.success()
    poses = {colour: world.cube_pose(colour) for colour in CUBE_COLOURS}
    places = [*(pose[:2] for pose in poses.values()), world.zone_xy]
    for i, a in enumerate(places):
        assert all(np.linalg.norm(a - b) > 0.1 for b in places[i + 1:])
        assert 0.35 < a[0] < 0.63 and abs(a[1]) < 0.25
    assert all(abs(pose[2] - 0.02) < 1e-3 for pose in poses.values())
    rotation = world.tcp_rotation
    assert rotation[:, 2] == pytest.approx([0.0, 0.0, -1.0], abs=1e-3)
    # At rest: nothing falls, slides or rolls afterwards.
    world.step_until(world.time_ns + 200 * STEP)
    for colour, pose in poses.items():
        assert world.cube_pose(colour)[:3] == pytest.approx(pose[:3], abs=1e-4)
    assert world.state().velocity == pytest.approx(STILL, abs=1e-4)


@pytest.mark.parametrize(('task', 'seed', 'text'), [
    ('juggle', 0, 'reach, push, pick_place'), ('push', -1, '0 or more'), ('Push', 0, "'Push' arrived"),
])
def test_an_episode_that_does_not_exist_leaves_the_present_one(world, task, seed, text):
    world.reset('reach', 1)
    before = world.snapshot()
    with pytest.raises(SimulationError, match=text):
        world.reset(task, seed)
    after = world.snapshot()
    assert after.episode == before.episode and np.array_equal(after.qpos, before.qpos)


def test_an_empty_task_keeps_the_present_one(world):
    world.reset('push', 1)
    assert world.reset('', 2).task == 'push'


def test_unknown_cubes_are_named(world):
    with pytest.raises(SimulationError, match=r"'purple' arrived, one of red, green, blue, yellow"):
        world.cube_pose('purple')


# Time


@given(st.lists(st.integers(-5_000_000, 30_000_000), max_size=8))
@settings(max_examples=20, deadline=None)
def test_time_is_what_the_world_is_stepped_to(world, leaps):
    for leap in leaps:
        before = world.time_ns
        goal = before + leap
        steps = world.step_until(goal)
        assert world.time_ns == before + steps * STEP
        assert max(goal, before) - STEP < world.time_ns <= max(goal, before)


def test_a_restored_snapshot_continues_alike(world):
    world.reset('pick_place', 3)
    snapshot = world.snapshot()
    copy = World(SimulationConfig())
    copy.restore(snapshot)
    assert copy.time_ns == snapshot.stamp_ns and copy.goal == world.goal
    for each in (world, copy):
        each.step_until(snapshot.stamp_ns + 100 * STEP)
    assert copy.snapshot().qpos == pytest.approx(world.snapshot().qpos, abs=1e-6)


def test_a_snapshot_of_another_scene_is_refused(world):
    other = World(SimulationConfig(cubes=('red',)))
    with pytest.raises(SimulationError, match='give both sides the same cubes'):
        other.restore(world.snapshot())


# The servo


def follow(world, path, seconds):
    """Command ``path(t) -> position, velocity`` at 500 Hz; return the largest deviation in radians."""
    begin, worst = world.time_ns, 0.0
    while world.time_ns < begin + seconds * 1e9:
        position, velocity = path((world.time_ns - begin) * 1e-9)
        world.apply(command(world, position, velocity))
        world.step_until(world.time_ns + STEP)
        expected, _ = path((world.time_ns - begin) * 1e-9)
        worst = max(worst, float(np.abs(world.state().position - expected).max()))
    return worst


@pytest.mark.parametrize('frequency', [1.0, 3.0, 5.0])
def test_the_arm_follows_without_lag(world, frequency):
    world.reset('reach', 0)
    home = world.state().position
    size = np.minimum(0.25, 3.0 / frequency**2)

    def path(t):
        # Starts and ends at rest; accelerates with up to 3 rad/s^2 on all joints at once.
        return home + 0.5 * size * (1 - np.cos(frequency * t)), STILL + 0.5 * size * frequency * np.sin(
            frequency * t)

    assert follow(world, path, 2.5) < 0.005


def test_without_commands_the_arm_brakes_and_holds(world):
    world.reset('reach', 0)
    home = world.state().position
    speed = np.array([0.4, 0.2, -0.3, 0.3, 0.4, -0.4, 0.5])
    follow(world, lambda t: (home + 0.5 * speed * t * t / 0.5 if t < 0.5 else home + speed * (t - 0.25),
                             speed * min(t / 0.5, 1.0)), 0.7)
    assert world.is_following
    stopped = world.state()
    timeouts = world.counters.timeouts
    world.step_until(world.time_ns + 600_000_000)
    rest = world.state()
    assert not world.is_following and world.counters.timeouts == timeouts + 1
    assert np.abs(rest.velocity).max() < 1e-3
    # 0.1 s of patience at full speed, then v^2 / 2a at 5 rad/s^2.
    travelled = np.abs(rest.position - stopped.position)
    assert (travelled <= np.abs(speed) * 0.1 + speed**2 / 10.0 + 0.005).all()
    world.step_until(world.time_ns + 1_000_000_000)
    assert world.state().position == pytest.approx(rest.position, abs=1e-4)


def test_torque_stays_inside_the_datasheet(world):
    world.reset('reach', 0)
    home = world.state().position
    limit = simulated_robot().hardware_limits.effort_nm
    world.apply(command(world, home + 0.2))
    used = np.zeros(7)
    for _ in range(20):
        world.step_until(world.time_ns + STEP)
        used = np.maximum(used, np.abs(world.state().effort))
    assert (used <= limit + 1e-9).all()
    # A step of 0.2 rad asks for more than any motor has.
    assert used == pytest.approx(limit)


BAD = {
    'nan': (lambda w, q: command(w, q * np.nan), 'nan arrived'),
    'infinite velocity': (lambda w, q: command(w, q, STILL + np.inf), 'inf arrived'),
    'shape': (lambda w, q: JointCommand(w.time_ns, q[:3], STILL, STILL, 0.0), r'\(3,\) arrived'),
    'gripper': (lambda w, q: command(w, q, gripper=1.5), '1.5 arrived'),
    'gripper nan': (lambda w, q: command(w, q, gripper=float('nan')), 'gripper'),
    'old': (lambda w, q: command(w, q, stamp_ns=w.time_ns - 10**9), 'use_sim_time'),
    'future': (lambda w, q: command(w, q, stamp_ns=w.time_ns + 10**9), 'use_sim_time'),
    'jump': (lambda w, q: command(w, q + 0.5), 'max_command_jump_rad'),
}


@pytest.mark.parametrize('kind', BAD)
def test_a_bad_command_is_refused_and_the_good_one_stays(world, kind):
    make, text = BAD[kind]
    world.reset('reach', 0)
    world.step_until(world.time_ns + 10**9)
    home = world.state().position
    world.apply(command(world, home + 0.01))
    refused = world.counters.refused
    with pytest.raises(ContractError, match=text):
        world.apply(make(world, home))
    assert world.counters.refused == refused + 1 and world.counters.last_refusal
    world.step_until(world.time_ns + 45 * STEP)
    assert world.state().position == pytest.approx(home + 0.01, abs=2e-3)


def test_the_gripper_opens_and_closes(world):
    world.reset('reach', 0)
    home = world.state().position
    assert world.state().gripper < 0.02
    for wanted in (1.0, 0.5, 0.0):
        for _ in range(500):
            world.apply(command(world, home, gripper=wanted))
            world.step_until(world.time_ns + STEP)
        state = world.state()
        assert state.gripper == pytest.approx(wanted, abs=0.02)
        assert state.finger_m == pytest.approx((1.0 - wanted) * FINGER_TRAVEL_M, abs=1e-3)


@pytest.mark.parametrize(('change', 'text'), [
    ({'physics_rate_hz': 100}, '250 to 1000'), ({'physics_rate_hz': 777}, 'divisor'),
    ({'cubes': ('red', 'purple')}, 'purple'), ({'cubes': ()}, 'cubes'),
    ({'cubes': ('red', 'red')}, 'distinct'),
    ({'command_timeout_s': 0.0}, 'command_timeout_s'), ({'image_width': 10_000}, '64 to 1280'),
    ({'light_variation': 2.0}, 'light_variation'),
])
def test_a_configuration_outside_its_range_is_refused(change, text):
    with pytest.raises(SimulationError, match=text):
        SimulationConfig(**change)
