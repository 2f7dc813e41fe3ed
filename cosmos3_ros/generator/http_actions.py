"""What policies behind an HTTP server have in common: the picture, the settings, the action in the reply."""

from dataclasses import dataclass
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import Observation
from cosmos3_ros.remote.http_exchange import Endpoint, ExchangeError
from cosmos3_ros.resources import require

from . import droid_joint
from .composed_view import DROID_VIEW, compose_view
from .option_types import check_types
from .policy import PolicyError
from .remote_policy import check_actions

DOMAIN = 'droid_lerobot'
MODE = 'policy'
# A fast deflate: a picture shrinks to about half, and is the same on the other side, which JPEG is not.
PNG_LEVEL = 1


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """How the server shall denoise; the defaults are those that the DROID policy was trained with.

    :param steps: Denoising steps.
    :param guidance: Scale of classifier-free guidance.
    :param shift: Of the flow's schedule.
    :raises PolicyError: Out of range.
    """

    steps: int = droid_joint.STEPS
    guidance: float = droid_joint.GUIDANCE
    shift: float = droid_joint.SHIFT

    def __post_init__(self) -> None:
        """Check the ranges, which are those of the servers."""
        check_types({name: getattr(self, name) for name in ('steps', 'guidance', 'shift')},
                    {'steps': 'integer', 'guidance': 'number', 'shift': 'number'})
        for name, low, high in (('steps', 1, 200), ('guidance', 0.0, 20.0), ('shift', 0.1, 100.0)):
            if not low <= getattr(self, name) <= high:
                raise PolicyError(f'{name}: {getattr(self, name)} arrived, {low:g} to {high:g} is allowed')


def endpoint_of(url: str, api_key: str) -> Endpoint:
    """Return the endpoint of a server's address; a ``/v1`` at its end is taken off, the paths bring it.

    :raises PolicyError: It is no address.
    """
    try:
        return Endpoint(url.rstrip('/').removesuffix('/v1'), api_key)
    except ValueError as error:
        raise PolicyError(str(error).replace('base_url', 'url')) from error


def encode_view(observation: Observation) -> bytes:
    """Return the composed picture, 540 x 640, as PNG.

    :raises PolicyError: A camera is missing.
    """
    pillow = require('PIL.Image', 'model')
    out = io.BytesIO()
    pillow.fromarray(compose_view(observation.images, DROID_VIEW)).save(out, 'PNG', compress_level=PNG_LEVEL)
    return out.getvalue()


def read_action(action: Any) -> NDArray[np.float64]:
    """Return the actions (32, 8) of a reply's ``action`` object.

    :param action: ``{data, shape, dtype, raw_action_dim, action_mode, domain_id}``; of these only ``data``
        must be there, and what else there is must fit.
    :raises ExchangeError: No actions, of another contract, or with a number that is not finite.
    """
    if not isinstance(action, dict) or 'data' not in action:
        raise ExchangeError('broken', f'answered without actions (action: {str(action)[:100]})')
    wanted = {'raw_action_dim': droid_joint.WIDTH, 'action_mode': MODE, 'domain_id': droid_joint.DOMAIN_ID}
    for key, value in wanted.items():
        if action.get(key) not in (None, value):
            raise ExchangeError(
                'broken', f'answered with {key} {str(action[key])[:50]}, {value} is needed. Does it serve a '
                f'checkpoint with the contract {droid_joint.CONTRACT}?')
    try:
        data = np.asarray(action['data'])
    except ValueError as error:
        raise ExchangeError('broken', f'answered with actions that are no table: {error}') from error
    if data.dtype.kind in 'iu':  # JSON has one kind of number: 1.0 may come as 1
        data = data.astype(np.float64)
    shape = action.get('shape')
    if shape is not None and list(data.shape) != shape:
        raise ExchangeError('broken', f'answered with action {list(data.shape)}, which it says is {shape}')
    return check_actions(data)
