"""Weights that ModelOpt quantised to float8, as the ``fp8`` revisions of NVIDIA's checkpoints carry them.

Beside a float8_e4m3fn ``*.weight`` lies its ``*.weight_scale`` (largest magnitude / 448, one for the matrix
or one per output) and an ``*.input_scale`` for static quantisation of what it multiplies (facts sheet 7).
The weight is taken as it is, never quantised a second time: fused matrices keep each part's own scale in
their rows. The input scale is not used: inputs are quantised row by row on the fly, which is at least as
fine.
"""

from collections.abc import Mapping, Sequence
import re
from typing import Any

from cosmos3_ros.resources import require

from .checkpoint import Checkpoint, CheckpointError
from .weight_source import CheckpointWeights, WeightSource

torch = require('torch', 'model')

# ``add_*`` and ``to_add_out`` read and write generated tokens, ``to_*`` the text's: the attention processor
# of diffusers 0.42.1 uses them so, although its ``_classify_cosmos3_linear`` has the two the wrong way round.
_GENERATION = re.compile(r'\.self_attn\.(add_[qkv]_proj|to_add_out)(\.|$)|\.mlp_moe_gen\.')
_UNDERSTANDING = re.compile(r'\.self_attn\.to_(q|k|v|out)(\.|$)|\.mlp\.')


def tower_of(name: str) -> str | None:
    """Return which tower a matrix belongs to: ``generation``, ``understanding``, or None for neither.

    :param name: Of a module or tensor of ``Cosmos3OmniTransformer``, e.g. ``layers.0.self_attn.to_q``.
    """
    if _GENERATION.search(name):
        return 'generation'
    return 'understanding' if _UNDERSTANDING.search(name) else None


class ModelOptWeights:
    """Fits :class:`WeightSource`; :meth:`quantised` gives float8 matrices as they lie in the file.

    :param source: Where the tensors lie.
    """

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self.config: Mapping[str, Any] = source.config

    def get(self, name: str) -> Any:
        """Return a tensor, float8 ones multiplied out to bfloat16."""
        found = self.quantised(name)
        if found is None:
            return self._source.get(name)
        weight, scale = found
        return (weight.float() * scale).to(torch.bfloat16)

    def rows(self, name: str, indices: Sequence[int]) -> Any:
        """See :meth:`WeightSource.rows`; tables are not quantised.

        :raises CheckpointError: This one is.
        """
        rows = self._source.rows(name, indices)
        if rows.dtype == torch.float8_e4m3fn:
            raise CheckpointError(f'checkpoint: its table {name} is float8; embeddings and heads must not be')
        return rows

    def quantised(self, name: str) -> tuple[Any, Any] | None:
        """Return a float8 matrix (outputs, inputs) and its float32 scales (outputs, 1), or None.

        :raises CheckpointError: A float8 matrix without a usable scale.
        """
        weight = self._source.get(name)
        if weight.dtype != torch.float8_e4m3fn:
            return None
        scale = self._source.get(f'{name}_scale').float().reshape(-1, 1)
        outputs = weight.shape[0]
        if scale.shape[0] not in (1, outputs) or not bool((torch.isfinite(scale) & (scale > 0.0)).all()):
            raise CheckpointError(
                f'checkpoint: {name}_scale has {scale.shape[0]} values, the smallest '
                f'{float(scale.min()):.3g}; 1 or {outputs} positive ones are needed')
        return weight, scale.expand(outputs, 1)


def open_weights(checkpoint: Checkpoint) -> WeightSource:
    """Return a checkpoint's weights, whoever quantised them.

    :raises CheckpointError: They cannot be read, or are quantised in a way that is not known.
    """
    weights = CheckpointWeights(checkpoint)
    quantisation = weights.config.get('quantization_config')
    if quantisation is None:
        return weights
    method = quantisation.get('quant_method') if isinstance(quantisation, Mapping) else quantisation
    if method != 'modelopt':
        raise CheckpointError(
            f'checkpoint {checkpoint.name}: its transformer is quantised by {method!r}, modelopt is known')
    return ModelOptWeights(weights)
