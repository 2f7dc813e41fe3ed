"""The three texts, letter by letter, and diffusers' own JSON for the parts that it shares."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.generator.prompt import PROMPT_VARIANTS, build_prompt

CANVAS = (544, 736)
FRAMING = (
    'This video contains concatenated views from multiple camera perspectives. The top row is from the '
    'wrist-mounted camera. The bottom row contains two horizontally concatenated third-person perspective '
    'views of the scene from opposite sides, with the robot visible.')


@pytest.mark.parametrize('task, start', [
    ('Put the cube in the bowl', 'Put the cube in the bowl. '), ('Put the cube away.', 'Put the cube away. '),
    ('Where is it?', 'Where is it?. ')])
def test_plain(task, start):
    assert build_prompt(task, 'plain', CANVAS) == (
        f'{start}{FRAMING} The video is 2.0 seconds long and is of 15 FPS. '
        'This video is of 544x736 resolution.')


def test_json():
    assert build_prompt('reach the red cube', 'json', CANVAS) == (
        '{"cinematography": {"framing": "' + FRAMING + '"}, '
        '"actions": [{"time": "0:00-0:02", "description": "reach the red cube."}], '
        '"duration": "2s", "fps": 15.0, "resolution": {"H": 544, "W": 736}, "aspect_ratio": "4,3"}')


def test_json_idle():
    assert build_prompt('reach the red cube', 'json_idle', CANVAS) == build_prompt(
        'reach the red cube', 'json', CANVAS).replace(
        '"description": "reach the red cube."',
        '"description": "reach the red cube.", "idle_frame": "0 out of 33."')


@settings(deadline=None)
@given(task=st.text(st.characters(categories=['L', 'N', 'P', 'Zs']), min_size=1).filter(str.strip),
       canvas=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_json_is_diffusers_but_for_the_camera_layout(task, canvas):
    diffusers = pytest.importorskip('diffusers', reason="the extra 'model' is not installed")
    pipeline = diffusers.Cosmos3OmniPipeline
    height, width = 16 * canvas[0], 16 * canvas[1]
    theirs = json.loads(pipeline._build_action_json_prompt(
        task, view_point='concat_view', num_frames=33, fps=15.0, height=height, width=width))
    text = build_prompt(task, 'json', (height, width))
    ours = json.loads(text)
    assert list(ours) == list(theirs) and text.isascii()
    assert ours['cinematography']['framing'].startswith(theirs['cinematography']['framing'])
    ours['cinematography'] = theirs['cinematography']
    assert ours == theirs


@pytest.mark.parametrize('variant', PROMPT_VARIANTS)
@pytest.mark.parametrize('task', ['', '  \n'])
def test_an_empty_instruction_is_refused(task, variant):
    with pytest.raises(PolicyError, match='instruction: an empty text'):
        build_prompt(task, variant, CANVAS)


def test_an_unknown_variant_is_refused():
    with pytest.raises(PolicyError, match="prompt_variant: 'xml' arrived, one of plain, json, json_idle"):
        build_prompt('go', 'xml', CANVAS)
