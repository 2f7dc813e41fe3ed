"""The world without physics: the expert's rows in it are those of the physics, as far as geometry goes."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest

from cosmos3_ros.sim.configuration import FINGER_TRAVEL_M, SimulationConfig
from cosmos3_ros.sim.expert import PUSH_GRIPPER, PUSH_M, Expert, ExpertMemory, Phase
from cosmos3_ros.sim.inverse_kinematics import InverseKinematics, tool_yaw
from cosmos3_ros.sim.scene import CUBE_HALF_M, simulated_robot
from cosmos3_ros.sim.snapshot import SimulationSnapshot
from cosmos3_ros.sim.still_world import StillWorld
from cosmos3_ros.sim.surroundings import Surroundings
from cosmos3_ros.sim.tasks import TASKS, Goal
from cosmos3_ros.sim.world import World

ROW_S = 1.0 / 15.0
ROW_NS = round(1e9 * ROW_S)
ROWS = 32
EVERY = 8
CONFIG = SimulationConfig(cubes=('red', 'green', 'blue'))
FARTHEST_PUSH_M = 0.051
"""Half a cube's diagonal and half the pads' depth ahead, half a cube and half the fingers' width beside."""
NEAREST_GRIP_M = 0.02

seeds = st.integers(0, 2**32 - 1)
grippers = st.floats(0.0, 1.0)
places = st.tuples(st.floats(0.35, 0.62), st.floats(-0.25, 0.25))


@pytest.fixture(scope='module')
def world() -> World:
    """The world that is copied."""
    return World(CONFIG)


@pytest.fixture(scope='module')
def second() -> World:
    """A world with physics that goes on from the first's state."""
    return World(CONFIG)


def expert_moments(world: World, task: str, seed: int) -> Iterator[tuple[Goal, ExpertMemory]]:
    """Run an episode and stop every few frames; the task must be done in it."""
    expert = Expert(ROW_S)
    goal = world.reset(task, seed)
    memory = expert.begin(world, goal)
    for number in range(300):
        if number % EVERY == 0:
            yield goal, memory
        if memory.phase is Phase.DONE:
            return
        following = expert.act(world, goal, memory)
        world.track(memory.joints, following.joints, following.gripper, ROW_NS)
        memory = following
    raise AssertionError(f'{task}, seed {seed}: not done')


def still_copy(world: World) -> StillWorld:
    still = StillWorld(world.config)
    still.copy(world)
    return still


def joint_gaps(one: list[ExpertMemory], other: list[ExpertMemory]) -> NDArray[np.float64]:
    """Return the largest difference of the joints in each row, radians."""
    return np.array([np.abs(a.joints - b.joints).max() for a, b in zip(one, other, strict=True)])


def are_same(one: SimulationSnapshot, other: SimulationSnapshot) -> bool:
    return one.stamp_ns == other.stamp_ns and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ('qpos', 'qvel', 'ctrl', 'zone_xy'))


# The expert's rows


@pytest.mark.parametrize(('task', 'seed'), [
    ('reach', 0), ('reach', 1), ('reach', 33), ('pick_place', 0), ('pick_place', 4), ('pick_place', 33)])
def test_rows_of_reach_and_pick_place_are_those_of_the_physics(
        world: World, second: World, task: str, seed: int) -> None:
    expert, seen = Expert(ROW_S), set()
    for goal, memory in expert_moments(world, task, seed):
        seen.add(memory.phase)
        still = expert.roll_out(still_copy(world), goal, memory, ROWS)
        second.restore(world.snapshot())
        real = expert.roll_out(second, goal, memory, ROWS)
        assert joint_gaps(still, real).max() < 1e-4  # seeds 0 to 59: 8e-6
        assert [row.gripper for row in still] == [row.gripper for row in real]
        assert [row.phase for row in still] == [row.phase for row in real]
    assert task == 'reach' or seen >= {Phase.DESCEND, Phase.CLOSE, Phase.LIFT, Phase.CARRY, Phase.LOWER}


def real_push(world: World, goal: Goal, memory: ExpertMemory) -> tuple[list[ExpertMemory], int]:
    """Roll out in a world with physics; also return how many rows come before the cube is touched."""
    expert, rows, free = Expert(ROW_S), [], ROWS
    for number in range(ROWS):
        touched = world.cube_contacts()[goal.colour] - {'table'}
        if touched or np.linalg.norm(world.tcp - world.cube_pose(goal.colour)[:3]) < 0.045:
            free = min(free, number)
        rows += expert.roll_out(world, goal, rows[-1] if rows else memory, 1)
    return rows, free


