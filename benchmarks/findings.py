"""What causes, dial and repair come to: figures from their records, and tables from the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cells import decimals, markdown, percent
from correlation import spearman
from intervals import Estimate, change, estimate, part_of
from recorded import Record

CLASS = "the class word"
FEWEST = 10  # embeddings that a rank correlation is taken over
CAUSES = {
    "percentile": "outlier percentile",
    "distance": "distance to the nearest words",
    "length": "norm",
    "entropy": "attention entropy / class word's",
    "share": "attention share alone / class word's",
    "dominance": "dominance index",
}
OUTCOMES = {"other": "other present", "class": "class present", "both by class": "both present"}
DIALS = {
    ("length", 1.0): "as learnt",
    ("mix", -0.25): "anchor_mix -0.25, away from the class word",
    ("mix", 0.125): "anchor_mix 0.125",
    ("mix", 0.25): "anchor_mix 0.25",
    ("mix", 0.5): "anchor_mix 0.5",
    ("mix", 0.75): "anchor_mix 0.75",
    ("turn", 0.25): "anchor_mix 0.25, norm preserved",
    **{("slerp", share): f"slerp by {share}, norm preserved" for share in (0.1, 0.2, 0.3)},
    **{("TEA", share): f"slerp by {share} at half of the class word's norm" for share in (0.1, 0.2, 0.3)},
    ("length", 0.25): "strength 0.25",
    ("length", 0.5): "strength 0.5",
    ("length", 0.75): "strength 0.75",
    ("length", 1.5): "strength 1.5",
    ("length", 2.0): "strength 2",
    ("weight in the prompt", 0.75): "ComfyUI's weight, (word:0.75)",
    ("cfg", 2.0): "sampled at CFG 2",
    ("cfg", 3.0): "sampled at CFG 3",
    ("cfg", 8.0): "sampled at CFG 8",
}
SHARES = {
    "both by class": "both present",
    "both": "both, own appearance",
    "alone": "alone, own appearance",
}
REPAIRED = "{}, repaired"
ALIKE = "alike"
Figures = dict[str, Any]


def over_concepts(found: Sequence[Record], key: str) -> np.ndarray:
    """(U, 1, 1, 1), in the alphabet's order of concepts; their seeds averaged."""
    concepts = sorted({r["concept"] for r in found})
    means = [np.mean([r[key] for r in found if r["concept"] == concept]) for concept in concepts]
    return np.array(means).reshape(-1, 1, 1, 1)


def mean(found: Sequence[Record], key: str) -> Estimate:
    return estimate(over_concepts(found, key))


def causes(found: Sequence[Record]) -> Figures:
    """What is named as causes, by recipe; and how it goes along with what becomes of two objects, over learnt embeddings."""
    learnt = [r for r in found if not r["recipe"].startswith(CLASS)]
    recipes: dict[str, dict[str, float]] = {}
    for recipe in sorted({r["recipe"] for r in found}, key=lambda name: (not name.startswith(CLASS), name)):
        mine = [r for r in found if r["recipe"] == recipe]
        recipes[recipe] = {key: mean(mine, key).value for key in (*CAUSES, *OUTCOMES)} | {"count": len(mine)}
    groups = {f"all {len(learnt)}": learnt}
    for count in sorted({r["vectors"] for r in learnt}):
        mine = [r for r in learnt if r["vectors"] == count]
        if len(mine) > FEWEST:
            groups[f"{len(mine)} of {count} vector{'s'[: count > 1]}"] = mine
    ranks = {
        group: {key: {o: spearman([r[key] for r in mine], [r[o] for r in mine]) for o in OUTCOMES} for key in CAUSES}
        for group, mine in groups.items()
    }
    return {"recipes": recipes, "rank correlations": ranks}


def causes_table(said: Figures) -> str:
    """A line for each recipe."""
    rows = [
        [recipe, str(values["count"])]
        + [f"{values[key]:.3g}" for key in CAUSES]
        + [f"{values[key]:.0%}" for key in OUTCOMES]
        for recipe, values in said["recipes"].items()
    ]
    return markdown(["mean over concepts", "embeddings", *CAUSES.values(), *OUTCOMES.values()], rows)


def correlations_table(said: Figures) -> str:
    """A line for each cause, every group of embeddings with its outcomes side by side."""
    groups = said["rank correlations"]
    heads = [f"{group}: {name}" for group in groups for name in OUTCOMES.values()]
    rows = [
        [name, *(f"{of_group[key][outcome]:+.2f}" for of_group in groups.values() for outcome in OUTCOMES)]
        for key, name in CAUSES.items()
    ]
    return markdown(["rank correlation over embeddings", *heads], rows)


def dial(found: Sequence[Record]) -> Figures:
    """Means over concepts, for each recipe and each value of a dial that all concepts have."""
    concepts = {r["concept"] for r in found}
    figures: Figures = {}
    for recipe in dict.fromkeys(r["recipe"] for r in found):
        for (kind, value), name in DIALS.items():
            mine = [r for r in found if (r["recipe"], r["dial"], r["value"]) == (recipe, kind, value)]
            if {r["concept"] for r in mine} == concepts:
                figures.setdefault(recipe, {})[name] = {key: mean(mine, key) for key in SHARES}
    return figures


def dial_table(said: Figures) -> str:
    rows = [
        [recipe, name, *(percent(values[key]) for key in SHARES)]
        for recipe, dials in said.items()
        for name, values in dials.items()
    ]
    return markdown(["embedding", "dial", *SHARES.values()], rows)


def repair_rows(found: Sequence[Record], goal: str, plain: Sequence[str]) -> dict[str, list[Record]]:
    """Of the test concepts: each plain row, the same repaired, and the goal."""
    names = (*plain, *map(REPAIRED.format, plain), goal)
    return {row: [r for r in found if r["split"] == "test" and r["row"] == row] for row in names}


def repair(found: Sequence[Record], goal: str, plain: Sequence[str]) -> Figures:
    """By row, the shares and image alignment."""
    rows = repair_rows(found, goal, plain)
    return {row: {key: mean(mine, key) for key in (*SHARES, ALIKE)} for row, mine in rows.items() if mine}


def repair_gains(found: Sequence[Record], goal: str, plain: Sequence[str]) -> Figures:
    """Of each plain row that is repaired: `gain`, by share what part repair gives of the gain that `goal` gives, which is its
    own worth less; `alike`, by what fraction its image alignment changes."""
    rows = repair_rows(found, goal, plain)
    parts: Figures = {}
    for row in plain:
        before, after, best = rows[row], rows[REPAIRED.format(row)], rows[goal]
        if before and after and best:
            gains: dict[str, Estimate] = {}
            for key in ("both by class", "both"):
                start, now, end = (over_concepts(mine, key) for mine in (before, after, best))
                gains[key] = part_of(now - start, end - start)
            alike = change(over_concepts(after, ALIKE), over_concepts(before, ALIKE))
            parts[row] = {"gain": gains, "alike": alike}
    return parts


def repair_table(said: Figures) -> str:
    rows = [[row, *(percent(values[key]) for key in SHARES), decimals(values[ALIKE])] for row, values in said.items()]
    return markdown(["", *SHARES.values(), "alone, image alignment"], rows)


def gains_table(parts: Mapping[str, Any]) -> str:
    heads = ["", *(SHARES[key] for key in ("both by class", "both"))]
    return markdown(heads, ([row, *(f"{e.value:.0%}" for e in part["gain"].values())] for row, part in parts.items()))
