"""What is reported of sampling: how the subjects share attention, and how much of it keeps to their regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

UNDER_ATTENDED = 0.5  # of an equal share of attention


@dataclass(frozen=True)
class Report:
    """One call of the model in which attention was steered, balanced or guided.

    Attributes:
        step: of the schedule, in which the call falls, from 1.
        subjects: S of them, as the prompt names them.
        maps: (B, S, h, w), how strongly each cell attends to each subject.
        inside: (S,), the part of it that lies in the subject's region, mean over the batch; None without a layout.
        energies: (2, B), met first and last by the corrections of the latent, or None where there were none. The last is
            what the last correction started from, as measuring after it would cost a pass more.
        preview: (h, w, 3) in 0..1, what the first image looked like to the model, or None where that is not known.
    """

    step: int
    subjects: tuple[str, ...]
    maps: Tensor
    inside: Tensor | None
    energies: Tensor | None
    preview: Tensor | None

    @property
    def shares(self) -> Tensor:
        """(S,), of the attention that all subjects get together, mean over the batch."""
        amounts = self.maps.sum((2, 3))
        return (amounts / amounts.sum(1, keepdim=True).clamp_min(1e-8)).mean(0)


def described(reports: Sequence[Report]) -> str:
    """Which subjects are under-attended: got less than half of an equal share; then a line for each report."""
    lines: list[str] = []
    for report in reports:
        shares = f"share {_named(report, report.shares)}"
        inside = "" if report.inside is None else f"; in its region {_named(report, report.inside)}"
        energy = "" if report.energies is None else "; energy {:.3f} -> {:.3f}".format(*report.energies.mean(dim=1))
        lines.append(f"step {report.step}: {shares}{inside}{energy}")
    last = reports[-1]
    shares = torch.stack([report.shares for report in reports if report.subjects == last.subjects]).mean(0)
    low = [name for name, share in _pairs(last, shares) if share < UNDER_ATTENDED / len(shares)]
    verdict = (
        f"under-attended: {', '.join(low)} (less than half of an equal share)"
        if low
        else "no subject is under-attended"
    )
    return "\n".join([f"{verdict}; of the subjects' attention: {_named(last, shares)}", *lines])


def _pairs(report: Report, values: Tensor) -> list[tuple[str, float]]:
    names = [subject.removeprefix("embedding:") for subject in report.subjects]
    return list(zip(names, cast("list[float]", values.tolist()), strict=True))


def _named(report: Report, values: Tensor) -> str:
    return ", ".join(f"{name} {value:.0%}" for name, value in _pairs(report, values))
