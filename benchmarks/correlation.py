"""How well one figure goes along with another."""

import torch


def ranks(values: list[float]) -> list[float]:
    """Of each value, from 1; equal values share the mean of their ranks."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) + 1) / 2 for value in values]


def spearman(a: list[float], b: list[float]) -> float:
    """The rank correlation in -1..1; 0 where one of the two never changes."""
    one, two = (torch.tensor(ranks(values), dtype=torch.float64) for values in (a, b))
    one, two = one - one.mean(), two - two.mean()
    size = (one.norm() * two.norm()).item()
    return (one @ two).item() / size if size else 0.0
