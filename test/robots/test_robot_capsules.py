"""Capsule distances against brute force, and the axioms that a distance must obey."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros import robots
from cosmos3_ros.robots.segments import segment_distances

coordinate = st.floats(-1.0, 1.0, allow_nan=False, width=32)
vector = st.tuples(coordinate, coordinate, coordinate).map(np.array)


def _distance(p1, q1, p2, q2):
    shape = (1, 3, 1)
    return float(segment_distances(p1.reshape(shape), (q1 - p1).reshape(shape), p2.reshape(shape),
                                   (q2 - p2).reshape(shape))[0, 0])


def _brute_force(p1, q1, p2, q2, count=201):
    """Smallest of all sample pairs; the truth lies at most one step below."""
    s = np.linspace(0, 1, count)[:, None]
    first, second = p1 + s * (q1 - p1), p2 + s * (q2 - p2)
    gaps = np.linalg.norm(first[:, None] - second[None], axis=-1)
    step = (np.linalg.norm(q1 - p1) + np.linalg.norm(q2 - p2)) / (2 * (count - 1))
    return gaps.min(), step


@settings(max_examples=300, deadline=None)
@given(vector, vector, vector, vector)
def test_segment_distance_agrees_with_sampling(p1, q1, p2, q2):
    found = _distance(p1, q1, p2, q2)
    sampled, step = _brute_force(p1, q1, p2, q2)
    assert sampled - step - 1e-6 <= found <= sampled + 1e-6


@settings(max_examples=300, deadline=None)
@given(vector, vector, vector, st.floats(-2.0, 2.0, width=32), st.floats(-1e-5, 1e-5))
def test_parallel_and_nearly_parallel_segments(p1, q1, p2, factor, tilt):
    q2 = p2 + factor * (q1 - p1) + tilt * np.array([1.0, -2.0, 0.5])
    found = _distance(p1, q1, p2, q2)
    sampled, step = _brute_force(p1, q1, p2, q2)
    assert sampled - step - 1e-5 <= found <= sampled + 1e-5


@settings(max_examples=200, deadline=None)
@given(vector, vector, vector, vector)
def test_segment_distance_is_symmetric(p1, q1, p2, q2):
    assert _distance(p1, q1, p2, q2) == pytest.approx(_distance(p2, q2, p1, q1), abs=1e-6)
    assert _distance(p1, q1, p2, q2) == pytest.approx(_distance(q1, p1, q2, p2), abs=1e-6)


def test_points_are_segments_too():
    a, b = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.6, 0.3])
    assert _distance(a, a, b, b) == pytest.approx(0.5, abs=1e-9)
    assert _distance(a, a, a, a) == 0.0


def _samples(robot, count, seed):
    limits = robot.hardware_limits
    return np.random.default_rng(seed).uniform(limits.lower_rad, limits.upper_rad, (count, len(limits.names)))


def test_distances_agree_with_sampled_surfaces(robot):
    q = _samples(robot, 4, seed=0)
    distances = robot.collision.distances(q)
    a, b, radius = robot.collision.capsules(q)
    assert distances.shape == (4, len(robot.collision.pairs)) == (4, len(robot.collision.pair_names))
    for k in range(len(q)):
        for column, (i, j) in enumerate(robot.collision.pairs):
            gap, step = _brute_force(a[k, i], b[k, i], a[k, j], b[k, j])
            assert distances[k, column] <= gap - radius[i] - radius[j] + 1e-9
            assert distances[k, column] >= gap - radius[i] - radius[j] - step - 1e-9


def test_capsules_ride_on_their_links(robot):
    q = _samples(robot, 6, seed=1)
    R, p = robot.kinematics.forward(q)
    a, b, _ = robot.collision.capsules(q)
    home_R, home_p = robot.kinematics.forward(robot.home_rad)
    home_a, home_b, _ = robot.collision.capsules(robot.home_rad[None])
    for c, link in enumerate(robot.collision.links):
        for end, home_end in ((a, home_a), (b, home_b)):
            local = home_R[link].T @ (home_end[0, c] - home_p[link])
            np.testing.assert_allclose(end[:, c], p[:, link] + R[:, link] @ local, atol=1e-12)


def test_a_pair_sees_only_the_joints_between_its_links(robot):
    q = _samples(robot, 5, seed=2)
    before = robot.collision.distances(q)
    for i in range(q.shape[1]):
        moved = q.copy()
        moved[:, i] += 0.7
        change = np.abs(robot.collision.distances(moved) - before).max(axis=0)
        for column, (first, second) in enumerate(robot.collision.pairs):
            low, high = sorted(robot.collision.links[[first, second]])
            if not low < i + 1 <= high:
                assert change[column] < 1e-9


def test_distances_change_no_faster_than_the_arm_reaches(robot):
    # Turning one joint by x moves no point of a capsule by more than x times its distance from the axis.
    q = _samples(robot, 200, seed=3)
    step = np.random.default_rng(4).normal(scale=0.02, size=q.shape)
    _, p = robot.kinematics.forward(np.zeros((1, q.shape[1])))
    reach = np.linalg.norm(np.diff(p[0], axis=0), axis=1).sum() + 0.5
    change = np.abs(robot.collision.distances(q + step) - robot.collision.distances(q)).max(axis=1)
    assert (change <= reach * np.abs(step).sum(axis=1)).all()
    assert change.max() > 1e-3


def test_one_walk_gives_the_same_as_two(robot):
    q = _samples(robot, 30, seed=5)
    distances, a, b, radius = robot.collision.distances_and_capsules(q)
    np.testing.assert_array_equal(distances, robot.collision.distances(q))
    for found, expected in zip((a, b, radius), robot.collision.capsules(q), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_batch_is_the_stack_of_its_rows(robot):
    q = _samples(robot, 9, seed=6)
    batch = robot.collision.distances(q)
    for k in range(len(q)):
        np.testing.assert_allclose(batch[k], robot.collision.distances(q[k:k + 1])[0], atol=1e-12)


def test_home_keeps_its_distance(robot):
    assert robot.collision.distances(robot.home_rad[None]).min() > 0.03
    a, b, radius = robot.collision.capsules(robot.home_rad[None])
    moving = robot.collision.moving
    assert robot.workspace.distances(a[:, moving], b[:, moving], radius[moving]).min() > 0.05


def test_folding_into_the_base_is_seen(panda):
    # Joint 4 folded and joint 2 forward: the gripper points back into the upper arm.
    folded = np.array([0.0, 1.6, 0.0, -3.05, 0.0, 0.0, 0.785])
    assert panda.collision.distances(folded[None]).min() < 0.0


def test_excluded_pairs_never_meet_beyond_their_joint(robot):
    # What is excluded as far apart or never touching must bear it out on fresh samples.
    near = {('link5', 'link7'), ('base', 'upper_arm'), ('forearm', 'wrist_2'), ('wrist_1', 'wrist_3')}
    collision = robot.collision
    checked = {frozenset(pair) for pair in collision.pairs}
    missing = [(i, j) for i in range(len(collision.links)) for j in range(i + 1, len(collision.links))
               if frozenset((i, j)) not in checked and abs(collision.links[i] - collision.links[j]) >= 2
               and (collision.link_names[i], collision.link_names[j]) not in near]
    assert missing
    a, b, radius = collision.capsules(_samples(robot, 3000, seed=7))
    for i, j in missing:
        gap = segment_distances(
            a[:, i].T[None], (b - a)[:, i].T[None], a[:, j].T[None], (b - a)[:, j].T[None])
        assert gap.min() - radius[i] - radius[j] > 0.0, (collision.link_names[i], collision.link_names[j])


def test_real_droid_motion_is_clear(panda, droid_positions):
    assert panda.collision.distances(droid_positions).min() > panda.profile.self_collision_distance_m


def _model(capsules, excluded=()):
    zero = np.zeros(3)
    chain = robots.Kinematics(np.zeros((2, 3)), np.zeros((2, 3)), zero, zero, ())
    return robots.CapsuleModel(chain, tuple(capsules), frozenset(map(frozenset, excluded)))


def test_refuses_bad_capsules():
    zero, up = np.zeros(3), np.array([0.0, 0.0, 1.0])
    good = robots.Capsule('a', 1, zero, up, 0.1)
    with pytest.raises(robots.RobotError, match='distinct'):
        _model([good, good])
    with pytest.raises(robots.RobotError, match='distinct'):
        _model([])
    with pytest.raises(robots.RobotError, match='link 3'):
        _model([robots.Capsule('a', 3, zero, up, 0.1)])
    with pytest.raises(robots.RobotError, match='radius'):
        _model([robots.Capsule('a', 1, zero, up, 0.0)])
    with pytest.raises(robots.RobotError, match='excluded'):
        _model([good], [('a', 'b')])
    with pytest.raises(robots.RobotError, match=r'\(K, 2\)'):
        _model([good]).distances(np.zeros(2))


def test_a_model_without_pairs_has_no_distances():
    up = np.array([0.0, 0.0, 1.0])
    model = _model([robots.Capsule('a', 1, np.zeros(3), up, 0.1)])
    assert model.distances(np.zeros((4, 2))).shape == (4, 0)
