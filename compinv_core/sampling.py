"""When and how a layout is applied while sampling: corrections of the latent before a denoising step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
GRADIENT_SCALE = 2.0**10  # a power of two, so exact in float32; without it half-precision models lose small gradients


@dataclass(frozen=True)
class Guidance:
    """How hard and how long attention is held to a layout. The defaults are the paper's.

    Attributes:
        strength: the step's factor s in z - sigma^2 s grad E; 0 switches guidance off.
        corrections: at most so many before one denoising step.
        until: the fraction of the noise schedule after which the latent is left alone (10 of 50 steps).
        threshold: an energy that is low enough.
    """

    strength: float = 30.0
    corrections: int = 5
    until: float = 0.2
    threshold: float = 0.2

    @property
    def idle(self) -> bool:
        return self.strength == 0 or self.corrections == 0 or self.until == 0

    def covers(self, sigma: float, sigmas: Tensor) -> bool:
        """Whether a noise level lies in the guided part of a schedule (n + 1 sigmas, falling)."""
        steps = len(sigmas) - 1
        last = max(0, min(steps - 1, round(self.until * steps) - 1))
        return sigma >= sigmas[last].item() * (1 - 1e-4)


def correct(latents: Tensor, sigma: float, energy: Energy, guidance: Guidance) -> tuple[Tensor, list[Tensor]]:
    """z <- z - sigma^2 s grad E(z), again while the energy is too high. Each picture of a batch stops on its own.

    Args:
        latents: (B, C, h, w) at noise level `sigma`.
        energy: latents -> (B,), differentiable.

    Returns:
        The corrected latents, and the energies (B,) that were met, the first before any correction.
    """
    met: list[Tensor] = []
    for _ in range(guidance.corrections):
        latents = latents.detach().requires_grad_(True)
        energies = energy(latents)
        met.append(energies.detach())
        high = energies.detach() > guidance.threshold
        if not high.any():
            break
        (gradient,) = torch.autograd.grad(energies.sum() * GRADIENT_SCALE, latents)
        step = sigma**2 * guidance.strength * gradient / GRADIENT_SCALE
        latents = torch.where(high[:, None, None, None], latents - step, latents)
    return latents.detach(), met
