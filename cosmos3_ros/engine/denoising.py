"""The generation tower as a chain of segments, whatever runs them."""

from collections.abc import Sequence
from typing import Any

from cosmos3_ros.model.patches import from_patches, to_patches
from cosmos3_ros.model.sequence_pack import SequencePack
from cosmos3_ros.resources import require

from .dimensions import Dimensions, Shapes
from .errors import EngineError
from .fidelity import Runner
from .graphs.blocks import rotary_table
from .modules import time_embedding
from .segments import Segment
from .vectors import Tensors, cast_inputs
from .weights import WeightSource

torch = require('torch', 'model')


class GenerationChain:
    """Segments of the generation tower.

    :param source: For the time embedder, which stays in float32 torch.
    :raises EngineError: The runners do not fit the segments.
    """

    def __init__(
        self, segments: Sequence[Segment], runners: Sequence[Runner], dimensions: Dimensions, shapes: Shapes,
        source: WeightSource, dtype: str = 'float32',
    ) -> None:
        if not segments or len(segments) != len(runners):
            raise EngineError(
                f'generation chain: {len(segments)} segments and {len(runners)} runners arrived')
        self._parts = list(zip(segments, runners, strict=True))
        self.dimensions, self.shapes, self._source, self._dtype = dimensions, shapes, source, dtype
        self._times: dict[float, Any] = {}

    def step(self, inputs: Tensors, keys: Any, values: Any) -> Tensors:
        """Return patch and action velocities.

        :param inputs: ``patches``, ``action``, ``cos`` and ``sin`` as the first segment takes them, and
            ``timestep``, a number.
        :param keys: Context of all layers, (layers, key/value heads, text, head width).
        """
        shared = dict(inputs)
        timestep = float(shared.pop('timestep'))
        if timestep not in self._times:
            self._times[timestep] = time_embedding(
                self.dimensions, self._source, timestep).to(keys.device)
        outputs: Tensors = {}
        for segment, runner in self._parts:
            layers = slice(segment.first, segment.last)
            given = shared | {
                'time': self._times[timestep], 'hidden': outputs.get('states'),
                'context_keys': keys[layers], 'context_values': values[layers]}
            outputs = runner.run(cast_inputs(segment, given, self._dtype))
        return outputs

    def branch(self, keys: Any, values: Any, latent_shape: tuple[int, int, int]) -> 'EngineBranch':
        """Return the chain over one context, as ``generator.denoise`` takes it.

        :param latent_shape: Frames, height and width of the latents.
        :raises EngineError: Latents or context of another shape than the plans were built for.
        """
        return self.branch_of(SequencePack(
            text_length=keys.shape[2], latent_shape=latent_shape, action_rows=self.shapes.action_rows,
            patch=self.dimensions.latent_patch, clean_rows=self.shapes.clean_rows), keys, values)

    def branch_of(self, pack: SequencePack, keys: Any, values: Any) -> 'EngineBranch':
        """Return the chain over one context and token sequence.

        :raises EngineError: They are of another shape than the plans were built for.
        """
        rows = (pack.action_rows, pack.clean_rows)
        if rows != (self.shapes.action_rows, self.shapes.clean_rows) or pack.clean_frames != 1:
            raise EngineError(
                f'actions: {rows[0]} rows with {rows[1]} given and {pack.clean_frames} given frames arrived, '
                f'the plans take {self.shapes.action_rows} with {self.shapes.clean_rows} given and 1 given '
                'frame; build with another --action-rows or --clean-rows')
        if pack.grid != self.shapes.latent_grid:
            raise EngineError(
                f'latents: a grid of {pack.grid} patches arrived, the plans take {self.shapes.latent_grid}; '
                'build with another --latent-grid')
        if pack.text_length > self.shapes.max_context:
            raise EngineError(
                f'context: {pack.text_length} tokens arrived, up to {self.shapes.max_context} are allowed; '
                'build with a larger --max-context')
        return EngineBranch(self, pack, keys, values)


class EngineBranch:
    """The network with one text; fits ``generator.denoise.Branch``."""

    def __init__(self, chain: GenerationChain, pack: SequencePack, keys: Any, values: Any) -> None:
        self._chain, self._pack, self._keys, self._values = chain, pack, keys, values
        self._table = rotary_table(chain.dimensions, pack.generated_positions.to(keys.device))

    def velocity(self, vision: Any, action: Any, timestep: int, *, want_video: bool) -> tuple[Any, Any]:
        """Return velocities of video (1, C, T, h, w) and actions (rows, width), float32, zero where clean."""
        channels = self._chain.shapes.action_channels
        cos, sin = self._table
        found = self._chain.step({
            'patches': to_patches(vision, self._pack), 'action': action[:, :channels], 'cos': cos, 'sin': sin,
            'timestep': timestep}, self._keys, self._values)
        v_action, v_vision = torch.zeros_like(action), torch.zeros_like(vision)
        v_action[self._pack.clean_rows:, :channels] = found['action_velocity']
        if want_video:
            v_vision[:, :, 1:] = from_patches(found['patch_velocity'], self._pack, vision.shape[1])
        return v_vision, v_action
