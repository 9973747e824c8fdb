"""What a step minimises: the diffusion loss of textual inversion and the anchor loss of compositional inversion."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..backbone import Encoded, NoiseSchedule, Predictor

NoiseLevels = Literal["even", "high", "low"]
Prompts = Encoded | Callable[[Tensor], Encoded]


def diffusion_loss(
    predict: Predictor,
    schedule: NoiseSchedule,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    prompts: Encoded,
    mask: Tensor | None = None,
    teacher: Encoded | None = None,
) -> Tensor:
    """Mean squared error of each prediction (B,), the loss of textual inversion (Gal et al. 2022, eq. 2).

    Args:
        latents, noise: (B, C, h, w).
        timesteps: (B,), indices into the schedule.
        prompts: B of them.
        teacher: B prompts whose predictions are wanted in place of the truth.
        mask: (B, 1, h, w) in 0..1; where it is 0 nothing is learnt. The error is masked before it is averaged over what
            is left of its picture; the reference implementation averages first, and its mask has no effect.
    """
    noisy = schedule.noisy(latents, noise, timesteps)
    if teacher is None:
        wanted = schedule.target(latents, noise, timesteps)
    else:
        with torch.no_grad():
            wanted = predict(noisy, timesteps, teacher).float()
    error = (predict(noisy, timesteps, prompts).float() - wanted).square()
    if mask is None:
        return error.mean(dim=(1, 2, 3))
    mask = mask.expand_as(error)
    return (error * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp_min(1e-8)


def timesteps_at(shares: Tensor, count: int, levels: NoiseLevels) -> Tensor:
    """The timesteps, of `count`, below which shares (B,) in 0..1 of the training lie.

    Noise levels are trained alike, or more often the higher (or lower) they are, by 1 -+ cos(pi t): what and where
    things are is decided at high noise, their texture at low (the form is ReVersion's, Huang et al. 2023).
    """
    middles = (torch.arange(count) + 0.5) / count
    tilt = {"even": 0.0, "high": -1.0, "low": 1.0}[levels]
    below = (1 + tilt * torch.cos(torch.pi * middles)).cumsum(0) / count
    return torch.searchsorted(below, shares).clamp_max(count - 1)


@torch.no_grad()
def sample(
    predict: Predictor, schedule: NoiseSchedule, noise: Tensor, prompts: Prompts, empty: Encoded, steps: int, cfg: float
) -> Tensor:
    """A quick look at what prompts give: deterministic DDIM (Song et al. 2021), (B, C, h, w) from noise of that shape.

    Args:
        prompts: B of them, or what gives them at timesteps (B,).
    """
    latents = noise
    grid = torch.linspace(len(schedule.alphas_cumprod) - 1, 0, steps + 1).long().to(noise.device)
    count = len(noise)
    for now, after in pairwise(grid):
        here, there = now.repeat(count), after.repeat(count)
        read = prompts if isinstance(prompts, Encoded) else prompts(here)
        both = predict(latents.repeat(2, 1, 1, 1), here.repeat(2), read.with_others(empty)).float()
        conditional, unconditional = both.chunk(2)
        output = unconditional + cfg * (conditional - unconditional)
        latents = schedule.noisy(*schedule.clean(latents, output, here), there)
    return latents
