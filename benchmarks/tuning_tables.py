"""What the records of fine_tuning.py amount to: its rows beside the words of the comparison, and the price of a change of the model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cells import decimals, markdown, percent
from intervals import Estimate, estimate
from recorded import Record, columns, members_of, seeds_of, units_of
from rows import IN_SHORT_COLUMNS

DRIFT = "ordinary words"
OWN = tuple(f", ours{together}{read}" for together in ("", ", together") for read in (", whole prompt", ""))
ROWS = tuple(
    f"{name}{paper}{more}"
    for name in ("Custom Diffusion", "DreamBooth (LoRA)")
    for paper in ("", ", paper")
    for more in ("", " + anchors", " + both", *(OWN if not paper else ()))
)
"""In the order of the table."""
SHOWN = {**IN_SHORT_COLUMNS, ("alone", "look"): "alone, own appearance"}
"""By setting and key of `recorded.columns`: a column of the table."""
PRICE = {
    "class word": ("class word: present", percent),
    "class word, own": ("class word: in the concept's appearance", percent),
    "class word, same": ("class word: similarity to the frozen model", decimals),
    "others": ("other words: present", percent),
    "others, same": ("other words: similarity to the frozen model", decimals),
}
"""By key of a record of drift."""
CANDIDATES = {
    ("alone", "look"): "alone, own appearance",
    ("pretrained word", "both"): "both present",
    ("pretrained word", "both look"): "both, own appearance",
    (DRIFT, "class word, own"): "class word: in the concept's appearance",
    (DRIFT, "others, same"): "other words: similarity",
}


def summary(found: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """By row: estimates by "setting/key", and what they rest on."""
    said: dict[str, dict[str, Any]] = {}
    named = dict.fromkeys(r["row"] for r in found)
    for row in sorted(named, key=lambda row: ROWS.index(row) if row in ROWS else 0):
        mine = [r for r in found if r["row"] == row]
        estimates = {f"{setting}/{key}": e for setting in {r["setting"] for r in mine} for key, e in _of(mine, setting)}
        samples = next((r["samples"] for r in mine if "samples" in r), 0)
        parameters = next((r["parameters"] for r in mine if "parameters" in r), 0)
        units = len({r["unit"] for r in mine if r["setting"] == DRIFT})
        seeds = len({r["seed"] for r in mine})
        counts = {"units": units, "seeds": seeds, "samples": samples, "parameters": parameters}
        said[row] = {**counts, "columns": dict(sorted(estimates.items()))}
    return said


def _of(mine: Sequence[Record], setting: str) -> list[tuple[str, Estimate]]:
    """Of one row, the seeds that have all units that it has."""
    records = [r for r in mine if r["setting"] == setting]
    units = units_of(records)
    seeds, members = seeds_of(records, units), members_of(units)
    if not seeds:
        return []
    if setting != DRIFT:
        arrays = columns(records, seeds)
        wanted = {key for of, key in (*SHOWN, *CANDIDATES) if of == setting}
        return [(key, estimate(arrays[key], members)) for key in sorted(wanted) if key in arrays]
    by_key = {(r["unit"], r["seed"]): r for r in records}
    grid = [[by_key[unit, seed] for seed in seeds] for unit in sorted(units)]
    return [(key, estimate(np.array([[r[key] for r in row] for row in grid], dtype=float), members)) for key in PRICE]


def table(said: Mapping[str, Any]) -> str:
    """The rows in the columns of the comparison, and how large what was learnt is."""
    shown = [key for key in SHOWN if any(f"{key[0]}/{key[1]}" in values["columns"] for values in said.values())]
    heads = ["", *(SHOWN[key] for key in shown), "training samples", "parameters"]
    rows: list[list[str]] = []
    for row, values in said.items():
        cells = [_cell(values, f"{setting}/{key}", percent) for setting, key in shown]
        rows.append([row, *cells, f"{values['samples']:,}", f"{values['parameters']:,}"])
    return f"{markdown(heads, rows)}\n\n{_rest(said)}"


def drift_table(said: Mapping[str, Any]) -> str:
    rows = [
        [row, *(_cell(values, f"{DRIFT}/{key}", write) for key, (_, write) in PRICE.items())]
        for row, values in said.items()
        if any(name.startswith(DRIFT) for name in values["columns"])
    ]
    return markdown(["", *(title for title, _ in PRICE.values())], rows)


def candidates_table(said: Mapping[str, Any]) -> str:
    write = {key: decimals if key[1].endswith("same") else percent for key in CANDIDATES}
    rows = [
        [row, *(_cell(values, f"{key[0]}/{key[1]}", write[key]) for key in CANDIDATES)] for row, values in said.items()
    ]
    return markdown(["what, prior, learning rate", *CANDIDATES.values()], rows)


def _cell(values: Mapping[str, Any], name: str, write: Any) -> str:
    return write(values["columns"][name]) if name in values["columns"] else ""


def _rest(said: Mapping[str, Any]) -> str:
    most = max(values["seeds"] for values in said.values())
    units = max(values["units"] for values in said.values())
    return f"*{units} concepts, {most} training seed{'s'[: most != 1]}.*"
