"""What a mean over few concepts, seeds, prompts and pictures is worth.

A bootstrap that respects who belongs to whom: concepts are drawn, then for each its seeds of training and its prompts, then
for each of these its pictures. Its own seed is fixed, so the same records give the same interval.
"""

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


@cache
def _resamples(units: int, seeds: int, prompts: int, pictures: int) -> tuple[np.ndarray, ...]:
    """Indices that draw from (U, S, P, N) with replacement, DRAWS times; the same for all values of one shape."""
    random = np.random.default_rng(0)
    u = random.integers(units, size=(DRAWS, units, 1, 1, 1))
    s = random.integers(seeds, size=(DRAWS, units, seeds, 1, 1))
    p = random.integers(prompts, size=(DRAWS, units, 1, prompts, 1))
    n = random.integers(pictures, size=(DRAWS, units, seeds, prompts, pictures))
    return u, s, p, n


def drawn_means(values: np.ndarray) -> np.ndarray:
    """(DRAWS,), the mean of each resample of values (U, S, P, N), NaN left out."""
    drawn = values[_resamples(*values.shape)].reshape(DRAWS, -1)
    known = ~np.isnan(drawn)
    with np.errstate(invalid="ignore"):
        return np.where(known, drawn, 0).sum(1) / known.sum(1)


def estimate(values: np.ndarray) -> Estimate:
    """The mean of values (U, S, P, N), NaN left out, and its interval."""
    return _between(float(np.nanmean(values)), drawn_means(values))


def change(values: np.ndarray, base: np.ndarray) -> Estimate:
    """By what fraction the mean is above another's, of the same concepts, seeds and prompts: both are drawn alike."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = drawn_means(values) / drawn_means(base)
    return _between(float(np.nanmean(values) / np.nanmean(base)) - 1, ratios - 1)


def true_share(said: float, found: float, made_up: float) -> float:
    """The share that a judge's `said` stands for, who finds the share `found` of what is there and makes up `made_up`."""
    return min(1.0, max(0.0, (said - made_up) / (found - made_up)))


def _between(value: float, drawn: np.ndarray) -> Estimate:
    edge = (1 - COVERED) / 2
    low, high = np.quantile(drawn[np.isfinite(drawn)], [edge, 1 - edge])
    return Estimate(value, float(low), float(high))
