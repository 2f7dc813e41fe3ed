"""Adapters back into the matrices that they adapt, so that a checkpoint needs no peft to be read."""

from collections.abc import Mapping
import re
from typing import Any

_ADAPTER = re.compile(r'^(?P<layer>.*)\.lora_(?P<side>[AB])\.(?P<name>[^.]+)\.weight$')


def merged_tensors(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return trained values by their names in the checkpoint's files.

    Without adapters these are the values themselves. With them, each adapted matrix becomes
    ``W + alpha / rank * B A`` (Hu et al. 2021), computed in float32.

    :param model: The transformer that was trained.
    :param values: Trained values by the module's parameter names.
    """
    plain = {name: value for name, value in values.items() if 'lora_' not in name}
    sides: dict[str, dict[str, Any]] = {}
    adapter = ''
    for name, value in values.items():
        match = _ADAPTER.match(name)
        if match:
            sides.setdefault(match['layer'], {})[match['side']] = value
            adapter = match['name']
    for layer, both in sides.items():
        module = model.get_submodule(layer)
        change = module.scaling[adapter] * (both['B'].float() @ both['A'].float())
        plain[f'{layer}.weight'] = module.base_layer.weight.detach().float() + change
    # peft moves what it adapts one level down.
    return {name.replace('.base_layer.', '.'): value for name, value in plain.items()}
