"""Work recorded once and replayed: a CUDA graph whose inputs and outputs stay where they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ..resources import require

REHEARSALS = 2
"""Runs before the recording: the first compiles kernels and makes the libraries' workspaces."""


@contextmanager
def inference_on(device: Any) -> Iterator[None]:
    """Compute without gradients, on CUDA with ``device`` as the current one of this thread.

    Triton's kernels, graphs and events go to the current device, whatever their tensors lie on.
    """
    torch = require('torch', 'model')
    with torch.inference_mode(), torch.cuda.device(device) if device.type == 'cuda' else nullcontext():
        yield


class DeviceGraph:
    """Records ``work`` on the current CUDA device.

    :param work: Reads and writes only tensors that live as long as the graph, never asks the device.
    :param pool: Memory for what it needs in between, shared by graphs that never run at the same time.
    """

    def __init__(self, work: Callable[[], None], pool: Any) -> None:
        torch = require('torch', 'model')
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(REHEARSALS):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            work()

    def replay(self) -> None:
        """Do the work again, with what the input tensors hold now."""
        self._graph.replay()


class TokenMail:
    """Tokens on their way from the device to the host, which looks at them later.

    :param most: Tokens of one answer.
    """

    def __init__(self, most: int) -> None:
        torch = require('torch', 'model')
        self._seen = torch.empty(most, dtype=torch.long, pin_memory=True)
        self._ready: list[Any] = []

    def send(self, index: int, token: Any) -> None:
        """Let token ``index`` (1,) leave the device when it is computed; tokens are sent in order."""
        self._seen[index:index + 1].copy_(token, non_blocking=True)
        self._ready.append(require('torch', 'model').cuda.Event())
        self._ready[-1].record()

    def receive(self, index: int) -> int:
        """Wait for token ``index``."""
        self._ready[index].synchronize()
        return int(self._seen[index])
