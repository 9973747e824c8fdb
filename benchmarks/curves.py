"""T7's curves and table, drawn from records/learning.jsonl: what a word is worth after so many pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawing import Curve, draw_curves
from intervals import Estimate, estimate
from recorded import Record

OURS, REFERENCE = "ours", "reference 0.012"  # its learning rate, which did best on validation concepts
COLORS = {OURS: (31, 119, 180), REFERENCE: (214, 96, 20)}
SHARES = {
    "both by class": "its class and the other thing",
    "both": "in its colour and the other thing",
    "alone": "alone, in its colour",
}


def grid(found: Sequence[Record], share: str) -> np.ndarray:
    """(U, S, 1, 1), of concepts and seeds; NaN where one has not been through yet."""
    concepts = sorted({r["concept"] for r in found})
    seeds = sorted({r["seed"] for r in found})
    values = np.full((len(concepts), len(seeds), 1, 1), np.nan)
    for r in found:
        values[concepts.index(r["concept"]), seeds.index(r["seed"])] = r[share]
    return values


def whole_runs(found: Sequence[Record], recipe: str) -> set[tuple[str, int]]:
    """The concepts and seeds of a recipe that have been as far as any."""
    mine = [r for r in found if r["recipe"] == recipe]
    last = max((r["samples"] for r in mine), default=0)
    return {(r["concept"], r["seed"]) for r in mine if r["samples"] == last}


def compared(found: Sequence[Record]) -> dict[str, list[Record]]:
    """Each recipe's records of whole runs: of the concepts and seeds that both have, if there are any; else of its own."""
    runs = {recipe: whole_runs(found, recipe) for recipe in COLORS}
    shared = runs[OURS] & runs[REFERENCE]
    return {
        recipe: [r for r in found if r["recipe"] == recipe and (r["concept"], r["seed"]) in (shared or own)]
        for recipe, own in runs.items()
    }


def curve(found: Sequence[Record], share: str) -> list[tuple[int, Estimate]]:
    """Of whole runs, by samples seen."""
    lengths = sorted({r["samples"] for r in found})
    return [(samples, estimate(grid([r for r in found if r["samples"] == samples], share))) for samples in lengths]


def first_at(points: Sequence[tuple[int, Estimate]], value: float) -> int | None:
    """The samples after which a curve is as high as a value for the first time."""
    return next((samples for samples, e in points if e.value >= value), None)


def learning(records: Sequence[Record]) -> dict[str, Any]:
    """For each share, both curves, and after how many samples ours is where the reference is at its end and at its best."""
    found = compared(records)
    if not all(found.values()):
        return {}
    shares: dict[str, Any] = {}
    for share in SHARES:
        curves = {recipe: curve(mine, share) for recipe, mine in found.items()}
        ours, theirs = curves[OURS], curves[REFERENCE]
        best = max(theirs, key=lambda point: point[1].value)
        ends = {
            when: {"samples": samples, "value": e, "ours": first_at(ours, e.value)}
            for when, (samples, e) in (("at its end", theirs[-1]), ("at its best", best))
        }
        shares[share] = {"curves": curves, **ends}
    runs = {
        recipe: {"concepts": sorted({r["concept"] for r in mine}), "seeds": sorted({r["seed"] for r in mine})}
        for recipe, mine in found.items()
    }
    return {"runs": runs, "shares": shares}


def comparable(said: Mapping[str, Any]) -> bool:
    """Whether both curves are of the same concepts and seeds."""
    return said["runs"][OURS] == said["runs"][REFERENCE]


def told(runs: Mapping[str, Any]) -> str:
    """Of which concepts and how many seeds."""
    seeds = len(runs["seeds"])
    return f"{', '.join(runs['concepts'])}; {seeds} seed{'s'[: seeds > 1]}"


def draw(said: Mapping[str, Any], file: Path) -> None:
    panels = {
        title: [
            Curve(f"{recipe} ({told(said['runs'][recipe])})", color, said["shares"][share]["curves"][recipe])
            for recipe, color in COLORS.items()
        ]
        for share, title in SHARES.items()
    }
    draw_curves(panels, "pictures seen in training", file)


def table(said: Mapping[str, Any]) -> str:
    lines = [
        "| | the reference at its end | ours is there after | the reference at its best | ours is there after |",
        "|---|---|---|---|---|",
    ]
    for share, title in SHARES.items():
        cells: list[str] = []
        last = said["shares"][share]["curves"][OURS][-1][0]
        for when in ("at its end", "at its best"):
            end = said["shares"][share][when]
            samples, ours = end["samples"], end["ours"]
            cells.append(f"{end['value'].value:.0%} after {samples:,}")
            cells.append(f"not within {last:,}" if ours is None else f"{ours:,}, {ours / samples:.2g} of them")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
