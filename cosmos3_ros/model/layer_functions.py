"""Which functions compute a layer of the generation tower, by device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .generation_tower import finish_layer, place_heads, project


@dataclass(frozen=True, slots=True, eq=False)
class LayerFunctions:
    """A layer up to its first matrix, from there to its attention, and after it."""

    project: Callable[..., Any]
    place: Callable[..., Any]
    finish: Callable[..., Any]

    @classmethod
    def of(cls, device: Any) -> 'LayerFunctions':
        """Return functions for a device: with kernels of their own on CUDA, plain elsewhere."""
        if device.type != 'cuda':
            return cls(project, place_heads, finish_layer)
        from . import device_layers, head_kernel  # Triton comes with CUDA's torch only

        return cls(device_layers.project, head_kernel.place_heads, device_layers.finish_layer)
