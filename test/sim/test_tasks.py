from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.sim.configuration import CUBE_COLOURS, SimulationError
from cosmos3_ros.sim.tasks import (
    TASKS,
    Goal,
    TaskView,
    draw_placement,
    is_success,
    parse_instruction,
)

ZONE = np.array([0.5, 0.1])
FAR = np.array([0.3, -0.2, 0.4])


def view(cube=(0.5, 0.1, 0.02), start=(0.4, -0.1, 0.02), tcp=FAR, gripper=0.0):
    return TaskView(np.array(tcp, float), np.array(cube, float), np.array(start, float), ZONE, gripper)


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('colour', CUBE_COLOURS)
def test_every_instruction_is_understood_as_what_it_was_made_of(task, colour):
    goal = Goal(task, colour)
    assert parse_instruction(goal.instruction) == goal
    assert parse_instruction(goal.instruction.upper()) == goal


@pytest.mark.parametrize(('sentence', 'goal'), [
    ('Put the blue cube on the white circle.', Goal('pick_place', 'blue')),
    ('please slide the yellow block into place', Goal('push', 'yellow')),
    ('go to the green cube', Goal('reach', 'green')),
])
def test_other_words_are_understood_too(sentence, goal):
    assert parse_instruction(sentence) == goal


@pytest.mark.parametrize('sentence', [
    '', 'pick up the cube', 'pick up the red and the blue cube', 'the red cube', 'pick up the purple cube',
    'redo the pickup',
])
def test_what_is_not_understood_is_told_with_what_would_be(sentence):
    with pytest.raises(SimulationError) as error:
        parse_instruction(sentence)
    text = str(error.value)
    assert repr(sentence) in text and 'push the <colour> cube' in text
    assert all(colour in text for colour in CUBE_COLOURS)


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('colours', [('red',), CUBE_COLOURS])
def test_a_target_is_on_the_table(task, colours):
    for seed in range(20):
        placement = draw_placement(task, colours, np.random.default_rng(seed))
        assert placement.goal.colour in placement.cube_xy and set(placement.cube_xy) == set(colours)


def test_every_colour_becomes_the_target():
    targets = {
        draw_placement('reach', CUBE_COLOURS, np.random.default_rng(seed)).goal.colour for seed in range(60)}
    assert targets == set(CUBE_COLOURS)


def test_reach_wants_the_tool_above_and_the_cube_untouched():
    cube = (0.4, -0.1, 0.02)
    assert is_success('reach', view(cube=cube, start=cube, tcp=(0.4, -0.1, 0.06)))
    assert not is_success('reach', view(cube=cube, start=cube, tcp=(0.4, -0.1, 0.09)))
    assert not is_success('reach', view(cube=cube, start=(0.42, -0.1, 0.02), tcp=(0.4, -0.1, 0.06)))


def test_push_wants_the_cube_in_the_zone_on_the_table():
    assert is_success('push', view())
    assert not is_success('push', view(cube=(0.5, 0.16, 0.02)))
    assert not is_success('push', view(cube=(0.5, 0.1, 0.1)))


def test_pick_place_wants_it_let_go():
    assert is_success('pick_place', view())
    assert not is_success('pick_place', view(gripper=0.9))
    assert not is_success('pick_place', view(tcp=(0.5, 0.1, 0.04)))
    assert not is_success('pick_place', view(cube=(0.5, 0.1, 0.15)))


@given(st.sampled_from(TASKS), st.tuples(*[st.floats(-1, 1)] * 3))
def test_moving_everything_sideways_changes_nothing(task, shift):
    offset = np.array([*shift[:2], 0.0])
    for one in (view(), view(cube=(0.5, 0.2, 0.02)), view(tcp=(0.5, 0.1, 0.06), start=(0.5, 0.1, 0.02))):
        moved = TaskView(one.tcp + offset, one.cube + offset, one.cube_start + offset,
                         one.zone_xy + offset[:2], one.gripper)
        assert is_success(task, moved) == is_success(task, one)
