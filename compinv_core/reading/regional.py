"""Regional reading: a region reads the prompt in which its own subject's concept alone is learnt, all else reads class words.

What a concept has taught the whole image otherwise hears. The prompt is encoded several times, its concepts in class words
but for one; these contexts are put one behind the other, and visibility says which cell reads which.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..families.unet import Group
from .contexts import Context, Contexts
from .rules import Cells, Rule, VisibilityRule

Reads = Literal["regional", "whole prompt"]
ClassWords = Literal["off", "coarse blocks"]
BLOCKS = frozenset[Group](get_args(Group))
COARSE = frozenset[Group](["coarse"])


@dataclass(frozen=True)
class Regional:
    """How a prompt is read that has concepts.

    Attributes:
        reading: "regional" needs a layout; without one, and where a concept has no region, the whole prompt is read.
        class_words: in which blocks class words are read in place of all concepts, with a layout or without one.
    """

    reading: Reads = "regional"
    class_words: ClassWords = "off"

    @property
    def is_off(self) -> bool:
        return self.reading == "whole prompt" and self.class_words == "off"


WHOLE_PROMPT = Regional("whole prompt", "off")


@dataclass(frozen=True, eq=False)
class Variant:
    """A prompt, encoded with some of its concepts in class words.

    Attributes:
        encoded: (1, L, E).
        columns: of each of S subjects, its token columns.
    """

    encoded: Tensor
    columns: Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Variants:
    """All that regional reading needs of a prompt. A concept that belongs to no subject is learnt in each of these.

    Attributes:
        own: the prompt as it is written.
        class_words: the concepts of all subjects in class words.
        learnt: by the index of a subject that is a concept: its own alone is learnt, those of all others are in class words.
    """

    own: Variant
    class_words: Variant
    learnt: Mapping[int, Variant]

    def each(self, change: Callable[[Variant], Variant]) -> "Variants":
        learnt = {subject: change(variant) for subject, variant in self.learnt.items()}
        return Variants(change(self.own), change(self.class_words), learnt)


@dataclass(frozen=True, eq=False)
class ReadContexts:
    """The contexts that are read of a prompt, and which cell reads which of them.

    Attributes:
        variants: C of them, in the order in which they are put one behind the other.
        of_regions: of each region, the index of the context that its cells read; cells of no region read the first.
        of_coarse: the index of the context that all cells of coarse blocks read; None for the same as in all others.
    """

    variants: Sequence[Variant]
    of_regions: Sequence[int] = ()
    of_coarse: int | None = None

    @property
    def encoded(self) -> Tensor:
        """(1, L, E), all of them."""
        return torch.cat([variant.encoded for variant in self.variants], dim=1)

    def contexts(self, subjects: Sequence[int]) -> Contexts:
        """With the columns of chosen subjects, by their indices."""
        return Contexts(
            tuple(
                Context(one.encoded.shape[1], tuple(tuple(one.columns[i]) for i in subjects)) for one in self.variants
            )
        )

    def rules(self, contexts: Contexts, regions: Cells) -> list[Rule]:
        """Who reads what.

        Args:
            regions: (R, h, w) in 0..1.
        """
        count, coarse = len(self.variants), self.of_coarse

        def in_regions(height: int, width: int) -> Tensor:
            if not self.of_regions:
                return _one_of(count, 0, height, width)
            return context_shares(regions(height, width), self.of_regions, count)

        if coarse is None:
            return [VisibilityRule(contexts, in_regions)]
        return [
            VisibilityRule(contexts, in_regions, BLOCKS - COARSE),
            VisibilityRule(contexts, lambda h, w: _one_of(count, coarse, h, w), COARSE),
        ]


def read_contexts(variants: Variants, how: Regional, placed: Sequence[int]) -> ReadContexts | None:
    """What is read of a prompt, or None where that is the prompt as it is written.

    A concept without a region has its place nowhere: then cells of no region read the prompt as it is written.

    Args:
        placed: of each region, the index of its subject.
    """
    if not variants.learnt:
        return None
    parts = [variants.own]
    of_regions: list[int] = []
    if how.reading == "regional" and any(subject in variants.learnt for subject in placed):
        parts = [variants.own if set(variants.learnt) - set(placed) else variants.class_words]
        for subject in placed:
            of_regions.append(len(parts) if subject in variants.learnt else 0)
            parts += [variants.learnt[subject]] if subject in variants.learnt else []
    of_coarse = None
    if how.class_words == "coarse blocks":
        if variants.class_words not in parts:
            parts.append(variants.class_words)
        of_coarse = parts.index(variants.class_words)
    return ReadContexts(parts, of_regions, of_coarse) if len(parts) > 1 else None


def context_shares(regions: Tensor, contexts: Sequence[int], count: int) -> Tensor:
    """(C, h, w) in 0..1, which sum to 1: how much of each cell reads each of `count` contexts.

    Regions share a cell in which they overlap; what no region has of it reads the first context.

    Args:
        regions: (R, h, w) in 0..1.
        contexts: R indices of the contexts that they read.
    """
    claimed = regions / regions.sum(dim=0).clamp_min(1)
    shares = regions.new_zeros(count, *regions.shape[1:])
    for region, context in zip(claimed, contexts, strict=True):
        shares[context] += region
    shares[0] += (1 - shares.sum(dim=0)).clamp_min(0)
    return shares


def _one_of(count: int, index: int, height: int, width: int) -> Tensor:
    """Every cell reads this one of `count` contexts."""
    shares = torch.zeros(count, height, width)
    shares[index] = 1
    return shares
