"""Cross-attention and a layout: the energy of attention that strays, and the steering of attention itself."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor


def attention_probabilities(
    q: Tensor, k: Tensor, heads: int, columns: Sequence[int], bias: Tensor | None = None
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
    q: Tensor, k: Tensor, heads: int, columns: Sequence[int], height: int, width: int, bias: Tensor | None = None
) -> Tensor:
    """`attention_probabilities` as maps (B, P, h, w) of N = h*w cells, averaged over all heads.

    The reference implementation reads only half of the heads: it takes the second half of a batch that holds the
    conditional branch alone.
    """
    probabilities = attention_probabilities(q, k, heads, columns, bias).mean(dim=1)
    return probabilities.unflatten(-1, (height, width))


def layout_energy(maps: Sequence[Tensor], owners: Sequence[int], cells: Sequence[Tensor]) -> Tensor:
    """Attention that strays outside its subject's region (Zhang et al. 2024, spatial inversion).

    E = mean_i mean_{p in P_i} mean_A (1 - sum_{R_i} A_p / sum A_p)^2

    Args:
        maps: for each used block, (B, P, h, w).
        owners: P indices of subjects: whose token each column is.
        cells: for each used block, (S, h, w) in 0..1: the subjects' regions.

    Returns:
        (B,), each in [0, 1]: 0 when every subject keeps to its region, 1 when none enters it.
    """
    strays: list[Tensor] = []
    for attention, regions in zip(maps, cells, strict=True):
        inside = (attention * regions.to(attention)[list(owners)]).sum(dim=(-2, -1))
        total = attention.sum(dim=(-2, -1)).clamp_min(1e-8)
        strays.append((1 - inside / total).square())
    of_columns = torch.stack(strays).mean(dim=0)  # (B, P)
    tokens = [[i for i, owner in enumerate(owners) if owner == subject] for subject in range(max(owners) + 1)]
    of_subjects = [of_columns[:, own].mean(dim=1) for own in tokens]
    return torch.stack(of_subjects).mean(dim=0)


def resized_mean(maps: Sequence[Tensor], height: int, width: int) -> Tensor:
    """The mean of maps (B, P, h, w) of several sizes: (B, P, height, width)."""
    sized = [torch.nn.functional.interpolate(m.float(), size=(height, width), mode="bilinear") for m in maps]
    return torch.stack(sized).mean(dim=0)


VAGUE = 0.15  # of its mean, how much a map of a thing that is somewhere at least varies
BACKGROUND = 0.1  # what counts of it; none at all would leave what surrounds the thing to chance


def foreground_weights(maps: Tensor) -> Tensor | None:
    """What of a picture is the thing that its attention maps (N, h, w) are of; non-negative.

    Between the least and the greatest attention, the lowest quarter is background, the upper half is the thing.

    Returns:
        (N, h, w) in BACKGROUND..1, or None where most maps hardly vary.
    """
    means = maps.mean(dim=(1, 2))
    if (maps.std(dim=(1, 2)) / means.clamp_min(1e-8)).median() < VAGUE:
        return None
    least, most = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    height = (maps - least) / (most - least).clamp_min(1e-8)
    return BACKGROUND + (1 - BACKGROUND) * ((height - 0.25) / 0.25).clamp(0, 1)


def steering_bias(cells: Tensor, columns: Sequence[Sequence[int]], length: int, strength: float) -> Tensor:
    """What steering adds to the logits of cross-attention: a subject's tokens gain inside its region and lose outside.

    Args:
        cells: (S, h, w) in 0..1: the subjects' regions.
        columns: each subject's token columns, of `length`.
        strength: in nats; all of it well inside a region, the same with the other sign well outside.

    Returns:
        (1, h*w, length); 0 for every other token.
    """
    bias = torch.zeros(1, cells[0].numel(), length, device=cells.device)
    for region, own in zip(cells, columns, strict=True):
        bias[:, :, list(own)] = strength * (2 * rearrange(region, "h w -> 1 (h w) 1") - 1)
    return bias


ROUNDS = 8


def balancing_bias(
    probabilities: Tensor, owners: Sequence[int], columns: Sequence[int], length: int, strength: float
) -> Tensor:
    """What balance adds to the logits of cross-attention: who has less than the others gains, who has more loses.

    Args:
        probabilities: (B, heads, P, N), how strongly each cell attends to each of P columns.
        owners: P indices of subjects: whose token each column is.
        columns: where these P tokens are, of `length`.
        strength: 0 adds nothing; 1 what makes the subjects' amounts over all heads and cells the same, in nats.

    Returns:
        (B, 1, length), the same for all cells of a picture; 0 for every other token.
    """
    whose = torch.nn.functional.one_hot(torch.tensor(owners), max(owners) + 1).to(probabilities)  # (P, S)
    own = torch.einsum("b a p n, p s -> b s a n", probabilities, whose)
    others = 1 - own.sum(dim=1, keepdim=True)
    gain = own.new_zeros(own.shape[:2])
    for _ in range(ROUNDS):  # what a token gains all others lose, so that one round would fall short
        weighed = own * gain.exp()[..., None, None]
        amounts = (weighed / (others + weighed.sum(dim=1, keepdim=True))).sum(dim=(2, 3)).clamp_min(1e-8).log()
        gain = gain + amounts.mean(dim=1, keepdim=True) - amounts
    bias = own.new_zeros(len(own), 1, length)
    bias[:, 0, list(columns)] = strength * gain @ whose.T
    return bias