@pytest.mark.parametrize('seed', [0, 1, 9, 13])
def test_rows_of_a_push_are_those_of_the_physics_until_the_cube_is_touched(
        world: World, second: World, seed: int) -> None:
    expert, compared = Expert(ROW_S), 0
    for goal, memory in expert_moments(world, 'push', seed):
        at = world.scene.cube_qvel[goal.colour]
        if np.abs(world.snapshot().qvel[at:at + 6]).max() > 0.01:
            continue  # on its way by itself: nothing here moves by itself
        still = expert.roll_out(still_copy(world), goal, memory, ROWS)
        second.restore(world.snapshot())
        real, free = real_push(second, goal, memory)
        gaps = joint_gaps(still, real)
        compared += free
        assert not (gaps[:free] > 1e-6).any()  # seeds 0 to 79: 2e-8
        for one, other in zip(still[:free], real[:free], strict=True):
            assert one.gripper == other.gripper and one.phase is other.phase
        if memory.phase in (Phase.APPROACH, Phase.DESCEND):
            assert gaps.max() < 0.12  # seeds 0 to 79: 0.063
    assert compared > 3 * ROWS


def before_a_push(world: World, beside_m: float, height_m: float = PUSH_M) -> list[NDArray[np.float64]]:
    """Put a cube and the tool behind it, and return joints of the way along which it is pushed."""
    world.reset('push', 3)
    state, scene = world.snapshot(), world.scene
    kinematics, joints = InverseKinematics(), [simulated_robot().home_rad]
    for y in np.arange(-0.17, 0.0, 0.1 * ROW_S):
        place = np.array([0.45 + beside_m, y, height_m])
        joints.append(kinematics.solve(joints[-1], place, np.pi / 2, iterations=100))
    qpos = state.qpos.copy()
    for colour, place in (('red', (0.45, -0.1)), ('green', (0.62, 0.2)), ('blue', (0.62, 0.1))):
        at = scene.cube_qpos[colour]
        qpos[at:at + 7] = *place, CUBE_HALF_M, np.cos(np.pi / 4), 0.0, 0.0, np.sin(np.pi / 4)
    finger = (1.0 - PUSH_GRIPPER) * FINGER_TRAVEL_M
    qpos[scene.arm_qpos], qpos[scene.finger_qpos] = joints[1], finger
    world.restore(replace(
        state, qpos=qpos, qvel=np.zeros_like(state.qvel), ctrl=np.append(state.ctrl[:-1], finger)))
    return joints[1:]


def lead(surroundings: Surroundings, joints: list[NDArray[np.float64]]) -> None:
    for start, end in pairwise(joints):
        surroundings.track(start, end, PUSH_GRIPPER, ROW_NS)


@pytest.mark.parametrize('kind', ['physics', 'still'])
@pytest.mark.parametrize('beside_m', [-0.004, 0.0, 0.003])
def test_a_cube_stays_before_the_fingers_that_push_it_and_on_the_table(
        world: World, kind: str, beside_m: float) -> None:
    way = before_a_push(world, beside_m)
    surroundings: Surroundings = world if kind == 'physics' else still_copy(world)
    lead(surroundings, way)
    pushed = surroundings.cube_pose('red')[:3]
    assert abs(pushed[0] - 0.45) < 0.012 and abs(pushed[1] - surroundings.tcp[1] - 0.031) < 0.003
    kinematics, up = InverseKinematics(), [way[-1]]
    for height in np.arange(PUSH_M, 0.13, 0.18 * ROW_S):
        up.append(kinematics.solve(up[-1], np.array([*surroundings.tcp[:2], height]), np.pi / 2))
    lead(surroundings, up)
    left = surroundings.cube_pose('red')[:3]
    assert abs(left[2] - CUBE_HALF_M) < 1e-3 and np.linalg.norm(left[:2] - pushed[:2]) < 0.012


@pytest.mark.parametrize('kind', ['physics', 'still'])
@pytest.mark.parametrize(('beside_m', 'height_m', 'is_pushed'), [
    (0.0, 0.053, True), (0.0, 0.062, False), (0.029, PUSH_M, True), (0.036, PUSH_M, False)])
