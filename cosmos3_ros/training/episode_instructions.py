"""The many ways of asking for a task. Each is understood by ``sim.tasks.parse_instruction``."""

import numpy as np

from ..sim.tasks import INSTRUCTIONS, Goal

WORDINGS: dict[str, tuple[str, ...]] = {
    'reach': (
        'reach for the {colour} cube',
        'hover above the {colour} cube',
        'hover over the {colour} block',
        'go to the {colour} cube',
        'move the gripper over the {colour} block',
        'reach the {colour} block without touching it',
    ),
    'push': (
        'push the {colour} cube to the white circle',
        'push the {colour} block onto the circle',
        'slide the {colour} cube onto the white circle',
        'slide the {colour} block into the white circle',
        'shove the {colour} cube onto the white spot',
        'push the {colour} cube over to the white disc',
    ),
    'pick_place': (
        'put the {colour} cube on the white circle',
        'place the {colour} block on the white circle',
        'pick up the {colour} block and put it on the circle',
        'grasp the {colour} cube and place it on the white disc',
        'pick the {colour} cube and place it onto the white circle',
        'put the {colour} block onto the white spot',
    ),
}
"""Beside the plain sentence of ``sim.tasks.INSTRUCTIONS``."""

_PLAIN_SHARE = 0.4


def word_instruction(goal: Goal, rng: np.random.Generator) -> str:
    """Draw a sentence that asks for ``goal``; two in five are the plain one."""
    plain = rng.random() < _PLAIN_SHARE
    wordings = WORDINGS[goal.task]
    choice = wordings[int(rng.integers(len(wordings)))]
    text = (INSTRUCTIONS[goal.task] if plain else choice).format(colour=goal.colour)
    # People end sentences or do not, and begin them large or small.
    if rng.random() < 0.2:
        text = text[0].upper() + text[1:]
    return text + '.' if rng.random() < 0.2 else text
