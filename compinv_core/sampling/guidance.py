"""Guidance: the latent is corrected towards a layout before a denoising step, along the gradient of an energy."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
"""Latents (B, C, h, w) -> (B,), how far each image's attention strays from its layout; differentiable."""

GRADIENT_SCALE = 2.0**10  # a power of two, so exact in float32; without it half-precision models lose small gradients


@dataclass(frozen=True)
class Guidance:
    """How hard and how long the latent is corrected towards a layout. The defaults are the paper's.

    Attributes:
        strength: the step's factor s in z - sigma^2 s grad E; 0 switches guidance off.
        corrections: at most so many before one denoising step.
        until: the fraction of the noise schedule after which the latent is left alone (10 of 50 steps).
        threshold: an energy that is low enough: from there on an image is left alone.
    """

    strength: float = 30.0
    corrections: int = 5
    until: float = 0.2
    threshold: float = 0.2

    @property
    def is_off(self) -> bool:
        return self.strength == 0 or self.corrections == 0 or self.until == 0

    def is_active(self, progress: float, steps: int) -> bool:
        """Whether the latent is corrected when a fraction of a schedule of so many steps lies behind."""
        return round(progress * steps) < max(1, round(self.until * steps))


def correct(
    latents: Tensor, sigma: float, energy: Energy, guidance: Guidance, *, settled: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """z <- z - sigma^2 s grad E(z), again while the energy is too high. Each image of a batch stops on its own.

    Args:
        latents: (B, C, h, w) at noise level `sigma`.
        energy: latents -> (B,), differentiable.
        settled: (B,), images that are left alone.

    Returns:
        The corrected latents, and the energies (B,) that were met, the first before any correction.
    """
    met: list[Tensor] = []
    for _ in range(guidance.corrections):
        latents = latents.detach().requires_grad_(True)
        energies = energy(latents)
        met.append(energies.detach())
        high = energies.detach() > guidance.threshold
        if settled is not None:
            high &= ~settled
        if not high.any():
            break
        (gradient,) = torch.autograd.grad(energies.sum() * GRADIENT_SCALE, latents)
        step = sigma**2 * guidance.strength * gradient / GRADIENT_SCALE
        latents = torch.where(high[:, None, None, None], latents - step, latents)
    return latents.detach(), met
