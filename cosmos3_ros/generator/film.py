"""An imagined video, and its file."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosmos3_ros.contracts import ModelIdentity, frozen_array
from cosmos3_ros.resources import require


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """What a model says that cameras would see.

    :param stamp_ns: Of the observation, frame 0.
    :param step_ns: Nanoseconds between frames.
    :param frames: uint8 RGB (T, H, W, 3), the composed view of all cameras; frame 0 is the observation as
        the VAE gives it back.
    :param trace_id: Of the chunk that was imagined.
    """

    stamp_ns: int
    step_ns: int
    frames: NDArray[np.uint8]
    instruction: str
    identity: ModelIdentity
    trace_id: str
    latency_s: float

    def __post_init__(self) -> None:
        """Check the shape, freeze the frames."""
        object.__setattr__(
            self, 'frames', frozen_array('frames', self.frames, shape=(None, None, None, 3), dtype=np.uint8))

    def write(self, path: Path) -> None:
        """Write an H.264 MP4 at the film's own rate.

        :raises MissingDependencyError: The extra ``record`` is not installed.
        """
        av = require('av', 'record')
        path.parent.mkdir(parents=True, exist_ok=True)
        _, height, width, _ = self.frames.shape
        with av.open(str(path), 'w') as container:
            rate = Fraction(1_000_000_000, self.step_ns).limit_denominator(1001)
            stream = container.add_stream('libx264', rate=rate)
            # The codec takes even sizes only; views are multiples of 16.
            stream.width, stream.height, stream.pix_fmt = width - width % 2, height - height % 2, 'yuv420p'
            stream.options = {'crf': '18', 'preset': 'veryfast'}
            for frame in self.frames:
                picture = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(frame[:height - height % 2, :width - width % 2]), format='rgb24')
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
