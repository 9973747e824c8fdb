"""A conditioning whose subjects are guided: where its regions lie on maps of attention, and what is read off these."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.energy import layout_energy
from ..attention.maps import resized_mean
from ..layout.regions import Layout, Region
from ..prompts.spans import Subject
from ..reading.contexts import Contexts
from ..reading.rules import BalanceRule, BoundingRule, Reading, Rule, SteeringRule
from ..sentences import quoted
from .report import Report
from .schedules import Balance, Steering


@dataclass(frozen=True, eq=False)
class GuidedConditioning:
    """A conditioning whose subjects are guided.

    Attributes:
        name: the host's for it.
        subjects: S phrases.
        contexts: all that is read of it, with each subject's token columns.
        canvas: height and width of the latent.
        area: what of the canvas it is for, in cells of the latent: height, width, top, left; None for all of it.
        regions: S of them, or none where there is no layout.
        own_rules: those that it brings along, such as who reads which of its contexts; they come before all others.
        bounds: of its self-attention, or None.
    """

    name: Hashable
    subjects: Sequence[str]
    contexts: Contexts
    canvas: tuple[int, int]
    area: tuple[int, int, int, int] | None = None
    regions: Sequence[Region] = ()
    own_rules: Sequence[Rule] = ()
    bounds: BoundingRule | None = None

    def __post_init__(self) -> None:
        if self.area is not None:  # or cells of one place would be taken for those of another
            tall, wide, top, left = self.area
            assert 0 <= top < top + tall <= self.canvas[0] and 0 <= left < left + wide <= self.canvas[1]

    def cells(self, height: int, width: int) -> Tensor:
        """(S, height, width) in 0..1: the regions, on a map of what the conditioning is for."""
        return self.on_area(lambda h, w: torch.stack([region.cells(h, w) for region in self.regions]), height, width)

    def on_area(self, cells: Callable[[int, int], Tensor], height: int, width: int) -> Tensor:
        """(n, height, width), what lies on the conditioning's area, of things that are given on maps of the canvas."""
        rows, columns = self.canvas
        tall, wide, top, left = self.area or (rows, columns, 0, 0)
        whole = cells(height * rows // tall, width * columns // wide)
        top, left = top * height // tall, left * width // wide
        found = whole[:, top : top + height, left : left + width]
        assert found.shape[1:] == (height, width)  # else it would be broadcast
        return found

    def on_canvas(self, maps: Tensor) -> Tensor:
        """Maps (B, S, h, w) of the area that the conditioning is for, in their place on maps of the canvas."""
        rows, columns = self.canvas
        tall, wide, top, left = self.area or (rows, columns, 0, 0)
        height, width = maps.shape[-2:]
        up, down = top * height // tall, (rows - top - tall) * height // tall
        before, after = left * width // wide, (columns - left - wide) * width // wide
        return torch.nn.functional.pad(maps, (before, after, up, down))

    def by_subject(self, maps: Tensor) -> Tensor:
        """(B, P, h, w) of columns -> (B, S, h, w) of subjects, their tokens summed, those of all contexts together."""
        counts = [len(own) for own in self.contexts.columns]
        of_subjects: tuple[Tensor, ...] = torch.split(maps, counts, dim=1)  # pyright: ignore[reportUnknownMemberType]
        return torch.stack([own.sum(dim=1) for own in of_subjects], dim=1)

    def mean_by_subject(self, maps: Sequence[Tensor]) -> Tensor:
        """Each block's (B, P, h, w) of columns -> (B, S, h, w) of subjects, at the size of the finest: the mean of blocks."""
        height, width = max((m.shape[-2:] for m in maps), key=lambda shape: shape[0])
        return self.by_subject(resized_mean(maps, height, width)).cpu()

    def energy(self, maps: Sequence[Tensor]) -> Tensor:
        """(B,), how far attention strays from the regions, by each block's (B, P, h, w).

        Of one context, each token counts, as in the paper. Of several, a subject counts as a whole: a token that no cell may
        read strays from nowhere, and what is one token here may be three there.
        """
        cells = [self.cells(*m.shape[-2:]) for m in maps]
        if len(self.contexts.parts) == 1:
            return layout_energy(maps, self.contexts.owners, cells)
        return layout_energy([self.by_subject(m) for m in maps], range(len(self.subjects)), cells)

    def reading(self, steering: Steering, balance: Balance) -> Reading:
        """How it is read: steered to its regions, then balanced, under the rules that it brings along."""
        rules = [*self.own_rules]
        if self.regions and not steering.is_off:
            rules.append(SteeringRule(self.contexts, self.cells, steering.at))
        if self.subjects and not balance.is_off:
            rules.append(BalanceRule(self.contexts, balance.at))
        return Reading(self.contexts, rules)


def check_layout(layout: Layout, subjects: Sequence[Subject]) -> None:
    """Raises ValueError when a layout names a subject that the prompt lacks."""
    known = {subject.phrase for subject in subjects} | {subject.name for subject in subjects}
    for region in layout.regions:
        if region.phrase not in known:
            raise ValueError(
                f'The layout names "{quoted(region.phrase, 60)}", which is no subject of the prompt '
                f"({quoted(', '.join(subject.name for subject in subjects))}). Add it to the subjects, or remove its region."
            )


def check_shape(region: Region, canvas: tuple[int, int]) -> None:
    """Raises ValueError when a mask has another shape than the canvas (height, width of the latent); any size will do."""
    if region.mask is None:
        return
    (height, width), (rows, columns) = region.mask.shape, canvas
    if abs(height * columns - width * rows) > 0.05 * width * rows:
        raise ValueError(
            f'The mask for "{quoted(region.phrase)}" has {width} x {height} pixels and the canvas {8 * columns} x {8 * rows}; '
            "the aspect ratio must be the same, at any size."
        )


def energy_of(conditionings: Sequence[GuidedConditioning], maps: Sequence[Sequence[Tensor]]) -> Tensor:
    """The mean energy of all regions, (B,): how far attention strays from them.

    Args:
        maps: of each conditioning, each block's (B, P, h, w).
    """
    pairs = zip(conditionings, maps, strict=True)
    energies = [len(one.regions) * one.energy(of_one) for one, of_one in pairs]
    return torch.stack(energies).sum(dim=0) / sum(len(one.regions) for one in conditionings)


def reported(
    conditionings: Sequence[GuidedConditioning],
    maps: Sequence[Sequence[Tensor]],
    *,
    step: int,
    energies: Tensor | None,
    preview: Tensor | None,
) -> Report:
    """A report of one call of the model.

    Args:
        maps: of each conditioning, each block's (B, P, h, w).
        step, energies, preview: see `Report`.
    """
    own = [one.on_canvas(one.mean_by_subject(of_one)) for one, of_one in zip(conditionings, maps, strict=True)]
    together = torch.cat([resized_mean([m], *own[0].shape[-2:]) for m in own], dim=1)
    regions = [region.cells(*together.shape[-2:]) for one in conditionings for region in one.regions]
    inside = None
    if regions:
        inside = ((together * torch.stack(regions)).sum((2, 3)) / together.sum((2, 3)).clamp_min(1e-8)).mean(0)
    names = tuple(name for one in conditionings for name in one.subjects)
    return Report(step, names, together, inside=inside, energies=energies, preview=preview)
