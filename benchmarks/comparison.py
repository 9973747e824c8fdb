"""What the records of the comparison amount to, setting by setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from intervals import Estimate, Members, change, estimate
from recorded import Columns, Record, columns, members_of, seeds_of, units_of
from rows import BARE, NEEDED, ON_RECORD, REFERENCE, SETTINGS

ROUNDED = 1e-4  # what the figures' writing may differ by


@dataclass(frozen=True)
class Table:
    """Of one setting: each row's values and seeds, and of which concepts their units are."""

    rows: dict[str, Columns]
    seeds: dict[str, list[int]]
    members: Members

    def above(self, row: str, base: str, key: str) -> Estimate:
        """By what fraction a row's mean is above another's, over the seeds that both have."""
        both = [seed for seed in self.seeds[row] if seed in self.seeds[base]]
        mine, its = (self.rows[one][key][:, [self.seeds[one].index(seed) for seed in both]] for one in (row, base))
        return change(mine, its, self.members)


def tables(found: list[Record]) -> dict[str, Table]:
    """By setting, each row's values for the seeds that the rows of NEEDED have, or for those of them that it has."""
    result: dict[str, Table] = {}
    for setting in SETTINGS:
        by_row = {row: [r for r in found if r["row"] == row and r["setting"] == setting] for row in ON_RECORD}
        units = units_of([r for r in found if r["setting"] == setting])
        whole = {row: set(seeds_of(mine, units)) for row, mine in by_row.items() if seeds_of(mine, units)}
        needed = [seeds for row, seeds in whole.items() if row in NEEDED]
        seeds = set[int].intersection(*needed) if needed else set[int]()
        of_row = {row: sorted(its & seeds) for row, its in whole.items() if its & seeds}
        rows = {row: columns(by_row[row], its) for row, its in of_row.items()}
        result[setting] = Table(rows, of_row, members_of(units))
    return result


def summary(table: Table) -> dict[str, Any]:
    """Of every row the columns' estimates, and how much they rest on."""
    said: dict[str, Any] = {}
    for row, values in table.rows.items():
        units, seeds, prompts, pictures = values["class"].shape
        known = {key: estimate(array, table.members) for key, array in values.items() if not np.isnan(array).all()}
        counts = {"units": units, "seeds": seeds, "pictures": units * seeds * prompts * pictures}
        said[row] = {**counts, "columns": known}
    return said


def by_scene(found: Sequence[Record]) -> dict[str, dict[str, float]]:
    """In which scenes concepts have their own appearance: by row the share in each."""
    said: dict[str, dict[str, float]] = {}
    for row in (REFERENCE, BARE):
        mine = [r for r in found if r["row"] == row and r["setting"] == "in a scene"]
        if mine:
            shares = np.mean([r["look"] for r in mine], axis=(0, 2)).tolist()
            said[row] = dict(zip(mine[0]["prompts"], shares, strict=True))
    return said


def candidates(found: Sequence[Record]) -> dict[str, dict[str, Estimate]]:
    """What the baselines' settings were chosen from."""
    said: dict[str, dict[str, Estimate]] = {}
    for row in dict.fromkeys(r["row"] for r in found):
        mine = [r for r in found if r["row"] == row]
        if seeds := seeds_of(mine, units_of(found)):
            values = columns(mine, seeds)
            said[row] = {key: estimate(values[key]) for key in ("both", "both look", "aligned")}
    return said


def agreement(published: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How many of the published rows' figures lie within their own intervals again."""
    same: list[bool] = []
    for setting, rows in published.items():
        for row, values in rows.items():
            for key, old in values["columns"].items():
                new = now.get(setting, {}).get(row, {}).get("columns", {}).get(key)
                if new is not None:
                    same.append(old["low"] - ROUNDED <= new["value"] <= old["high"] + ROUNDED)
    return f"{sum(same)} of {len(same)} figures lie within the intervals that were published before."
