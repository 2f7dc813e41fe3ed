"""Memory that CUDA graphs share, alive as long as its owner wants it.

PyTorch counts the graphs of a pool and gives it up with the last one; what those graphs had put out may
still lie in it, and the next capture into the same pool then fails with ``use_count > 0 INTERNAL ASSERT``
(CUDACachingAllocator, ``ensure_exists_and_incref_pool``). An empty graph that is never replayed keeps the
count above zero: the same remedy as ``torch._inductor.cudagraph_trees`` has.

cuBLAS keeps a workspace (32 MiB on Hopper) for every stream that it was ever called on. So everything is
rehearsed and recorded on one stream of the pool: with a new one for each graph, every new instruction cost
40 MB that never came back.
"""

from typing import Any
import warnings

from cosmos3_ros.resources import require

torch = require('torch', 'model')


class GraphPool:
    """A pool on one device; without CUDA there is none, and its handle is None.

    :param device: ``cpu`` or ``cuda[:n]``.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._handle: Any = None
        self._anchor: Any = None
        self._stream: Any = None

    @property
    def stream(self) -> Any:
        """The CUDA stream on which graphs of this pool are rehearsed and recorded; made at the first call."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        return self._stream

    @property
    def handle(self) -> Any:
        """What ``torch.cuda.graph`` takes as its pool; made at the first call."""
        if self._device.startswith('cuda') and self._anchor is None:
            self._handle = torch.cuda.graph_pool_handle()
            self._anchor = torch.cuda.CUDAGraph()
            with warnings.catch_warnings(), torch.cuda.device(self._device), torch.cuda.graph(
                    self._anchor, pool=self._handle, stream=self.stream, capture_error_mode='thread_local'):
                warnings.simplefilter('ignore')  # an empty graph is what is wanted
        return self._handle
