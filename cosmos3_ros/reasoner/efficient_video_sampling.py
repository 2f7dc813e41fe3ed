"""Efficient Video Sampling: drop vision tokens that look like their predecessor in time.

Source: facts on vLLM ``multimodal/evs.py`` and ``models/qwen3_vl.py``. With embeddings E[t, p] of T
temporal patches with n tokens each and pruning rate q:

1. d[t, p] = 1 - cos(E[t, p], E[t-1, p]) for t >= 1 and d[0, p] = 255, so the first patch always stays;
2. K = max(n, floor(T * n * (1 - q))) tokens stay;
3. the K largest d, equal ones in order of (t, p), found by a stable descending sort.

What stays keeps its original position, so the language model still sees where and when it was.
"""

from typing import Any

from ..contracts import ContractError
from ..resources import require

FIRST_PATCH_DISTANCE = 255.0


def check_rate(rate: float) -> float:
    """Return ``rate`` if it is a pruning rate.

    :raises ContractError: Not in 0 <= rate < 1.
    """
    if not 0.0 <= rate < 1.0:
        raise ContractError(f'video_pruning_rate: {rate} arrived, 0 (off) to below 1 is allowed')
    return rate


def kept_tokens(patches: int, tokens_per_patch: int, rate: float) -> int:
    """Return K, the number of vision tokens that stay."""
    return max(tokens_per_patch, int(patches * tokens_per_patch * (1.0 - rate)))


def retention_mask(embeddings: Any, patches: int, rate: float) -> Any:
    """Return which vision tokens of one video stay.

    Runs where the embeddings are, without waiting for the device.

    :param embeddings: Tensor (T * n, C), merged vision embeddings in order time, height, width.
    :param patches: T, temporal patches.
    :param rate: q, 0 keeps everything.
    :returns: Boolean tensor (T * n,) with exactly K true.
    :raises ContractError: The embeddings cannot be split into ``patches``, or a wrong rate.
    """
    torch = require('torch', 'model')
    check_rate(rate)
    total = int(embeddings.shape[0])
    if patches < 1 or total == 0 or total % patches:
        raise ContractError(f'embeddings: {total} tokens arrived, a multiple of {patches} patches is allowed')
    tokens = total // patches
    # Half precision would make neighbours equal that are not.
    grid = embeddings.float().view(patches, tokens, -1)
    distance = torch.full((patches, tokens), FIRST_PATCH_DISTANCE, dtype=torch.float32, device=grid.device)
    distance[1:] = 1.0 - torch.nn.functional.cosine_similarity(grid[1:], grid[:-1], dim=-1)
    order = torch.argsort(distance.flatten(), descending=True, stable=True)
    mask = torch.zeros(total, dtype=torch.bool, device=grid.device)
    # Not by assignment: that would copy a number from the host, which no CUDA graph may do.
    return mask.index_fill_(0, order[:kept_tokens(patches, tokens, rate)], True)
