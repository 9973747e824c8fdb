"""Cross-attention as maps of the canvas: how strongly each cell attends to chosen tokens."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor


def attention_probabilities(
    q: Tensor, k: Tensor, heads: int, columns: Sequence[int], *, bias: Tensor | None = None
) -> Tensor:
    """Cross-attention probabilities of chosen tokens.

    Args:
        q: (B, N, heads*d).
        k: (B, L, heads*d), of one prompt. ComfyUI repeats prompts of unequal length; one copy tells all.
        columns: P token columns.
        bias: (B, N, L) or of size 1 along the first two, added to the logits of every head.

    Returns:
        (B, heads, P, N), non-negative; over all L tokens a cell's values sum to 1.
    """
    q = rearrange(q, "b n (a d) -> b a n d", a=heads)
    k = rearrange(k, "b l (a d) -> b a l d", a=heads)
    scores = torch.einsum("band,bald->banl", q.float(), k.float()) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias[:, None]
    return scores.softmax(dim=-1)[..., list(columns)].transpose(-1, -2)


def attention_maps(
    q: Tensor, k: Tensor, heads: int, columns: Sequence[int], *, height: int, width: int, bias: Tensor | None = None
) -> Tensor:
    """`attention_probabilities` as maps (B, P, h, w) of N = h*w cells, averaged over all heads.

    The reference implementation reads only half of the heads: it takes the second half of a batch that holds the
    conditional branch alone.
    """
    probabilities = attention_probabilities(q, k, heads, columns, bias=bias).mean(dim=1)
    return probabilities.unflatten(-1, (height, width))


MIN_VARIATION = 0.15  # standard deviation over mean of the map of a thing that is somewhere; under it, it is everywhere
BACKGROUND = 0.1  # the weight of background cells; none at all would leave what surrounds the thing to chance


def foreground_weights(maps: Tensor) -> Tensor | None:
    """What of an image is the thing that its attention maps (N, h, w) are of; non-negative.

    Between the least and the greatest attention, the lowest quarter is background, the upper half is the thing.

    Returns:
        (N, h, w) in BACKGROUND..1, or None where most maps hardly vary.
    """
    means = maps.mean(dim=(1, 2))
    if (maps.std(dim=(1, 2)) / means.clamp_min(1e-8)).median() < MIN_VARIATION:
        return None
    least, most = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    height = (maps - least) / (most - least).clamp_min(1e-8)
    return BACKGROUND + (1 - BACKGROUND) * ((height - 0.25) / 0.25).clamp(0, 1)


def resized_mean(maps: Sequence[Tensor], height: int, width: int) -> Tensor:
    """The mean of maps (B, P, h, w) of several sizes: (B, P, height, width)."""
    sized = [torch.nn.functional.interpolate(m.float(), size=(height, width), mode="bilinear") for m in maps]
    return torch.stack(sized).mean(dim=0)
