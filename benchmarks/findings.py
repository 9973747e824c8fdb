"""What causes, dial and repair come to, in tables drawn from their records."""

from collections.abc import Mapping, Sequence

from correlation import spearman
from recorded import Record

CLASS = "the class word"
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
    ("mix", 0.25): "anchor_mix 0.25",
    ("mix", 0.5): "anchor_mix 0.5",
    ("mix", -0.25): "anchor_mix -0.25, away from the class word",
    ("turn", 0.25): "0.25, each vector as long as it was",
    ("length", 0.75): "three quarters as long",
    ("weight in the prompt", 0.75): "ComfyUI's weight, (word:0.75)",
}
SHARES = {
    "both by class": "its class and the other",
    "both": "in its colour and the other",
    "alone": "alone, in its colour",
}
REPAIRED = "{}, repaired"
ALIKE = {**SHARES, "alike": "image alignment, alone"}


def mean(found: Sequence[Record], key: str) -> float:
    return sum(r[key] for r in found) / len(found)


def causes(found: Sequence[Record]) -> str:
    """Rank correlations of what the paper names as causes with what becomes of two things, over learnt words."""
    learnt = [r for r in found if r["recipe"] != CLASS]
    lines = [f"| over {len(learnt)} learnt words | " + " | ".join(OUTCOMES.values()) + " |", "|---" * 4 + "|"]
    for key, name in CAUSES.items():
        values = [spearman([r[key] for r in learnt], [r[outcome] for r in learnt]) for outcome in OUTCOMES]
        lines.append(f"| {name} | " + " | ".join(f"{value:+.2f}" for value in values) + " |")
    return "\n".join(lines)


def wider(found: Sequence[Record]) -> tuple[int, int]:
    """Of how many learnt words attention is spread more widely than their class words', and how many there are."""
    learnt = [r for r in found if r["recipe"] != CLASS]
    return sum(r["entropy"] > 1 for r in learnt), len(learnt)


def dial(found: Sequence[Record]) -> str:
    """Means over concepts; a line for each recipe and each value of a dial that all concepts have."""
    concepts = {r["concept"] for r in found}
    lines = ["| words | dial | " + " | ".join(SHARES.values()) + " |", "|---" * (len(SHARES) + 2) + "|"]
    for recipe in dict.fromkeys(r["recipe"] for r in found):
        for (kind, value), name in DIALS.items():
            mine = [r for r in found if (r["recipe"], r["dial"], r["value"]) == (recipe, kind, value)]
            if {r["concept"] for r in mine} == concepts:
                cells = (f"{mean(mine, key):.0%}" for key in SHARES)
                lines.append(f"| {recipe} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def repair(found: Sequence[Record], goal: str, plain: Sequence[str]) -> tuple[str, Mapping[str, tuple[float, float]]]:
    """The table of the test concepts, and of each plain row what part repair gives of the gain in presence that `goal` gives, and what part of
    its image alignment is lost."""
    tested = [r for r in found if r["split"] == "test"]
    rows = {row: [r for r in tested if r["row"] == row] for row in (*plain, *map(REPAIRED.format, plain), goal)}
    lines = ["| | " + " | ".join(ALIKE.values()) + " |", "|---" * (len(ALIKE) + 1) + "|"]
    for row, mine in rows.items():
        if mine:
            cells = [f"{mean(mine, key):.0%}" for key in SHARES] + [f"{mean(mine, 'alike'):.3f}"]
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    parts: dict[str, tuple[float, float]] = {}
    for row in plain:
        before, after, best = rows[row], rows[REPAIRED.format(row)], rows[goal]
        if before and after and best:
            start = mean(before, "both by class")
            gain = (mean(after, "both by class") - start) / (mean(best, "both by class") - start)
            parts[row] = (gain, 1 - mean(after, "alike") / mean(before, "alike"))
    return "\n".join(lines), parts
