"""What a build is going to take, said before it begins."""

from dataclasses import dataclass

from .build import BuildRequest, cut_request
from .dimensions import Shapes
from .segments import Segment


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a build is going to take; see :func:`estimate`."""

    segments: tuple[Segment, ...]
    seconds: float
    peak_rss_bytes: int
    disk_bytes: int


def estimate(request: BuildRequest) -> Estimate:
    """Say what a build will take, without building.

    Rates are processor time and memory that the exact Nano shape took on two cores
    (``benchmarks/engine.md``), per byte of bfloat16 weights.
    """
    segments = tuple(s for tower in request.towers for s in cut_request(request, tower))
    weights, largest = sum(s.weight_bytes for s in segments), max(s.weight_bytes for s in segments)
    seconds = len(segments) * _SECONDS_PER_SEGMENT + weights * _SECONDS_PER_BYTE
    if request.with_vectors:
        # Every weight is multiplied once per token, in float32 and again in the precision.
        seconds += sum(s.weight_bytes * _tokens(s, request.shapes) * _SECONDS_PER_PRODUCT for s in segments)
    plans = int(weights * _PLAN_SHARE[request.precision])
    return Estimate(segments, seconds, int(_LIBRARIES_BYTES + largest * _COPIES), int(plans + 2 * largest))


def _tokens(segment: Segment, shapes: Shapes) -> int:
    """Return the tokens of a segment's stored vectors."""
    if segment.tower == 'vision':
        return shapes.max_frames * shapes.frame_grid[0] * shapes.frame_grid[1]
    return shapes.generated_tokens if segment.tower == 'generation' else 25


# Of a plan, in bfloat16 bytes: FP8 halves; e2m1 with a scale byte per 16 takes 4.5 of 16 bits.
_PLAN_SHARE = {'bf16': 1.0, 'fp8': 0.5, 'nvfp4': 4.5 / 16}
_SECONDS_PER_SEGMENT = 12.0
_SECONDS_PER_BYTE = 24e-9
_SECONDS_PER_PRODUCT = 8e-11
_LIBRARIES_BYTES = 1_200_000_000
_COPIES = 3.9
