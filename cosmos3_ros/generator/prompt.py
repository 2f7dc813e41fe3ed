"""The text that a policy reads: three variants, since it is not public which one it was trained on.

``plain`` is what NVIDIA's public server sends; ``json`` is what its fine-tuning recipe trains on;
``json_idle`` adds the recipe's count of idle frames. Sources: cosmos-framework
``scripts/action_policy_server_robolab.py``, ``utils/json_formatter.py``; diffusers
``Cosmos3OmniPipeline._build_action_json_prompt`` (facts sheet 2b.4).
"""

import json

from .droid_joint import RATE_HZ, ROWS
from .policy import PolicyError

PROMPT_VARIANTS = ('plain', 'json', 'json_idle')
UNCONDITIONAL = ''  # the other branch of classifier-free guidance

_CONCATENATED = 'This video contains concatenated views from multiple camera perspectives.'
_LAYOUT = (
    'The top row is from the wrist-mounted camera. The bottom row contains two horizontally concatenated '
    'third-person perspective views of the scene from opposite sides, with the robot visible.')
_ASPECTS = ('1,1', '4,3', '3,4', '16,9', '9,16')


def build_prompt(
    instruction: str, variant: str, canvas: tuple[int, int], *, frames: int = ROWS,
    rate_hz: float = float(RATE_HZ),
) -> str:
    """Return the user's turn for ``instruction``.

    :param instruction: The task in words, e.g. ``reach the red cube``.
    :param variant: One of :data:`PROMPT_VARIANTS`.
    :param canvas: Height and width that the VAE sees, 544 x 736 for the released policy.
    :param frames: Video frames, the observation included.
    :param rate_hz: Their rate.
    :raises PolicyError: Unknown variant, or an empty instruction.
    """
    task = instruction.strip()
    if not task:
        raise PolicyError('instruction: an empty text arrived, the task in words is needed')
    if variant not in PROMPT_VARIANTS:
        raise PolicyError(
            f'prompt_variant: {variant!r} arrived, one of {", ".join(PROMPT_VARIANTS)} is allowed')
    if variant == 'plain':
        return _plain(task, canvas, frames, rate_hz)
    return _json(task, canvas, frames, rate_hz, idle=variant == 'json_idle')


def _plain(task: str, canvas: tuple[int, int], frames: int, rate_hz: float) -> str:
    separator = ' ' if task.endswith('.') else '. '
    # The server cuts 33 / 15 s to whole seconds before it prints one decimal.
    return (
        f'{task}{separator}{_CONCATENATED} {_LAYOUT} '
        f'The video is {float(int(frames / rate_hz)):.1f} seconds long and is of {rate_hz:g} FPS. '
        f'This video is of {canvas[0]}x{canvas[1]} resolution.')


def _json(task: str, canvas: tuple[int, int], frames: int, rate_hz: float, *, idle: bool) -> str:
    height, width = canvas
    description = task if task.endswith(('.', '!', '?')) else f'{task}.'
    minutes, seconds = divmod(round(frames / rate_hz), 60)
    action = {'time': f'0:00-{minutes}:{seconds:02d}', 'description': description}
    if idle:
        action['idle_frame'] = f'0 out of {frames}.'
    return json.dumps({
        'cinematography': {'framing': f'{_CONCATENATED} {_LAYOUT}'},
        'actions': [action],
        'duration': f'{int(frames / rate_hz)}s',
        'fps': float(rate_hz),
        'resolution': {'H': height, 'W': width},
        'aspect_ratio': min(_ASPECTS, key=lambda aspect: abs(_ratio(aspect) - width / height)),
    })


def _ratio(aspect: str) -> float:
    across, down = aspect.split(',')
    return int(across) / int(down)
