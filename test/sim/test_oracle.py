"""The oracle: its chunks, its refusals, and that they do the tasks in a closed loop with latency."""

from closed_loop import CAMERA_NS, BlendingInterpolator, RealController, observe, run_episode
import numpy as np
import pytest

from cosmos3_ros.generator.oracle import HORIZON, OraclePolicy
from cosmos3_ros.generator.policy import Policy, PolicyError, create_policy
from cosmos3_ros.sim.configuration import ARM_JOINTS, SimulationConfig
from cosmos3_ros.sim.scene import simulated_robot
from cosmos3_ros.sim.tasks import TASKS
from cosmos3_ros.sim.world import World


@pytest.fixture(scope='module')
def world():
    return World(SimulationConfig())


@pytest.fixture(scope='module')
def oracle():
    policy = create_policy('oracle')
    policy.warm_up()
    yield policy
    policy.close()


def ask(world, oracle, instruction=None, seed=0):
    oracle.update_state(world.snapshot())
    return oracle.generate(observe(world, world.time_ns), instruction or world.goal.instruction, seed=seed)


def follow(world, chunk, rows):
    """Let the arm do ``rows`` of a chunk exactly."""
    begin = world.state().position
    for row in range(rows):
        world.track(begin, chunk.positions[row], float(chunk.gripper[row]), chunk.step_ns)
        begin = chunk.positions[row]


# The closed loop


@pytest.mark.parametrize(('task', 'seed'), [('reach', 2), ('push', 1), ('pick_place', 3)])
def test_chunks_do_the_task_with_latency(world, oracle, task, seed):
    outcome = run_episode(world, oracle, BlendingInterpolator(), task, seed, latency_s=0.3, replan_s=0.5)
    assert outcome.success
    assert outcome.tracking_error_rad < 0.02


def test_chunks_do_the_task_through_the_controller(world, oracle):
    outcome = run_episode(world, oracle, RealController(), 'pick_place', 1, latency_s=0.3, replan_s=0.8)
    assert outcome.success and outcome.chunks < 25


class HalfPace(BlendingInterpolator):
    """An arm that takes twice the time for everything: rows are due half as fast after the observation."""

    def submit(self, chunk, now_ns):
        super().submit(chunk, now_ns)
        self._new = type(chunk)(**{
            **{name: getattr(chunk, name) for name in chunk.__slots__}, 'step_ns': 2 * chunk.step_ns})


def test_an_arm_at_half_the_pace_arrives_too(world, oracle):
    assert run_episode(world, oracle, HalfPace(), 'pick_place', 4, limit_s=30.0).success


def test_an_arm_that_was_moved_by_hand_starts_again(world, oracle):
    world.reset('pick_place', 6)
    chunk = ask(world, oracle)
    follow(world, chunk, 15)
    # Somebody takes the arm back to where it began.
    home = np.array(simulated_robot().home_rad)
    world.track(world.state().position, home, 0.0, 1_500_000_000)
    for _ in range(12):
        chunk = ask(world, oracle)
        assert np.abs(chunk.positions[0] - world.state().position).max() < 0.1
        follow(world, chunk, 12)
        if world.success():
            return
    pytest.fail('the task was not done after the arm had been moved')


# Chunks


def test_it_is_a_policy(oracle):
    assert isinstance(oracle, Policy)
    assert 'oracle' in oracle.identity.checkpoint and oracle.contract == 'droid_joint'


@pytest.mark.parametrize('task', TASKS)
def test_a_chunk_has_the_contract_of_the_model(world, oracle, task):
    world.reset(task, 9)
    chunk = ask(world, oracle, seed=5)
    assert chunk.positions.shape == (HORIZON, 7) and chunk.joint_names == ARM_JOINTS
    assert chunk.step_ns == round(1e9 / 15) and chunk.stamp_ns == world.time_ns
    assert (chunk.steps, chunk.guidance, chunk.policy, chunk.seed) == (0, 1.0, 'oracle', 5)
    assert np.abs(chunk.positions[0] - world.state().position).max() < 0.02


