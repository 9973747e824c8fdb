"""T7's curves and table, drawn from records/learning.jsonl: what a word is worth after so many pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawing import Curve, draw_curves
from intervals import Estimate, change, estimate
from recorded import Record

OURS, REFERENCE = "ours", "reference 0.012"  # its learning rate, which did best on validation concepts
LARGER = "ours 8"  # pictures a step, twice the default
DEFAULT = 1600  # pictures that ours sees at its defaults
COLORS = {OURS: (31, 119, 180), REFERENCE: (214, 96, 20)}
SHARES = {
    "both by class": "its class and the other thing",
    "both": "in its colour and the other thing",
    "alone": "alone, in its colour",
}
SCENES = "in a scene"  # where the prompt names one, in its colour: a share that whole runs have alone


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
    draw_curves(panels, "pictures seen in training", file)


def table(said: Mapping[str, Any]) -> str:
    """A line for each share, and what becomes of the owner's room."""
    lines = [
        f"| | the reference at its end | ours at its defaults, {said['default']:,} pictures | ours is there first after "
        "| the reference at its best | ours is there first after |",
        "|---|---|---|---|---|---|",
    ]

    def percent(e: Estimate) -> str:
        return f"{e.value:.0%} ({e.low * 100:.0f} to {e.high * 100:.0f})"

    for share, title in SHARES.items():
        of_share = said["shares"][share]
        last = of_share["curves"][OURS][-1][0]
        ends: list[list[str]] = []
        for when in ("at its end", "at its best"):
            end = of_share[when]
            samples, ours = end["samples"], end["ours"]
            when_ours = f"not within {last:,}" if ours is None else f"{ours:,}, {ours / samples:.2g} of them"
            ends.append([f"{percent(end['value'])} after {samples:,}", when_ours])
        (at_end, first), at_best = ends
        cells = [title, at_end, percent(of_share["at its defaults"]), first, *at_best]
        lines.append("| " + " | ".join(cells) + " |")
    (theirs, after), (ours, _) = said["leak"][REFERENCE], said["leak"][OURS]
    lines += [
        "",
        f"The owner's room comes along in {theirs:.0%} of the pictures of a word beside something else with the reference, at its "
        f"worst (after {after:,} pictures), and with ours in at most {ours:.0%}.",
    ]
    if "larger" in said:
        larger = said["larger"]
        of_it = (
            f"{title} {larger['shares'][share].value:.0%}, which is {e.value:+.0%} ({e.low:+.0%} to {e.high:+.0%})"
            for (share, title), e in zip(SHARES.items(), larger["against its end"].values(), strict=True)
        )
        lines += [
            "",
            f"With twice as many pictures a step, {larger['samples']:,} in all, against the reference's end: {'; '.join(of_it)}. Alone "
            "they bring wallpaper more often, too (see *ours, 8 a step* above).",
        ]
    if "scenes" in said:
        names = {REFERENCE: "the reference at its end", OURS: "ours at its defaults", LARGER: "twice as many a step"}
        told = ", ".join(f"{names[recipe]} {percent(e)}" for recipe, e in said["scenes"]["shares"].items())
        lines += ["", f"Where the prompt names a scene, the word is there in its colour and in that scene: {told}."]
    return "\n".join(lines)
