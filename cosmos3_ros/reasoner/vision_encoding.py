"""From a prompt to what the language model starts with: embeddings, positions, deepstack features."""

from dataclasses import dataclass
from typing import Any

from ..resources import require
from .efficient_video_sampling import retention_mask
from .video_prompt import VideoPrompt


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """A prompt whose videos went through the vision tower; all on the model's device.

    :param input_ids: (1, N).
    :param positions: (3, 1, N), rotary positions in time, height and width.
    :param visual: (1, N) boolean, true where a vision token stands.
    :param vision: The vision tower's output as transformers carries it: ``pooler_output`` one tensor
        per clip, ``deepstack_features`` per level one tensor per clip, pruned like the ids.
    """

    input_ids: Any
    positions: Any
    visual: Any
    vision: Any


def encode_prompt(model: Any, prompt: VideoPrompt, rate: float) -> EncodedPrompt:
    """Run the vision tower and drop the tokens that Efficient Video Sampling drops.

    The vision tower sees everything; the language model gets what stays, at its original positions,
    and text continues after the full grid.

    :param model: ``Cosmos3OmniForConditionalGeneration``.
    :param rate: Pruning rate; 0 keeps everything.
    """
    torch = require('torch', 'model')
    device = model.device
    ids, types = prompt.input_ids.to(device), prompt.mm_token_type_ids.to(device)
    grid = prompt.video_grid_thw.to(device)
    pixels = prompt.pixel_values_videos.to(device, model.dtype)
    vision = model.model.get_video_features(pixels, grid, return_dict=True)
    positions, _ = model.model.get_rope_index(ids, types, video_grid_thw=grid)
    visual = types != 0
    if rate:
        masks = [
            retention_mask(embeddings, patches, rate)
            for embeddings, patches in zip(
                vision.pooler_output, prompt.video_grid_thw[:, 0].tolist(), strict=True)]
        stays = ~visual[0]
        stays[visual[0]] = torch.cat(masks)
        vision.pooler_output = tuple(e[m] for e, m in zip(vision.pooler_output, masks, strict=True))
        if getattr(vision, 'deepstack_features', None) is not None:  # Cosmos3-Edge has none
            vision.deepstack_features = [
                tuple(f[m] for f, m in zip(level, masks, strict=True)) for level in vision.deepstack_features]
        ids, positions, visual = ids[:, stays], positions[:, :, stays], visual[:, stays]
    return EncodedPrompt(ids, positions, visual, vision)
