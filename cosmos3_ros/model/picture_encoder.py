"""Composed picture to clean latent on the device: canvas, scaling and VAE, recorded as one piece of work."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.resources import require

from .host_trace import HostTrace
from .observation_encoder import ObservationEncoder

torch = require('torch', 'model')

# Each byte's value in -1..1, divided in float32 on the host: devices divide by multiplying, and differ.
BYTE_VALUES: NDArray[np.float32] = (
    np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1.0))


class PictureEncoder:
    """Encodes pictures of one size.

    :param encoder: Encodes first frames.
    :param picture_size: Height and width in pixels.
    :param canvas_size: What the VAE sees: the picture at the top left, mirrored beyond its edges, or its
        edge repeated where the rest is as large as the picture.
    :param latent_size: Rows and columns of latents to keep.
    :param pool: Memory (``handle``) and ``stream`` of CUDA graphs, shared with those that run after the
        encoder; needed on CUDA only.
    """

    def __init__(
        self, encoder: ObservationEncoder, picture_size: tuple[int, int], canvas_size: tuple[int, int],
        latent_size: tuple[int, int], pool: Any = None,
    ) -> None:
        self._encoder, self._latent_size = encoder, latent_size
        device = encoder.device
        rest = [canvas - size for canvas, size in zip(canvas_size, picture_size, strict=True)]
        mode = 'reflect' if all(r < s for r, s in zip(rest, picture_size, strict=True)) else 'edge'
        self._places = [
            torch.from_numpy(np.pad(np.arange(size), (0, more), mode=mode)).to(device)  # type: ignore[call-overload]
            for size, more in zip(picture_size, rest, strict=True)]
        self._values = torch.from_numpy(BYTE_VALUES).to(device)
        self._picture = torch.zeros((*picture_size, 3), dtype=torch.uint8, device=device)
        self._staging = torch.zeros(
            (*picture_size, 3), dtype=torch.uint8, pin_memory=device.type == 'cuda')
        self._pool = pool
        self._result: Any = None
        self._graph: Any = None
        self._trace: HostTrace | None = None

    def encode(self, picture: NDArray[np.uint8]) -> Any:
        """Return float32 latents (1, 48, 1, rows, columns), overwritten by the next request on CUDA.

        :param picture: uint8 (height, width, 3) RGB.
        """
        with torch.no_grad():
            self._staging.numpy()[:] = picture
            self._picture.copy_(self._staging, non_blocking=True)
            if self._encoder.device.type != 'cuda':
                self._trace = self._trace or HostTrace(lambda picture: (self._run(picture),))
                return self._trace.run(self._picture)[0]
            if self._graph is None:
                self._capture()
            self._graph.replay()
        return self._result

    def canvas(self) -> Any:
        """Return the VAE's input of the picture in place, float32 (3, canvas height, canvas width)."""
        return self._canvas(self._picture)

    def _canvas(self, picture: Any) -> Any:
        rows, columns = self._places
        placed = picture.index_select(0, rows).index_select(1, columns)
        return self._values[placed.permute(2, 0, 1).long()]

    def _run(self, picture: Any) -> Any:
        rows, columns = self._latent_size
        return self._encoder.encode_frame(self._canvas(picture))[..., :rows, :columns].contiguous()

    def _capture(self) -> None:
        handle, stream = self._pool.handle, self._pool.stream
        stream.wait_stream(torch.cuda.current_stream(self._encoder.device))
        with torch.cuda.stream(stream):
            self._run(self._picture)  # lets cuDNN choose its algorithms
        torch.cuda.current_stream(self._encoder.device).wait_stream(stream)
        torch.cuda.synchronize(self._encoder.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=handle, stream=stream):
            self._result = self._run(self._picture)
        self._graph = graph
        torch.cuda.empty_cache()
