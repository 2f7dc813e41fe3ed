"""What the contract ``eef_delta`` needs to know besides the weights, gathered from three places.

The policy's option ``action`` goes before the checkpoint's ``cosmos3_ros.json`` (key ``action``), and that
before what is published about the domain. Nothing is guessed: what none of them says is asked for by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import frozen_array

from .action_layout import ActionLayout
from .action_normaliser import ActionNormaliser, pick_statistics
from .embodiment_actions import KNOWN, ArmChannels, arm_channels
from .policy import PolicyError

DEFAULT_DOMAIN = 'droid_lerobot'
NAMES = ('domain', 'arm', 'horizon', 'rate_hz', 'normaliser', 'statistics', 'clamp', 'gripper_open',
         'effector_xyz_m', 'effector_rpy_rad')


@dataclass(frozen=True, slots=True, eq=False)
class EefSettings:
    """One arm in one domain.

    :param normaliser: Over all channels of the domain.
    :param gripper_open: What the gripper's channel is when it is open, 0 or 1; closed is the other one.
    :param effector_xyz_m: Shape (3,), origin of the model's effector frame in the arm's last link.
    :param effector_rpy_rad: Shape (3,), its fixed-axis roll, pitch, yaw there.
    """

    channels: ArmChannels
    layout: ActionLayout
    normaliser: ActionNormaliser
    gripper_open: float
    effector_xyz_m: NDArray[np.float64]
    effector_rpy_rad: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check shapes, freeze the arrays."""
        if self.gripper_open not in (0.0, 1.0):
            raise PolicyError(f'gripper_open: {self.gripper_open} arrived, 0 or 1 is allowed')
        for name in ('effector_xyz_m', 'effector_rpy_rad'):
            object.__setattr__(self, name, frozen_array(name, getattr(self, name), shape=(3,)))


def gather_settings(
    option: Mapping[str, Any], checkpoint: Mapping[str, Any], directory: Path | None = None,
) -> EefSettings:
    """Return the settings that option, checkpoint and the published facts come to.

    :param option: The policy's option ``action``.
    :param checkpoint: The checkpoint's own; ``statistics`` may name a file beside it.
    :param directory: Where the checkpoint lies.
    :raises PolicyError: Unknown names, values that do not fit, or something that nobody says.
    """
    for where, given in (('option action', option), ('checkpoint', checkpoint)):
        unknown = [name for name in given if name not in NAMES]
        if unknown:
            raise PolicyError(
                f'{where}: {", ".join(map(str, unknown))} arrived, {", ".join(NAMES)} are allowed')
    asked, own = option.get('domain'), checkpoint.get('domain')
    domain = str(asked or own or DEFAULT_DOMAIN)
    # Statistics and frames belong to a domain: those of another one are not mixed in.
    belonging = checkpoint if own in (None, domain) else {}
    values: dict[str, Any] = {**KNOWN.get(domain, {}), **belonging, **option}
    channels = arm_channels(domain, values.get('arm'))
    missing = [name for name in NAMES if name not in ('domain', 'arm', 'clamp') and name not in values]
    if missing:
        raise PolicyError(
            f'contract eef_delta, domain {domain}: nothing says {", ".join(missing)}. Put it into the '
            'policy option action, or into cosmos3_ros.json of the checkpoint')
    try:
        layout = ActionLayout(
            horizon=int(values['horizon']), width=channels.width, domain_id=channels.domain_id,
            rate_hz=float(values['rate_hz']))
        method = str(values['normaliser'])
        normaliser = ActionNormaliser.of(
            method, pick_statistics(_read_statistics(values['statistics'], directory), method),
            channels.width, clamp=bool(values.get('clamp', False)))
        gripper_open = float(values['gripper_open'])
    except PolicyError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise PolicyError(f'contract eef_delta, domain {domain}: {error}') from error
    return EefSettings(
        channels, layout, normaliser, gripper_open, values['effector_xyz_m'], values['effector_rpy_rad'])


def _read_statistics(value: Any, directory: Path | None) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, (str, Path)):
        raise PolicyError(f'statistics: {value!r} arrived, a JSON file or an object is allowed')
    path = Path(value).expanduser()
    if directory is not None and not path.is_absolute() and not path.is_file():
        path = directory / path
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise PolicyError(f'statistics: {path} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise PolicyError(f'statistics: {path} holds a {type(content).__name__}, an object is needed')
    return content
