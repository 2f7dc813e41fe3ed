"""Work on a CPU recorded once and run again without the interpreter, as a CUDA graph is on a GPU.

A layer of a small model is some forty operations of a few microseconds. Between any two of them another
Python thread of the process may take the interpreter's lock, and where the machine is busy it keeps it for
milliseconds. Recorded work takes the lock once.

``torch.jit.trace`` is deprecated in the torch that we pin, but what is named in its place needs a C++
compiler on the robot. Where it is missing or fails, the same work runs operation by operation, with the same
bytes.
"""

from collections.abc import Callable
import logging
from typing import Any
import warnings

from cosmos3_ros.resources import require

logger = logging.getLogger(__name__)

Work = Callable[..., tuple[Any, ...]]


class HostTrace:
    """Runs ``work`` as it stands the first time, records it the second time, and then runs the record.

    So work that is done once costs no recording, and a policy's warm-up, which asks the same twice, holds the
    record to the work.

    :param work: From tensors to a tuple of tensors. No decision in it depends on their values; everything
        else that it reads is a constant; it writes only to what it made itself or was given.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._recorded: Work | None = None
        self._runs = 0

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        """Do the work.

        :param inputs: Tensors; each time of the same shapes.
        """
        self._runs += 1
        if self._runs == 1:
            return self._work(*inputs)
        if self._recorded is None:
            self._recorded = self._record(inputs)
        # As recorded, not as rewritten after some runs: the same inputs always give the same bytes.
        with require('torch', 'model').jit.optimized_execution(False):
            return self._recorded(*inputs)

    def _record(self, inputs: tuple[Any, ...]) -> Work:
        torch = require('torch', 'model')
        kept = [tensor.clone() for tensor in inputs]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # deprecation; sizes that are read on the way
                # A function: of a partial the recorder knows no name.
                recorded: Work = torch.jit.trace(lambda *given: self._work(*given), inputs, check_trace=False)
        except (AttributeError, RuntimeError) as error:
            logger.warning('nothing is recorded on this CPU, operations run one by one: %s', error)
            recorded = self._work
        # Recording did the work once: what it wrote to its inputs is undone.
        for tensor, before in zip(inputs, kept, strict=True):
            tensor.copy_(before)
        return recorded
