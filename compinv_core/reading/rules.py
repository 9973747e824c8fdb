"""How a prompt is read: rules that add up to what is added to the logits of cross-attention.

A rule is asked for every cross-attention of the model, each time that it runs, and answers in nats: +1 makes a token weigh e
times as much for a cell. Rules know no model and no host; whoever asks them tells what they may depend on, a `Look`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from ..attention.maps import attention_probabilities
from ..families.unet import Group
from .contexts import Contexts

HIDDEN = -1e4  # nats: e to the power of it is 0 in every dtype, and half precision still holds it
BALANCING_ROUNDS = 8
MAX_BOUNDED_CELLS = 32 * 32  # of a map; those of SD's finest level would make a bias of 4096 x 4096

Cells = Callable[[int, int], Tensor]
"""(height, width) of a map -> (n, height, width) in 0..1, how much of each cell belongs to each of n things."""

Strength = Callable[[float], float]
"""The fraction of the schedule that lies behind -> how strong a rule is."""


@dataclass(frozen=True, eq=False)
class Look:
    """One cross-attention, as it looks at the contexts of one prompt.

    Attributes:
        q: (B, N, heads*d), of N = height * width cells.
        k: (B, L, heads*d), of all contexts, once each; in self-attention of the N cells.
        group: of the block; None where that is not known.
        place: the block's name, such as "output 3"; "" where that is not known.
        progress: the fraction of the schedule that lies behind, 0..1.
        noise: the share of the model's own timesteps below this one, 0..1; 1 is pure noise.
        bias: (B or 1, N or 1, L), what the rules before have added so far; None for nothing.
    """

    q: Tensor
    k: Tensor
    heads: int
    height: int
    width: int
    group: Group | None = None
    progress: float = 0.0
    bias: Tensor | None = None
    place: str = ""
    noise: float = 0.0


class Rule(Protocol):
    def __call__(self, look: Look) -> Tensor | None:
        """(B or 1, N or 1, L) in nats, or None where the rule adds nothing."""
        ...


@dataclass(frozen=True)
class Reading:
    """How one prompt is read: its contexts, and rules, of which a later one sees what those before it have added."""

    contexts: Contexts
    rules: Sequence[Rule]

    def bias(self, look: Look) -> Tensor | None:
        """All rules' answers, added up: (B or 1, N or 1, L) in nats, or None where no rule adds anything."""
        for rule in self.rules:
            answer = rule(look)
            if answer is not None:
                look = replace(look, bias=answer if look.bias is None else look.bias + answer)
        return look.bias

    def window(self, look: Look) -> slice | None:
        """The columns that are read at all; None for those of all contexts."""
        return next((rule.window(look) for rule in self.rules if isinstance(rule, WindowRule)), None)

    @property
    def is_window(self) -> bool:
        """Whether no rule does more than hide columns, so that those of a window are read as they are."""
        return all(isinstance(rule, WindowRule) for rule in self.rules)

    def then(self, other: "Reading") -> "Reading":
        """Under these rules, and then under another's."""
        return Reading(self.contexts, [*self.rules, *other.rules])


class _Made(dict[tuple[int, int, torch.device], Tensor]):
    """What does not change in a run, made once for each size of map."""

    def of(self, look: Look, make: Callable[[int, int], Tensor]) -> Tensor:
        key = look.height, look.width, look.q.device
        if key not in self:
            with torch.inference_mode(False), torch.no_grad():  # a backward may meet it, too
                self[key] = make(look.height, look.width).to(look.q.device)
        return self[key]


@dataclass(frozen=True, eq=False)
class SteeringRule:
    """A subject's tokens gain inside its region and lose outside, in every context.

    Attributes:
        cells: the subjects' regions, (S, h, w).
        strength: in nats.
    """

    contexts: Contexts
    cells: Cells
    strength: Strength
    _made: _Made = field(default_factory=_Made, init=False, repr=False)

    def __call__(self, look: Look) -> Tensor | None:
        strength = self.strength(look.progress)
        if strength == 0:
            return None
        columns, length = self.contexts.columns, self.contexts.length
        made = self._made.of(look, lambda h, w: steering_bias(self.cells(h, w), columns, length, strength=1.0))
        return strength * made


@dataclass(frozen=True)
class BalanceRule:
    """Who gets less attention than the other subjects gains, who gets more loses, under what the rules before have added.

    Attributes:
        strength: 1 for the same amount of attention to each subject.
    """

    contexts: Contexts
    strength: Strength

    def __call__(self, look: Look) -> Tensor | None:
        strength = self.strength(look.progress)
        if strength == 0:
            return None
        columns, owners = self.contexts.subject_columns, self.contexts.owners
        probabilities = attention_probabilities(look.q, look.k, look.heads, columns, bias=look.bias)
        return balancing_bias(probabilities, owners, columns, self.contexts.length, strength=strength)


