"""Curves and tables drawn from records/learning.jsonl: what an embedding is worth after so many training samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import markdown, percent, relative
from drawing import Curve, draw_curves
from intervals import Estimate, change, estimate
from recorded import Record

OURS, REFERENCE = "ours", "reference 0.012"  # its learning rate, which did best on validation concepts
LARGER = "ours 8"  # pictures a step, twice the default
DEFAULT = 1600  # training samples of ours at its defaults
COLORS = {OURS: (31, 119, 180), REFERENCE: (214, 96, 20)}
SHARES = {
    "both by class": "both present",
    "both": "both, own appearance",
    "alone": "alone, own appearance",
}
SCENES = "in a scene"  # where the prompt names one, with its own appearance: a share that only whole runs have


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


def at(found: Sequence[Record], samples: int, share: str) -> np.ndarray:
    return grid([r for r in found if r["samples"] == samples], share)


def learning(records: Sequence[Record]) -> dict[str, Any]:
    """For each share, both curves; after how many samples ours is where the reference is at its end and at its best for the
    first time; and by what fraction ours at its defaults is above the reference's end. `leak`: in how many pictures of a word
    beside another the reference's words bring their owner's room along, at their worst, and ours. `larger`: what ours is
    worth with twice the pictures a step, where that has been through the same runs, and against the reference's end.
    `scenes`: the share of SCENES, of each recipe's whole runs, and of ours at its defaults against the reference's end.
    """
    found = compared(records)
    if not all(found.values()):
        return {}
    runs = {
        recipe: {
            "concepts": sorted({r["concept"] for r in mine}),
            "seeds": sorted({r["seed"] for r in mine}),
            "count": len({(r["concept"], r["seed"]) for r in mine}),
        }
        for recipe, mine in found.items()
    }
    shares: dict[str, Any] = {}
    for share in SHARES:
        curves = {recipe: curve(mine, share) for recipe, mine in found.items()}
        ours, theirs = curves[OURS], curves[REFERENCE]
        best = max(theirs, key=lambda point: point[1].value)
        ends: dict[str, Any] = {
            when: {"samples": samples, "value": e, "ours": first_at(ours, e.value)}
            for when, (samples, e) in (("at its end", theirs[-1]), ("at its best", best))
        }
        if comparable({"runs": runs}):
            mine, end = at(found[OURS], DEFAULT, share), at(found[REFERENCE], theirs[-1][0], share)
            ends |= {"at its defaults": estimate(mine), "against its end": change(mine, end)}
        shares[share] = {"curves": curves, **ends}
    leak = {recipe: max((e.value, samples) for samples, e in curve(mine, "room")) for recipe, mine in found.items()}
    said = {"runs": runs, "default": DEFAULT, "shares": shares, "leak": leak}
    if not comparable(said):
        return said
    last = max(r["samples"] for r in found[REFERENCE])
    larger = [r for r in records if r["recipe"] == LARGER]
    if whole_runs(larger, LARGER) == whole_runs(found[OURS], OURS):
        worth = {share: grid(larger, share) for share in SHARES}
        said["larger"] = {
            "samples": larger[0]["samples"],
            "shares": {share: estimate(values) for share, values in worth.items()},
            "against its end": {s: change(values, at(found[REFERENCE], last, s)) for s, values in worth.items()},
        }
    ends = {
        REFERENCE: [r for r in found[REFERENCE] if r["samples"] == last],
        OURS: [r for r in found[OURS] if r["samples"] == DEFAULT],
        LARGER: larger if "larger" in said else [],
    }
    known = {recipe: grid(mine, SCENES) for recipe, mine in ends.items() if mine and all(SCENES in r for r in mine)}
    if {OURS, REFERENCE} <= set(known):
        worth = {recipe: estimate(values) for recipe, values in known.items()}
        said["scenes"] = {"shares": worth, "against its end": change(known[OURS], known[REFERENCE])}
    return said


def comparable(said: Mapping[str, Any]) -> bool:
    """Whether both curves are of the same concepts and seeds."""
    return said["runs"][OURS] == said["runs"][REFERENCE]


def told(runs: Mapping[str, Any]) -> str:
    """Of which concepts and how many seeds."""
    return f"{runs['count']} run{'s'[: runs['count'] > 1]}, of {', '.join(runs['concepts'])}"


def draw(said: Mapping[str, Any], file: Path) -> None:
    panels = {
        title: [
            Curve(f"{recipe} ({told(said['runs'][recipe])})", color, said["shares"][share]["curves"][recipe])
            for recipe, color in COLORS.items()
        ]
        for share, title in SHARES.items()
    }
    draw_curves(panels, "training samples", file)


def table(said: Mapping[str, Any]) -> str:
    """After how many samples ours is where the reference is at its end and at its best, a line for each share."""
    rows: list[list[str]] = []
    for share, title in SHARES.items():
        of_share = said["shares"][share]
        cells = [title]
        for when in ("at its end", "at its best"):
            end = of_share[when]
            samples, ours = end["samples"], end["ours"]
            last = of_share["curves"][OURS][-1][0]
            first = f"not within {last:,}" if ours is None else f"{ours:,} ({ours / samples:.2g} of them)"
            cells += [f"{percent(end['value'])} after {samples:,}", first]
        rows.append(cells)
    heads = ["", "reference at its end", "ours reaches it after", "reference at its best", "ours reaches it after"]
    runs = said["runs"][OURS]
    note = f"{runs['count']} runs of each recipe: {', '.join(runs['concepts'])}, {len(runs['seeds'])} training seeds."
    return f"{markdown(heads, rows)}\n\n*{note}*"


def ends_table(said: Mapping[str, Any]) -> str:
    """What whole runs are worth, and by what fraction ours is above the reference's end."""
    larger, scenes, empty = said.get("larger"), said.get("scenes"), ["", ""]
    heads = ["", "reference at its end", f"ours at its defaults, {said['default']:,} samples", "change"]
    heads += [f"ours, 8 a step, {larger['samples']:,} samples", "change"] if larger else []
    rows: list[list[str]] = []
    for share, title in SHARES.items():
        of_share = said["shares"][share]
        ends = [percent(of_share["at its end"]["value"]), percent(of_share["at its defaults"])]
        more = [percent(larger["shares"][share]), relative(larger["against its end"][share])] if larger else []
        rows.append([title, *ends, relative(of_share["against its end"]), *more])
    if scenes:
        worth = scenes["shares"]
        more = [percent(worth[LARGER]) if LARGER in worth else "", ""] if larger else []
        ends = [percent(worth[REFERENCE]), percent(worth[OURS])]
        rows.append(["own appearance in a named scene", *ends, relative(scenes["against its end"]), *more])
    (theirs, after), (ours, _) = said["leak"][REFERENCE], said["leak"][OURS]
    leak = [f"{theirs:.0%} after {after:,}", f"{ours:.0%}", ""]
    rows.append(["background leak at its worst along the run", *leak, *(empty if larger else [])])
    return markdown(heads, rows)
