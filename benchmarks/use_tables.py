"""What learnt words are used for: what records/uses.jsonl amounts to."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from cells import decimals, markdown, percent
from intervals import COVERED, DRAWS, Estimate, estimate
from recorded import Record

Colours = Sequence[str | None]
GOAL = 0.9  # of the balanced set's entropy


def entropy(colours: Colours) -> float:
    """Of the colours that things have, in bits: 0 where all have one, log2 n where n are equally frequent. None is left out."""
    counts = Counter(color for color in colours if color is not None)
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values()) if total else 0.0


def entropy_of(of_classes: Sequence[Colours]) -> Estimate:
    """The mean over classes of the entropy of their images' colours, and where it lies.

    Images are drawn anew within each class. A sample drawn from a sample has fewer colours than it, so of what is drawn only the
    deviations from its own mean are taken: the interval is of what as many other images would show.
    """
    value = float(np.mean([entropy(colours) for colours in of_classes]))
    random = np.random.default_rng(0)
    drawn = [
        np.mean(
            [entropy([colours[i] for i in random.integers(len(colours), size=len(colours))]) for colours in of_classes]
        )
        for _ in range(DRAWS)
    ]
    edge = (1 - COVERED) / 2
    low, high = np.quantile(value + np.mean(drawn) - drawn, [edge, 1 - edge])
    return Estimate(value, float(low), float(high))


def bias(found: Sequence[Record]) -> dict[str, dict[str, Estimate]]:
    """Class -> row -> the entropy of its colours; "learnt, of the balanced set" is what part the learnt word's is of it.

    Of classes that all rows have, and "all" for their mean. A balanced set is known as a whole, so its entropy has no interval.
    """
    colours = {(r["unit"], r["row"]): r["colours"] for r in found if r["use"] == "bias"}
    rows = ("class word", "learnt", "balanced set")
    classes = [
        unit for unit in dict.fromkeys(unit for unit, _ in colours) if all((unit, row) in colours for row in rows)
    ]
    result: dict[str, dict[str, Estimate]] = {}
    for name, units in {**{unit: [unit] for unit in classes}, "all": classes}.items():
        if not units:
            continue
        own = {row: entropy_of([colours[unit, row] for unit in units]) for row in rows[:2]}
        whole = float(np.mean([entropy(colours[unit, "balanced set"]) for unit in units]))
        learnt = own["learnt"]
        part = Estimate(learnt.value / whole, learnt.low / whole, learnt.high / whole)
        result[name] = {**own, "balanced set": Estimate(whole, whole, whole), "learnt, of the balanced set": part}
    return result


def bias_table(said: Mapping[str, Mapping[str, Estimate]]) -> str:
    """In bits."""
    lines = [
        [
            name,
            decimals(own["class word"]),
            decimals(own["learnt"]),
            f"{own['balanced set'].value:.3f}",
            percent(own["learnt, of the balanced set"]),
        ]
        for name, own in said.items()
    ]
    return markdown(
        ["class", "class word", "learnt", "balanced set", f"learnt, of the balanced set (goal {GOAL:.0%})"], lines
    )


def inpainting(found: Sequence[Record]) -> Mapping[str, Mapping[str, Estimate]]:
    """Row -> what is measured: shares of images, and the largest change outside the mask of all images."""
    of_rows: dict[str, list[Record]] = {}
    for record in sorted((r for r in found if r["use"] == "inpainting"), key=lambda r: r["unit"]):
        of_rows.setdefault(record["row"], []).append(record)
    result: dict[str, dict[str, Estimate]] = {}
    for row, own in of_rows.items():
        shares = {key: np.array([[r[key]] for r in own], dtype=float) for key in ("look", "other") if key in own[0]}
        most = {key: max(max(r[key]) for r in own) for key in ("latent", "pixel") if key in own[0]}
        result[row] = {
            **{key: estimate(values) for key, values in shares.items()},
            **{key: Estimate(value, value, value) for key, value in most.items()},
        }
    return result


def inpainting_table(said: Mapping[str, Mapping[str, Estimate]]) -> str:
    lines = [
        [
            row,
            percent(own["look"]),
            percent(own["other"]) if "other" in own else "",
            *(f"{own[key].value:.3g}" if key in own else "" for key in ("latent", "pixel")),
        ]
        for row, own in said.items()
    ]
    heads = ["", "own appearance, inside the mask", "other thing still there", "largest change of a latent outside"]
    return markdown([*heads, "of an 8-bit pixel, 24 pixels away"], lines)