def test_fingers_push_what_they_meet_and_pass_over_and_beside_the_rest(
        world: World, kind: str, beside_m: float, height_m: float, is_pushed: bool) -> None:
    way = before_a_push(world, beside_m, height_m)
    surroundings: Surroundings = world if kind == 'physics' else still_copy(world)
    start = surroundings.cube_pose('red')[:2]
    lead(surroundings, way)
    moved = float(np.linalg.norm(surroundings.cube_pose('red')[:2] - start))
    assert moved > 0.01 if is_pushed else moved < 1e-3


# What a copy is


@given(task=st.sampled_from(TASKS), seed=seeds)
@settings(max_examples=25, deadline=None)
def test_a_copy_shows_the_world_and_leaves_it_as_it_is(world: World, task: str, seed: int) -> None:
    goal = world.reset(task, seed)
    before = world.snapshot()
    still = still_copy(world)
    assert np.array_equal(still.tcp, world.tcp) and np.array_equal(still.zone_xy, world.zone_xy)
    assert np.array_equal(still.state().position, world.state().position)
    assert still.state().gripper == pytest.approx(world.state().gripper, abs=1e-6)
    assert tool_yaw(still.tcp_rotation) == pytest.approx(tool_yaw(world.tcp_rotation))
    assert np.allclose(still.tcp_rotation, world.tcp_rotation, atol=2e-3)  # the tool points down
    for colour in CONFIG.cubes:
        assert np.array_equal(still.cube_pose(colour), world.cube_pose(colour))
    expert = Expert(ROW_S)
    expert.roll_out(still, goal, expert.begin(still, goal), ROWS)
    # What was handed out belongs to whom it was given.
    for array in (still.tcp, still.zone_xy, still.cube_pose('red'), still.state().position):
        array += 1.0
    assert are_same(world.snapshot(), before)


def test_a_second_copy_has_nothing_of_the_first(world: World) -> None:
    goal = world.reset('pick_place', 5)
    expert, still = Expert(ROW_S), StillWorld(CONFIG)
    memory = expert.begin(world, goal)
    found = []
    for _ in range(2):
        still.copy(world)
        found.append(expert.roll_out(still, goal, memory, 80))
    assert found[0][-1].phase not in (Phase.APPROACH, Phase.DESCEND)
    assert joint_gaps(*found).max() == 0.0


def test_a_copied_grip_holds(world: World) -> None:
    carried = 0
    for goal, memory in expert_moments(world, 'pick_place', 2):
        if memory.phase not in (Phase.LIFT, Phase.CARRY, Phase.LOWER):
            continue
        still = still_copy(world)
        offset = still.cube_pose(goal.colour)[:3] - still.tcp
        if Expert(ROW_S).roll_out(still, goal, memory, 4)[-1].phase is Phase.RELEASE:
            continue
        carried += 1
        assert still.cube_pose(goal.colour)[:3] - still.tcp == pytest.approx(offset, abs=1e-12)
    assert carried >= 3


# What moves


def above(position: NDArray[np.float64], height: float) -> NDArray[np.float64]:
    """Return joints whose tool stands over a place."""
    return InverseKinematics().solve(
        simulated_robot().home_rad, np.array([*position[:2], height]), 0.0, iterations=100)


def go(still: StillWorld, joints: NDArray[np.float64], gripper: float, rows: int = 1) -> None:
    for _ in range(rows):
        still.track(still.state().position, joints, gripper, ROW_NS)


