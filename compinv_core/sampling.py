"""When and how a layout is applied while sampling: attention is steered, and the latent corrected before a denoising step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
GRADIENT_SCALE = 2.0**10  # a power of two, so exact in float32; without it half-precision models lose small gradients


def passed(sigma: float, sigmas: Tensor) -> float:
    """The fraction of a schedule's steps that lies behind at a noise level.

    A sampler may ask between two levels, more than once a step, or for the same level again: nothing is counted.

    Args:
        sigmas: n + 1, falling.
    """
    steps = len(sigmas) - 1
    behind = int((sigmas[1:] >= sigma * (1 - 1e-4)).sum())
    return behind / max(1, steps)


@dataclass(frozen=True)
class Fading:
    """Something that works from the start of the noise schedule and falls to 0 in a straight line.

    Attributes:
        strength: at the start; 0 switches it off.
        until: the fraction of the schedule along which it falls.
    """

    strength: float
    until: float = 1.0

    @property
    def idle(self) -> bool:
        return self.strength == 0 or self.until == 0

    def at(self, sigma: float, sigmas: Tensor) -> float:
        """What is left of the strength at a noise level of a schedule (n + 1 sigmas, falling)."""
        if self.until == 0:
            return 0.0
        return self.strength * max(0.0, 1 - passed(sigma, sigmas) / self.until)


@dataclass(frozen=True)
class Steering(Fading):
    """How strongly attention is turned to a layout, in nats.

    For the softmax, a subject's tokens weigh e^strength times as much inside its region, and as much less outside.
    """

    strength: float = 6.0


@dataclass(frozen=True)
class Balance(Fading):
    """How far the subjects' amounts of attention are evened out; this needs no layout.

    At 1, all subjects get the same amount, in each block; at less, a part of what that takes, in nats, is added to the logits.
    """

    strength: float = 0.0


@dataclass(frozen=True)
class Guidance:
    """How hard and how long the latent is corrected towards a layout. The defaults are the paper's.

    Attributes:
        strength: the step's factor s in z - sigma^2 s grad E; 0 switches guidance off.
        corrections: at most so many before one denoising step.
        until: the fraction of the noise schedule after which the latent is left alone (10 of 50 steps).
        threshold: an energy that is low enough: from there on a picture is left alone.
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
        return round(passed(sigma, sigmas) * steps) < max(1, round(self.until * steps))


def correct(
    latents: Tensor, sigma: float, energy: Energy, guidance: Guidance, settled: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """z <- z - sigma^2 s grad E(z), again while the energy is too high. Each picture of a batch stops on its own.

    Args:
        latents: (B, C, h, w) at noise level `sigma`.
        energy: latents -> (B,), differentiable.
        settled: (B,), pictures that are left alone.

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


@dataclass(frozen=True)
class Report:
    """One call of the model in which subjects were held.

    Attributes:
        step: of the schedule, in which the call falls, from 1.
        subjects: S of them, as the prompt names them.
        maps: (B, S, h, w), how strongly each cell attends to each subject.
        inside: (S,), the part of it that lies in the subject's region, mean over the batch; None without a layout.
        energies: (2, B), met first and last by the corrections of the latent, or None where there were none. The last is
            what the last correction started from, as measuring after it would cost a pass more.
        glimpse: (h, w, 3) in 0..1, what the first picture looked like to the model, or None where that is not known.
    """

    step: int
    subjects: tuple[str, ...]
    maps: Tensor
    inside: Tensor | None
    energies: Tensor | None
    glimpse: Tensor | None

    @property
    def shares(self) -> Tensor:
        """(S,), of the attention that all subjects get together, mean over the batch."""
        amounts = self.maps.sum((2, 3))
        return (amounts / amounts.sum(1, keepdim=True).clamp_min(1e-8)).mean(0)


def described(reports: Sequence[Report]) -> str:
    """Who was starved, that is, who got less than half of an equal share of the attention; then a line for each report."""
    lines: list[str] = []
    for report in reports:
        shares = f"share {_named(report, report.shares)}"
        kept = "" if report.inside is None else f"; in its region {_named(report, report.inside)}"
        energy = "" if report.energies is None else "; energy {:.3f} -> {:.3f}".format(*report.energies.mean(dim=1))
        lines.append(f"step {report.step}: {shares}{kept}{energy}")
    last = reports[-1]
    shares = torch.stack([report.shares for report in reports if report.subjects == last.subjects]).mean(0)
    starved = [name for name, share in _pairs(last, shares) if share < 0.5 / len(shares)]
    verdict = f"{' and '.join(starved)} got less than half of an equal share" if starved else "nobody was starved"
    return "\n".join([f"{verdict}; of the subjects' attention: {_named(last, shares)}", *lines])


def _pairs(report: Report, values: Tensor) -> list[tuple[str, float]]:
    names = [subject.removeprefix("embedding:") for subject in report.subjects]
    return list(zip(names, cast("list[float]", values.tolist()), strict=True))


def _named(report: Report, values: Tensor) -> str:
    return ", ".join(f"{name} {value:.0%}" for name, value in _pairs(report, values))
