"""What a mean over few concepts, seeds, prompts and pictures is worth.

A bootstrap that respects who belongs to whom: concepts are drawn, then for each (of pairs, for each pair of those drawn) its
seeds of training and its prompts, then for each of these its pictures. Its own seed is fixed, so the same records give the same
interval.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

DRAWS = 1000
COVERED = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and where it lies with a probability of COVERED."""

    value: float
    low: float
    high: float


Members = tuple[frozenset[str], ...]
"""Of which concepts each unit is: one, or all pairs of several."""


def apart(units: int) -> Members:
    """Units that have nothing in common."""
    return tuple(frozenset([str(unit)]) for unit in range(units))


@cache
def _resamples(members: Members, seeds: int, prompts: int, pictures: int) -> tuple[np.ndarray, ...]:
    """Indices that draw from (U, S, P, N) with replacement, DRAWS times; the same for all values of one shape.

    The unit is -1 where a concept that was drawn twice would make a pair with itself.
    """
    random = np.random.default_rng(0)
    concepts = sorted(frozenset[str].union(*members))
    drawn = random.integers(len(concepts), size=(DRAWS, len(concepts)))
    which = {concepts_of: unit for unit, concepts_of in enumerate(members)}

    def unit_of(some: Sequence[int]) -> int:
        return which.get(frozenset(concepts[i] for i in some), -1)

    u = np.array([[unit_of(some) for some in itertools.combinations(draw, len(members[0]))] for draw in drawn])
    units = u.shape[1]
    s = random.integers(seeds, size=(DRAWS, units, seeds, 1, 1))
    p = random.integers(prompts, size=(DRAWS, units, 1, prompts, 1))
    n = random.integers(pictures, size=(DRAWS, units, seeds, prompts, pictures))
    return u[..., None, None, None], s, p, n


def drawn_means(values: np.ndarray, members: Members | None = None) -> np.ndarray:
    """(DRAWS,), the mean of each resample of values (U, S, P, N), NaN left out; NaN where nothing is left.

    Args:
        members: of each unit; without them units have nothing in common.
    """
    u, *rest = _resamples(members or apart(len(values)), *values.shape[1:])
    drawn = np.where(u < 0, np.nan, values[(u, *rest)]).reshape(DRAWS, -1)
    known = ~np.isnan(drawn)
    with np.errstate(invalid="ignore"):
        return np.where(known, drawn, 0).sum(1) / known.sum(1)


def estimate(values: np.ndarray, members: Members | None = None) -> Estimate:
    """The mean of values (U, S, P, N), NaN left out, and its interval."""
    return _between(float(np.nanmean(values)), drawn_means(values, members))


def part_of(values: np.ndarray, base: np.ndarray, members: Members | None = None) -> Estimate:
    """What part the mean is of another's, of the same concepts, seeds and prompts: both are drawn alike.

    Its upper end is infinite where the other mean may be nothing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = drawn_means(values, members) / drawn_means(base, members)
        return _between(float(np.nanmean(values) / np.nanmean(base)), parts)


def above(values: np.ndarray, base: np.ndarray, members: Members | None = None) -> Estimate:
    """By how much the mean is above another's, drawn alike."""
    drawn = drawn_means(values, members) - drawn_means(base, members)
    return _between(float(np.nanmean(values) - np.nanmean(base)), drawn)


def change(values: np.ndarray, base: np.ndarray, members: Members | None = None) -> Estimate:
    """By what fraction the mean is above another's, drawn alike."""
    part = part_of(values, base, members)
    return Estimate(part.value - 1, part.low - 1, part.high - 1)


def true_share(said: float, found: float, made_up: float) -> float:
    """The share that a judge's `said` stands for, who finds the share `found` of what is there and makes up `made_up`."""
    return min(1.0, max(0.0, (said - made_up) / (found - made_up)))


def _between(value: float, drawn: np.ndarray) -> Estimate:
    edge = (1 - COVERED) / 2
    low, high = np.quantile(drawn[~np.isnan(drawn)], [edge, 1 - edge], method="nearest")  # no mean of two infinities
    return Estimate(value, float(low), float(high))