@dataclass(frozen=True, eq=False)
class VisibilityRule:
    """Which cells read which context, in some blocks, in a part of the schedule.

    A cell that half belongs to a context reads it half as loud as one that belongs to it; what does not belong to it, not at
    all. A cell that belongs to none reads the first.

    Attributes:
        cells: which context is read where, (C, h, w).
        groups: the blocks; None for all.
        during: from which fraction of the schedule to before which; 1 for all that is left.
    """

    contexts: Contexts
    cells: Cells
    groups: frozenset[Group] | None = None
    during: tuple[float, float] = (0.0, 1.0)
    _made: _Made = field(default_factory=_Made, init=False, repr=False)

    def __call__(self, look: Look) -> Tensor | None:
        start, end = self.during
        elsewhere = self.groups is not None and look.group not in self.groups
        if elsewhere or look.progress < start or end <= look.progress < 1:
            return None
        return self._made.of(look, lambda h, w: visibility_bias(self.cells(h, w), self.contexts.lengths))


@dataclass(frozen=True, eq=False)
class WindowRule:
    """All cells of a block read the same few neighbouring contexts, and no others; which ones depends on the block and the stage.

    Attributes:
        contexts: all of them.
        window: the columns that are read.
    """

    contexts: Contexts
    window: Callable[[Look], slice]

    def __call__(self, look: Look) -> Tensor:
        """(1, 1, L): 0 in the window and HIDDEN elsewhere."""
        bias = torch.full((1, 1, self.contexts.length), HIDDEN, device=look.q.device)
        bias[..., self.window(look)] = 0
        return bias


@dataclass(frozen=True, eq=False)
class BoundingRule:
    """The cells of one region attend less to those of another: of self-attention, so it knows no contexts.

    Attributes:
        cells: the regions, (R, h, w).
        strength: in nats.
    """

    cells: Cells
    strength: Strength
    _made: _Made = field(default_factory=_Made, init=False, repr=False)

    def __call__(self, look: Look) -> Tensor | None:
        """(1, N, N); None where it adds nothing, and on maps of so many cells that they tell no more than coarser ones."""
        strength = self.strength(look.progress)
        if strength == 0 or look.height * look.width > MAX_BOUNDED_CELLS:
            return None
        return strength * self._made.of(look, lambda h, w: bounding_bias(self.cells(h, w)))


def bounding_bias(regions: Tensor) -> Tensor:
    """(1, N, N) of N = h*w cells: -1 where the one is in a region and the other, outside of it, in another one; else 0.

    Args:
        regions: (R, h, w) in 0..1.
    """
    own = regions.flatten(1)
    between = own.new_zeros(own.shape[1], own.shape[1])
    for i, region in enumerate(own):
        others = torch.cat([own[:i], own[i + 1 :]]).amax(dim=0) * (1 - region) if len(own) > 1 else 0 * region
        between = torch.maximum(between, region[:, None] * others[None])
    return -between[None]


def steering_bias(cells: Tensor, columns: Sequence[Sequence[int]], length: int, *, strength: float) -> Tensor:
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


def balancing_bias(
    probabilities: Tensor, owners: Sequence[int], columns: Sequence[int], length: int, *, strength: float
) -> Tensor:
    """What balance adds to the logits of cross-attention: who has less than the others gains, who has more loses.

    Args:
        probabilities: (B, heads, P, N), how strongly each cell attends to each of P columns.
        owners: P indices of subjects: whose token each column is.
        columns: where these P tokens are, of `length`.
        strength: 0 adds nothing; 1 what makes the subjects' amounts over all heads and cells the same, in nats.

    Returns:
        (B, 1, length), the same for all cells of an image; 0 for every other token.
    """
    whose = torch.nn.functional.one_hot(torch.tensor(owners), max(owners) + 1).to(probabilities)  # (P, S)
    own = torch.einsum("b a p n, p s -> b s a n", probabilities, whose)
    others = 1 - own.sum(dim=1, keepdim=True)
    gain = own.new_zeros(own.shape[:2])
    for _ in range(BALANCING_ROUNDS):  # what a token gains all others lose, so that one round would fall short
        weighted = own * gain.exp()[..., None, None]
        amounts = (weighted / (others + weighted.sum(dim=1, keepdim=True))).sum(dim=(2, 3)).clamp_min(1e-8).log()
        gain = gain + amounts.mean(dim=1, keepdim=True) - amounts
    bias = own.new_zeros(len(own), 1, length)
    bias[:, 0, list(columns)] = strength * gain @ whose.T
    return bias


def visibility_bias(cells: Tensor, lengths: Sequence[int]) -> Tensor:
    """What hides contexts from the cells that must not read them.

    Args:
        cells: (C, h, w) in 0..1: which context is read where.
        lengths: of the C contexts; L together.

    Returns:
        (1, h*w, L): 0 where a context is read, the logarithm of what a cell has of it, HIDDEN where it has nothing.
    """
    unclaimed = cells.sum(dim=0) == 0
    first = torch.where(unclaimed, torch.ones_like(cells[0]), cells[0])
    bias = torch.cat([first[None], cells[1:]]).log().clamp_min(HIDDEN).flatten(1)
    return torch.cat([own[:, None].expand(-1, length) for own, length in zip(bias, lengths, strict=True)], dim=1)[None]
