"""The reasoner's language model as the generator's understanding tower: one resident copy serves both.

The two are the same weights under two names (``_checkpoint_conversion_mapping`` of transformers'
``cosmos3_omni``), so the contexts that the generator needs can be computed here, without 13.9 GB more.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..model.checkpoint import CheckpointError
from ..resources import require

_LAYER_NAMES = {
    'self_attn.to_q': 'self_attn.q_proj', 'self_attn.to_k': 'self_attn.k_proj',
    'self_attn.to_v': 'self_attn.v_proj', 'self_attn.to_out': 'self_attn.o_proj',
    'self_attn.norm_q': 'self_attn.q_norm', 'self_attn.norm_k': 'self_attn.k_norm'}


class ResidentWeights:
    """The understanding tower's weights as a loaded reasoner holds them (a ``WeightSource``).

    :param model: ``Cosmos3OmniForConditionalGeneration``; its matrices are read in place.
    :param config: Content of the checkpoint's ``transformer/config.json``.
    :raises CheckpointError: The two differ in shape.
    """

    def __init__(self, model: Any, config: Mapping[str, Any]) -> None:
        self.config = config
        self._language = model.model.language_model
        text = model.config.text_config
        found = (text.num_hidden_layers, text.hidden_size, text.num_attention_heads, text.num_key_value_heads)
        wanted = tuple(config.get(name, nano) for name, nano in (
            ('num_hidden_layers', 36), ('hidden_size', 4096), ('num_attention_heads', 32),
            ('num_key_value_heads', 8)))
        if found != wanted:
            raise CheckpointError(
                f'reasoner: layers, width and heads {found} are resident, the generator needs {wanted}')

    def get(self, name: str) -> Any:
        """Return a tensor by its name in ``diffusers.Cosmos3OmniTransformer``.

        :raises CheckpointError: There is none, or eight-bit weights have replaced it.
        """
        parts = name.split('.')
        try:
            if parts[0] == 'layers':
                inner = '.'.join(parts[2:-1])
                owner = self._language.layers[int(parts[1])].get_submodule(_LAYER_NAMES.get(inner, inner))
            else:
                owner = self._language.get_submodule('.'.join(parts[:-1]))
            tensor = getattr(owner, parts[-1])
        except (AttributeError, IndexError, ValueError) as error:
            raise CheckpointError(f'reasoner: it holds no tensor {name}') from error
        if tensor.numel() == 0:
            raise CheckpointError(
                f'reasoner: {name} was replaced by eight bits, contexts need weights: dtype')
        return tensor

    def rows(self, name: str, indices: Sequence[int]) -> Any:
        """Return rows of a matrix."""
        torch, table = require('torch', 'model'), self.get(name)
        return table[torch.as_tensor(list(indices), dtype=torch.int64, device=table.device)]
