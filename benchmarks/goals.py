"""The goals of the comparison, and whether they are reached."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import curves
from comparison import Table
from intervals import Estimate, estimate, part_of
from rows import BASELINES, CEILING, OURS, REFERENCE

WHERE = {"pretrained word": ("beside an ordinary object", 1.0), "two concepts": ("two concepts", 0.2)}
"""By setting: its name, and how much more often than with plain textual inversion objects should be present."""


LEAST = {("pretrained word", "both look"): 0.95}


@dataclass(frozen=True)
class Goal:
    """What was wanted, and what was found against each of what it is compared with."""

    wanted: str
    bound: float
    figures: Mapping[str, Estimate]
    most: bool = False  # whether the bound is not to be exceeded

    @property
    def reached(self) -> bool:
        return all(self._holds(e.value) for e in self.figures.values())

    @property
    def sure(self) -> bool:
        """Whether no interval holds figures on the other side of the bound."""
        both_ends = [[self._holds(e.low), self._holds(e.high)] for e in self.figures.values()]
        return all(map(all, both_ends)) if self.reached else any(not any(ends) for ends in both_ends)

    def _holds(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound


def composition(tables: Mapping[str, Table]) -> list[Goal]:
    """Of the settings in which two objects are asked for."""
    result: list[Goal] = []
    for setting, (where, more) in WHERE.items():
        table = tables[setting]
        if not {CEILING, OURS, *BASELINES} <= set(table.rows):
            continue
        ours, ceiling = table.rows[OURS], table.rows[CEILING]
        gains = {
            key: {f"against {row}": table.above(OURS, row, key) for row in (*BASELINES, REFERENCE) if row in table.rows}
            for key in ("other", "both", "both look", "aligned")
        }
        shares = {"other": "other object present", "both": "both present", "both look": "both with own appearance"}
        for key, title in shares.items():
            wanted = f"{where}: {title} {more:.0%} more often than with plain textual inversion"
            result.append(Goal(wanted, more, gains[key]))
        for key in ("both", "both look"):
            part, least = part_of(ours[key], ceiling["both"], table.members), LEAST.get((setting, key), 0.9)
            wanted = f"{where}: {shares[key]} at least {least:.0%} as often as both are with class words"
            result.append(Goal(wanted, least, {"of it": part}))
        wanted = f"{where}: colour leak in at most 5% of images"
        result.append(Goal(wanted, 0.05, {"of images": estimate(ours["stained"], table.members)}, most=True))
        wanted = f"{where}: image alignment at most 3% below plain textual inversion's"
        result.append(Goal(wanted, -0.03, gains["aligned"]))
        batch = ours["class"].shape[-1]
        cost = part_of(ours["forwards"], ceiling["forwards"], table.members)
        single = Estimate(*(1 + batch * (value - 1) for value in (cost.value, cost.low, cost.high)))
        for images, times in ((batch, cost), (1, single)):
            wanted = f"{where}: sampling at most 1.15 times the cost of plain sampling, {images} image{'s'[: images > 1]} per prompt"
            result.append(Goal(wanted, 1.15, {"of it": times}, most=True))
    return result


def training(learning: Mapping[str, Any]) -> list[Goal]:
    """Against the reference's recipe, after a fraction of its samples."""
    if not learning or not curves.comparable(learning):
        return []
    result: list[Goal] = []
    for share, said in learning["shares"].items():
        end, ours = said["at its end"]["samples"], learning["default"]
        wanted = f"training: {curves.SHARES[share]} after {ours:,} samples as often as with the reference's {end:,}"
        result.append(Goal(wanted, 0.0, {"against the reference": said["against its end"]}))
    if "scenes" in learning:
        wanted = f"training: own appearance in a named scene after {learning['default']:,} samples as often as with the reference"
        result.append(Goal(wanted, 0.0, {"against the reference": learning["scenes"]["against its end"]}))
    return result


def attributes(row: str, hits: Mapping[str, Estimate], leaks: Mapping[str, Estimate]) -> list[Goal]:
    """Of `attribute_tables.hits` and `leaks` of a row."""
    if not hits or not leaks:
        return []
    shown = {f"of it: {role}": part for role, part in hits.items()}
    wanted = f"{row}, attributes used alone: each shown at least 80% as often as with ordinary words"
    others = f"{row}, attributes used alone: no other attribute shown in over 10 of 100 images more than without"
    return [Goal(wanted, 0.8, shown), Goal(others, 0.1, leaks, most=True)]


def repair(parts: Mapping[str, Any]) -> list[Goal]:
    """Of `findings.repair_gains`."""
    if not parts:
        return []
    shares = {"both by class": "both present", "both": "both with own appearance"}
    gains = [
        Goal(
            f"repair: two thirds of the gain that training with anchors gives, {title}",
            2 / 3,
            {f"of it for {row}": part["gain"][key] for row, part in parts.items()},
        )
        for key, title in shares.items()
    ]
    wanted = "repair: image alignment at most 3% below the original embedding's"
    return [*gains, Goal(wanted, -0.03, {f"for {row}": part["alike"] for row, part in parts.items()})]
