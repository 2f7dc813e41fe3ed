"""Clearances of capsules from the box and planes."""

import numpy as np
import pytest

from cosmos3_ros import robots


def _workspace(**change):
    return robots.Workspace(**{
        'lower_m': -np.ones(3), 'upper_m': np.ones(3), 'plane_names': ('table', 'wall'),
        'normals': np.array([[0.0, 0, 1], [0.6, 0.8, 0]]), 'offsets_m': np.array([0.0, -0.5]), **change})


def test_clearances_by_hand():
    workspace = _workspace()
    a = np.array([[[0.0, 0.0, 0.5], [0.3, 0.0, 0.2]]])
    b = np.array([[[0.0, 0.0, 0.2], [0.3, 0.6, 0.2]]])
    radius = np.array([0.1, 0.05])
    clearances = workspace.clearances(a, b, radius)
    assert clearances.shape == (1, 2, 8)
    columns = dict(zip(workspace.names, clearances[0].T, strict=True))
    np.testing.assert_allclose(columns['table'], [0.1, 0.15])
    np.testing.assert_allclose(columns['box_z_upper'], [0.4, 0.75])
    np.testing.assert_allclose(columns['box_x_lower'], [0.9, 1.25])
    np.testing.assert_allclose(columns['box_y_upper'], [0.9, 0.35])
    np.testing.assert_allclose(columns['wall'], [0.4, 0.18 + 0.5 - 0.05])
    np.testing.assert_allclose(workspace.distances(a, b, radius), clearances.min(axis=1))


def test_agrees_with_sampled_surfaces(robot):
    limits = robot.hardware_limits
    q = np.random.default_rng(0).uniform(limits.lower_rad, limits.upper_rad, (20, len(limits.names)))
    a, b, radius = robot.collision.capsules(q)
    workspace = robot.workspace
    found = workspace.clearances(a, b, radius)
    t = np.linspace(0, 1, 11)[:, None, None, None]
    points = a + t * (b - a)
    for column, name in enumerate(workspace.names):
        if name.startswith('box'):
            axis = 'xyz'.index(name[4])
            x = points[..., axis]
            gap = x - workspace.lower_m[axis] if name.endswith('lower') else workspace.upper_m[axis] - x
        else:
            k = workspace.plane_names.index(name)
            gap = points @ workspace.normals[k] - workspace.offsets_m[k]
        np.testing.assert_allclose(found[..., column], gap.min(axis=0) - radius, atol=1e-12)


def test_driving_into_the_table_is_seen(panda):
    low = panda.home_rad.copy()
    low[1] = 1.2
    a, b, radius = panda.collision.capsules(low[None])
    moving = panda.collision.moving
    distances = panda.workspace.distances(a[:, moving], b[:, moving], radius[moving])[0]
    assert distances[panda.workspace.names.index('table')] < 0.0


def test_only_what_moves_is_listed_as_moving(robot):
    assert [robot.collision.link_names[i] for i in range(len(robot.collision.links))
            if i not in robot.collision.moving] == [robot.collision.link_names[0]]


@pytest.mark.parametrize(('change', 'text'), [
    ({'upper_m': np.array([1.0, -1, 1])}, 'empty'),
    ({'normals': np.array([[0.0, 0, 2], [0.6, 0.8, 0]])}, 'length one'),
    ({'plane_names': ('table', 'table')}, 'once'),
    ({'plane_names': ('table',)}, 'shape'),
    ({'offsets_m': np.array([0.0])}, 'shape'),
    ({'lower_m': np.array([np.nan, 0, 0])}, 'finite'),
])
def test_refuses_bad_workspaces(change, text):
    with pytest.raises(ValueError, match=text):
        _workspace(**change)
