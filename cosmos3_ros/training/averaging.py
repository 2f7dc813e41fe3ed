"""An exponential moving average of weights: what a run keeps in the end."""

from collections.abc import Mapping
from typing import Any

from ..resources import require
from .settings import TrainingError

torch = require('torch', 'model')


class AveragedWeights:
    """Follows named parameters.

    The decay rises from 0 as ``(1 + n) / (10 + n)`` so that the average does not remember the random
    start (the rule of TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).

    :param parameters: Name to parameter; their order is kept.
    :param decay: 0 to below 1; at 0 the average is the last value.
    """

    def __init__(self, parameters: Mapping[str, Any], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.updates = 0
        self.values = {name: p.detach().clone() for name, p in self._parameters.items()}

    def update(self) -> None:
        """Take one step towards the present values."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.values.values()), [p.detach() for p in self._parameters.values()], 1.0 - decay)

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` takes."""
        return {'updates': self.updates, 'values': self.values}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        :raises TrainingError: It is of other parameters.
        """
        if set(state['values']) != set(self.values):
            raise TrainingError('snapshot: its averaged weights are of another model')
        self.updates = int(state['updates'])
        for name, value in state['values'].items():
            self.values[name].copy_(value)