def test_the_same_question_gets_the_same_answer(world):
    world.reset('push', 2)
    first, second = (ask(world, OraclePolicy()) for _ in range(2))
    assert np.array_equal(first.positions, second.positions)
    assert np.array_equal(first.gripper, second.gripper) and first.trace_id == second.trace_id


@pytest.mark.parametrize('task', TASKS)
def test_rows_stay_inside_the_lab_profile(world, oracle, task):
    from cosmos3_ros.robots import load_robot
    limits = load_robot('panda', 'lab').limits
    world.reset(task, 12)
    rows = [world.state().position]
    for _ in range(3):
        chunk = ask(world, oracle)
        rows += list(chunk.positions[:24])
        follow(world, chunk, 24)
    velocity = np.diff(rows, axis=0) * 15.0
    assert (np.abs(velocity) <= 1.2 * limits.velocity_rad_s).all()
    assert (np.array(rows) >= limits.lower_rad).all() and (np.array(rows) <= limits.upper_rad).all()


@pytest.mark.parametrize('task', ['push', 'pick_place'])
def test_a_new_chunk_continues_the_one_being_followed(world, oracle, task):
    world.reset(task, 3)
    before = ask(world, oracle)
    for _ in range(4):
        follow(world, before, 8)
        now = ask(world, oracle)
        # Both tell the same rows of the future, as far as the first one saw it coming.
        assert now.positions[:8] == pytest.approx(before.positions[8:16], abs=0.02)
        before = now


# Refusals


def test_without_a_state_it_says_what_it_needs(world):
    with pytest.raises(PolicyError, match=r'simulation_state.*cosmos3'):
        OraclePolicy().generate(observe(world, 0), 'push the red cube onto the white circle', seed=0)


def test_a_state_from_another_time_is_not_used(world, oracle):
    world.reset('reach', 0)
    oracle.update_state(world.snapshot())
    with pytest.raises(PolicyError, match=r'0.500 s away, 0.1 s is allowed.*use_sim_time'):
        oracle.generate(observe(world, world.time_ns + 500_000_000), world.goal.instruction, seed=0)


def test_states_of_the_last_episode_are_forgotten(world, oracle):
    world.reset('reach', 0)
    oracle.update_state(world.snapshot())
    old = world.time_ns
    world.step_until(old + 10 * CAMERA_NS)
    world.reset('reach', 1)
    oracle.update_state(world.snapshot())
    with pytest.raises(PolicyError, match='away'):
        oracle.generate(observe(world, old), world.goal.instruction, seed=0)


@pytest.mark.parametrize(('instruction', 'text'), [
    ('fold the towel', 'fold the towel'),
    ('push the purple cube onto the white circle', 'purple'),
    ('', 'a task and one colour'),
])
def test_an_unknown_instruction_is_refused_with_what_is_known(world, oracle, instruction, text):
    world.reset('reach', 0)
    oracle.update_state(world.snapshot())
    with pytest.raises(PolicyError, match=text) as error:
        oracle.generate(observe(world, world.time_ns), instruction, seed=0)
    assert 'pick up the <colour> cube' in str(error.value)


def test_an_instruction_of_another_episode_is_refused(world, oracle):
    goal = world.reset('reach', 0)
    other = 'red' if goal.colour != 'red' else 'blue'
    with pytest.raises(PolicyError, match=f'{other} cube, but the running episode is'):
        ask(world, oracle, f'move the gripper above the {other} cube')
    with pytest.raises(PolicyError, match='asks for push'):
        ask(world, oracle, f'push the {goal.colour} cube onto the white circle')


def test_a_scene_with_other_cubes_is_refused(world):
    world.reset('reach', 0)
    with pytest.raises(PolicyError, match='give both sides the same cubes'):
        ask(world, create_policy('oracle', cubes='red, blue'))
    with pytest.raises(PolicyError, match='purple'):
        create_policy('oracle', cubes='purple')
