"""What causes, dial and repair come to, in tables drawn from their records."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from correlation import spearman
from intervals import Estimate, change, estimate, part_of
from recorded import Record

CLASS = "the class word"
FEWEST = 10  # words that a rank correlation is taken over
CAUSES = {
    "percentile": "further out than so many words",
    "distance": "distance to the nearest words",
    "length": "length",
    "entropy": "entropy of its attention, over its class word's",
    "share": "attention alone, over its class word's",
    "dominance": "dominance index",
}
OUTCOMES = {"other": "the other thing is there", "class": "its own class is there", "both by class": "both"}
DIALS = {
    ("length", 1.0): "as learnt",
    ("mix", -0.25): "anchor_mix -0.25, away from the class word",
    ("mix", 0.125): "anchor_mix 0.125",
    ("mix", 0.25): "anchor_mix 0.25",
    ("mix", 0.5): "anchor_mix 0.5",
    ("mix", 0.75): "anchor_mix 0.75",
    ("turn", 0.25): "anchor_mix 0.25, each vector as long as it was",
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
    "both by class": "its class and the other",
    "both": "in its colour and the other",
    "alone": "alone, in its colour",
}
REPAIRED = "{}, repaired"
ALIKE = {**SHARES, "alike": "image alignment, alone"}


Figures = dict[str, Any]
"""What a table shows, for results.json."""


def over_concepts(found: Sequence[Record], key: str) -> np.ndarray:
    """(U, 1, 1, 1), in the alphabet's order of concepts; their seeds averaged."""
    concepts = sorted({r["concept"] for r in found})
    means = [np.mean([r[key] for r in found if r["concept"] == concept]) for concept in concepts]
    return np.array(means).reshape(-1, 1, 1, 1)


def mean(found: Sequence[Record], key: str) -> Estimate:
    return estimate(over_concepts(found, key))


def percent(e: Estimate) -> str:
    return f"{e.value:.0%} ({e.low * 100:.0f} to {e.high * 100:.0f})"


def learnt_of(found: Sequence[Record]) -> list[Record]:
    return [r for r in found if not r["recipe"].startswith(CLASS)]


def causes(found: Sequence[Record]) -> tuple[str, Figures]:
    """What is named as causes, by recipe; and how it goes along with what becomes of two things, over learnt words."""
    learnt = learnt_of(found)
    recipes = {
        recipe: {key: mean([r for r in found if r["recipe"] == recipe], key).value for key in (*CAUSES, *OUTCOMES)}
        for recipe in sorted({r["recipe"] for r in found}, key=lambda name: (not name.startswith(CLASS), name))
    }
    names = {**CAUSES, **OUTCOMES}
    lines = ["| mean over concepts | words | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 2) + "|"]
    for recipe, values in recipes.items():
        count = sum(r["recipe"] == recipe for r in found)
        cells = [f"{value:.0%}" if key in OUTCOMES else f"{value:.3g}" for key, value in values.items()]
        lines.append(f"| {recipe} | {count} | " + " | ".join(cells) + " |")
    groups = {f"all {len(learnt)}": learnt}
    for count in sorted({r["vectors"] for r in learnt}):
        mine = [r for r in learnt if r["vectors"] == count]
        if len(mine) > FEWEST:
            groups[f"{len(mine)} of {count} vector{'s'[: count > 1]}"] = mine
    ranks = {
        group: {key: {o: spearman([r[key] for r in mine], [r[o] for r in mine]) for o in OUTCOMES} for key in CAUSES}
        for group, mine in groups.items()
    }
    heads = [f"{group}: {name}" for group in groups for name in OUTCOMES.values()]
    lines += ["", "| rank correlation over learnt words | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for key, name in CAUSES.items():
        cells = [f"{ranks[group][key][outcome]:+.2f}" for group in groups for outcome in OUTCOMES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines), {"recipes": recipes, "rank correlations": ranks}


def wider(found: Sequence[Record]) -> tuple[int, int]:
    """Of how many learnt words attention is spread more widely than their class words', and how many there are."""
    learnt = learnt_of(found)
    return sum(r["entropy"] > 1 for r in learnt), len(learnt)


def dial(found: Sequence[Record]) -> tuple[str, Figures]:
    """Means over concepts; a line for each recipe and each value of a dial that all concepts have."""
    concepts = {r["concept"] for r in found}
    lines = ["| words | dial | " + " | ".join(SHARES.values()) + " |", "|---" * (len(SHARES) + 2) + "|"]
    figures: Figures = {}
    for recipe in dict.fromkeys(r["recipe"] for r in found):
        for (kind, value), name in DIALS.items():
            mine = [r for r in found if (r["recipe"], r["dial"], r["value"]) == (recipe, kind, value)]
            if {r["concept"] for r in mine} == concepts:
                said = {key: mean(mine, key) for key in SHARES}
                lines.append(f"| {recipe} | {name} | " + " | ".join(map(percent, said.values())) + " |")
                figures.setdefault(recipe, {})[name] = said
    return "\n".join(lines), figures


def repair(found: Sequence[Record], goal: str, plain: Sequence[str]) -> tuple[str, Figures]:
    """Of the test concepts, every row; and what part repair gives of the gain that `goal` gives, which is its own worth less.

    Returns:
        The table, and of each plain row that is repaired: `gain`, by share the part of the goal's gain; `alike`, by what
        fraction its image alignment changes.
    """
    tested = [r for r in found if r["split"] == "test"]
    rows = {row: [r for r in tested if r["row"] == row] for row in (*plain, *map(REPAIRED.format, plain), goal)}
    lines = ["| | " + " | ".join(ALIKE.values()) + " |", "|---" * (len(ALIKE) + 1) + "|"]
    for row, mine in rows.items():
        if mine:
            said = {key: mean(mine, key) for key in ALIKE}
            alike = said.pop("alike")
            cells = [*map(percent, said.values()), f"{alike.value:.3f} ({alike.low:.3f} to {alike.high:.3f})"]
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    parts: Figures = {}
    for row in plain:
        before, after, best = rows[row], rows[REPAIRED.format(row)], rows[goal]
        if before and after and best:
            gains = {}
            for key in ("both by class", "both"):
                start, now, end = (over_concepts(mine, key) for mine in (before, after, best))
                gains[key] = part_of(now - start, end - start)
            alike = change(over_concepts(after, "alike"), over_concepts(before, "alike"))
            parts[row] = {"gain": gains, "alike": alike}
    return "\n".join(lines), parts