@given(seed=seeds, way=st.lists(st.tuples(places, st.floats(0.03, 0.3)), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_gripped_cube_goes_with_the_tool_and_stays_where_it_is_let_go(
        world: World, seed: int, way: list[tuple[tuple[float, float], float]]) -> None:
    goal = world.reset('pick_place', seed)
    still = still_copy(world)
    start = still.cube_pose(goal.colour)
    low = above(start, 0.025)
    go(still, low, 0.0)
    go(still, low, 1.0, 12)
    assert still.state().finger_m == pytest.approx(CUBE_HALF_M)
    assert np.array_equal(still.cube_pose(goal.colour), start)  # closing moves nothing
    offset = start[:3] - still.tcp
    others = {colour: still.cube_pose(colour) for colour in CONFIG.cubes if colour != goal.colour}
    for place, height in way:
        go(still, above(np.array(place), height), 1.0)
        assert still.cube_pose(goal.colour)[:3] - still.tcp == pytest.approx(offset, abs=1e-12)
    carried = still.cube_pose(goal.colour)
    go(still, still.state().position, 0.0, 12)
    released = still.cube_pose(goal.colour)
    assert np.array_equal(released[:2], carried[:2]) and released[2] == CUBE_HALF_M
    assert still.state().gripper == pytest.approx(0.0, abs=1e-6)
    go(still, simulated_robot().home_rad, 0.0)
    assert np.array_equal(still.cube_pose(goal.colour), released)
    assert all(np.array_equal(still.cube_pose(colour), pose) for colour, pose in others.items())


@given(seed=seeds, way=st.lists(
    st.tuples(places, st.floats(0.02, 0.3), grippers), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_cubes_out_of_reach_of_the_fingers_never_move(
        world: World, seed: int, way: list[tuple[tuple[float, float], float, float]]) -> None:
    world.reset('reach', seed)
    still = still_copy(world)
    for place, height, gripper in way:
        before = {colour: still.cube_pose(colour) for colour in CONFIG.cubes}
        closest = min(before, key=lambda colour: float(np.linalg.norm(before[colour][:3] - still.tcp)))
        held = {closest} if np.linalg.norm(before[closest][:3] - still.tcp) < NEAREST_GRIP_M else set()
        go(still, above(np.array(place), height), gripper)
        for colour, pose in before.items():
            flat = np.linalg.norm(pose[:2] - still.tcp[:2])
            grips = np.linalg.norm(pose[:3] - still.tcp) < NEAREST_GRIP_M
            pushes = flat < FARTHEST_PUSH_M and still.tcp[2] < 2 * CUBE_HALF_M + 0.019
            if not (colour in held or grips or pushes):
                assert np.array_equal(still.cube_pose(colour), pose), colour
            assert np.array_equal(still.cube_pose(colour)[3:], pose[3:])  # none turns


@given(seed=seeds, gripper=st.floats(0.0, 0.5))
@settings(max_examples=20, deadline=None)
def test_fingers_that_are_open_go_around_a_cube(world: World, seed: int, gripper: float) -> None:
    goal = world.reset('pick_place', seed)
    still = still_copy(world)
    start = still.cube_pose(goal.colour)
    for height in (0.12, 0.06, 0.025):
        go(still, above(start, height), gripper, 8)
    assert np.array_equal(still.cube_pose(goal.colour), start)
    assert still.state().gripper == pytest.approx(gripper, abs=1e-6)


@given(wanted=st.lists(st.tuples(grippers, st.integers(1, 30)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_gripper_is_as_fast_as_it_is_and_time_passes(
        world: World, wanted: list[tuple[float, int]]) -> None:
    world.reset('reach', 1)
    still = still_copy(world)
    for gripper, rows in wanted:
        before = still.state()
        go(still, before.position, gripper, rows)
        after = still.state()
        assert -1e-6 < after.gripper < 1.0 + 1e-6
        assert after.stamp_ns - before.stamp_ns == rows * ROW_NS
        assert np.array_equal(after.position, before.position) and not after.velocity.any()
        fastest = CONFIG.gripper_speed_m_s * rows * ROW_S / FINGER_TRAVEL_M
        moved, left = abs(after.gripper - before.gripper), abs(gripper - after.gripper)
        assert moved < fastest + 1e-7 and (left < 1e-7 or moved == pytest.approx(fastest, abs=1e-7))


@given(place=places, height=st.floats(0.05, 0.35), yaw=st.floats(-0.8, 0.8))
@settings(max_examples=40, deadline=None)
def test_the_tool_is_where_the_joints_put_it(
        world: World, place: tuple[float, float], height: float, yaw: float) -> None:
    world.reset('reach', 2)
    still = still_copy(world)
    joints = InverseKinematics().solve(
        simulated_robot().home_rad, np.array([*place, height]), yaw, iterations=100)
    go(still, joints, 0.0)
    position, found = InverseKinematics().tool_pose(joints)
    assert np.array_equal(still.tcp, position) and np.array_equal(still.state().tcp, position)
    assert tool_yaw(still.tcp_rotation) == pytest.approx(found, abs=1e-12)
    assert found == pytest.approx(yaw, abs=2e-3)
    rotation = still.tcp_rotation
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
