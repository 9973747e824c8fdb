"""Records of benchmarks, a JSON line each, as arrays that statistics can be made of."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(os.environ.get("COMPINV_RECORDS") or Path(__file__).parent / "records")
Record = dict[str, Any]
ABOUT = {"row", "setting", "unit", "seed", "recipe", "prompts"}  # which picture a record is of; all else is measured
Columns = dict[str, np.ndarray]
"""By name: (U, S, P, N), of units (concepts, or pairs of them), seeds of training, prompts and pictures; NaN where there is nothing to say."""


def records(file: Path) -> list[Record]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def latest(found: Sequence[Record]) -> list[Record]:
    """Without what an earlier recipe of a row gave."""
    recipes = {r["row"]: r["recipe"] for r in found}
    return [r for r in found if r["recipe"] == recipes[r["row"]]]


def units_of(found: Sequence[Record]) -> set[str]:
    return {r["unit"] for r in found}


def members_of(units: set[str]) -> tuple[frozenset[str], ...]:
    """Of which concepts each unit is, as `columns` has them."""
    return tuple(frozenset(unit.split(" and ")) for unit in sorted(units))


def seeds_of(found: Sequence[Record], units: set[str]) -> list[int]:
    """The seeds of which none of these units is missing."""
    seeds = sorted({r["seed"] for r in found})
    return [seed for seed in seeds if units_of([r for r in found if r["seed"] == seed]) == units]


def columns(found: Sequence[Record], seeds: Sequence[int]) -> Columns:
    """What one row's records of one setting say, of these seeds. Units stand in the order of the alphabet.

    all, all look: of three things, all as their classes, and all concepts in their look.
    class, look: the first thing, as its class and as the concept; other: the second, a concept in its look where it is
    one; both, both in look; in scene, look in scene: the first thing, where its room is the one asked for; text: the mean share
    of the things asked for that are there; the rest is the records' own, of a record, of each prompt or of each picture.
    """
    by_key = {(r["unit"], r["seed"]): r for r in found}
    grid = [[by_key[unit, seed] for seed in seeds] for unit in sorted(units_of(found))]

    def array(key: str) -> np.ndarray:
        values = np.array([[r[key] for r in row] for row in grid], dtype=float)
        return values.reshape(*values.shape, *[1] * (4 - values.ndim))

    measured = [key for key in grid[0][0] if key not in ABOUT and all(key in r for row in grid for r in row)]
    said = {key: array(key) for key in measured}
    if "scene" in grid[0][0]:
        scene = said["scene"]
        both = {"in scene": said["class"] * scene, "look in scene": said["look"] * scene}
        return {**said, **both, "text": (said["class"] + scene) / 2}
    if "all" in grid[0][0]:
        return said
    if "other" not in grid[0][0]:
        return {**said, "text": said["class"]}
    other, other_look = said["other"], said["other look"]
    wanted = np.where(np.isnan(other_look), other, other_look)  # an ordinary thing has no look of its own
    return {
        **said,
        "other look": wanted,
        "both": said["class"] * other,
        "both look": said["look"] * wanted,
        "text": (said["class"] + other) / 2,
    }
