"""Markdown tables, and estimates as their cells."""

import math
from collections.abc import Iterable, Sequence

from intervals import Estimate


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines])


def percent(e: Estimate) -> str:
    return f"{e.value:.0%} ({e.low * 100:.0f} to {e.high * 100:.0f})"


def decimals(e: Estimate) -> str:
    return f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})"


def count(e: Estimate) -> str:
    return f"{e.value:,.0f}"


def number(e: Estimate) -> str:
    return f"{e.value:.4g}"


def relative(e: Estimate) -> str:
    """By what fraction something is above something else."""
    if e.value == math.inf:
        return "from none"
    if e.high == math.inf:
        return f"{e.value:+.0%} ({e.low:+.0%} or more)"
    return f"{e.value:+.0%}" + (f" ({e.low:+.0%} to {e.high:+.0%})" if e.low != e.high else "")


def ratio(e: Estimate) -> str:
    return f"{e.value:.2g}" + (f" ({e.low:.2g} to {e.high:.2g})" if e.low != e.high else "")
