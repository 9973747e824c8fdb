"""Reading by cell: each block of the UNet reads, in each stage of the noise schedule, the prompt with the attributes that act there.

MATTE (Agarwal et al. 2023), P+ (Voynov et al. 2023) and ProSpect (Zhang et al. 2023) alike: the table is all that they differ in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from .contexts import Contexts
from .regional import ReadContexts, Regional, Variant, Variants, read_contexts
from .rules import Cells, Look, Rule, VisibilityRule, WindowRule
from .table import TIMESTEPS, stage_of


@dataclass(frozen=True, eq=False)
class ByCell:
    """A prompt with other attributes in each cell.

    Attributes:
        cuts: where stages begin, see `Table`.
        prompts: all that is read, each with what regional reading needs; the first is the prompt without attributes.
        of_cells: (name of a place, stage) -> the index of its prompt; cells that are not named read the first.
        places: of the model that this was made for, the names of its places.
        texts: of the prompts.
    """

    cuts: tuple[float, ...]
    prompts: Sequence[Variants]
    of_cells: Mapping[tuple[str, int], int]
    places: Sequence[str]
    texts: Sequence[str]

    def each(self, change: Callable[[Variant], Variant]) -> "ByCell":
        return replace(self, prompts=[prompt.each(change) for prompt in self.prompts])

    def during(self, highest: float, lowest: float) -> "ByCell | None":
        """What is left of it in a run between two noise levels; None where that is the prompt without attributes."""
        stages = range(stage_of(highest, self.cuts), stage_of(lowest, self.cuts) + 1)
        met = {cell: index for cell, index in self.of_cells.items() if cell[1] in stages and index}
        if not met:
            return None
        kept = [0, *sorted(set(met.values()))]
        of_cells = {cell: kept.index(index) for cell, index in met.items()}
        prompts, texts = ([own[i] for i in kept] for own in (self.prompts, self.texts))
        return replace(self, prompts=prompts, texts=texts, of_cells=of_cells)

    def index(self, look: Look) -> int:
        """Of the prompt that a block reads."""
        return self.of_cells.get((look.place, stage_of(look.noise, self.cuts)), 0)

    def described(self) -> str:
        """Which blocks read what in which stage, a line for each."""
        ends = [TIMESTEPS, *self.cuts, 0]
        lines: list[str] = []
        for stage, (start, end) in enumerate(pairwise(ends), start=1):
            readers: dict[int, list[str]] = {}
            for place in self.places:
                readers.setdefault(self.of_cells.get((place, stage), 0), []).append(place)
            lines.append(f"stage {stage}, timesteps {start:g} to {end:g}:")
            for index, places in sorted(readers.items()):
                who = "all blocks" if len(readers) == 1 else ", ".join(places)
                lines.append(f'  {who}: "{self.texts[index]}"')
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class CellContexts:
    """The contexts that are read of a prompt by cell; see `ReadContexts`, whose members it has.

    Attributes:
        by_cell: which prompt is read in which cell.
        parts: the contexts of each of its prompts, in the order in which they are put one behind the other.
    """

    by_cell: ByCell
    parts: Sequence[ReadContexts]

    @property
    def encoded(self) -> Tensor:
        """(1, L, E), all of them."""
        return torch.cat([part.encoded for part in self.parts], dim=1)

    @property
    def of_regions(self) -> Sequence[int]:
        return next((part.of_regions for part in self.parts if part.of_regions), ())

    def contexts(self, subjects: Sequence[int]) -> Contexts:
        """With the columns of chosen subjects, by their indices."""
        return Contexts(tuple(one for part in self.parts for one in part.contexts(subjects).parts))

    def rules(self, contexts: Contexts, regions: Cells) -> list[Rule]:
        """Who reads what: a cell of the table hides all prompts but its own, and in that a region all contexts but its own.

        Args:
            regions: (R, h, w) in 0..1.
        """
        starts = [0]
        for part in self.parts:
            starts.append(starts[-1] + sum(variant.encoded.shape[1] for variant in part.variants))

        def window(look: Look) -> slice:
            index = self.by_cell.index(look)
            return slice(starts[index], starts[index + 1])

        rules: list[Rule] = [WindowRule(contexts, window)]
        first = 0
        for part in self.parts:
            count = len(part.variants)
            after = len(contexts.parts) - first - count
            own = part.rules(part.contexts(()), regions) if count > 1 else []
            rules += [_among(rule, contexts, first, after) for rule in own]
            first += count
        return rules


def _among(rule: Rule, contexts: Contexts, before: int, after: int) -> Rule:
    """The same rule where other contexts stand before and behind its own, of which it says nothing."""
    assert isinstance(rule, VisibilityRule)
    cells = rule.cells

    def all_of_them(height: int, width: int) -> Tensor:
        own = cells(height, width)
        return torch.cat([own.new_ones(before, height, width), own, own.new_ones(after, height, width)])

    return VisibilityRule(contexts, all_of_them, rule.groups, rule.during)


def cell_contexts(by_cell: ByCell, how: Regional, placed: Sequence[int]) -> CellContexts:
    """What is read of a prompt by cell, and in that by region.

    Args:
        placed: of each region, the index of its subject.
    """
    parts = [read_contexts(prompt, how, placed) or ReadContexts([prompt.own]) for prompt in by_cell.prompts]
    return CellContexts(by_cell, parts)
