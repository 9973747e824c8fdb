"""Tables drawn from records that were made so that the answers are known."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import findings


def repaired(row: str, concept: str, both: float, alike: float) -> dict[str, Any]:
    shares = {"both by class": both, "both": both / 2, "alone": 0.5, "alike": alike}
    return {"split": "test", "row": row, "concept": concept, **shares}


def test_what_repair_gives_of_the_gain_that_anchors_give():
    found = [
        repaired("one vector", "throne", 0.4, 0.8),
        repaired("one vector", "dinghy", 0.6, 0.8),
        repaired("one vector, repaired", "throne", 0.7, 0.76),
        repaired("one vector, repaired", "dinghy", 0.9, 0.76),
        repaired("with anchors", "throne", 0.8, 0.9),
        repaired("with anchors", "dinghy", 1.0, 0.9),
        repaired("one vector", "zippy", 0.5, 0.8) | {"split": "validation", "both by class": 0.0},
    ]
    of = ("with anchors", ("one vector", "three vectors"))
    parts, table = findings.repair_gains(found, *of), findings.repair_table(findings.repair(found, *of))
    assert list(parts) == ["one vector"]
    gain, alike = parts["one vector"]["gain"]["both by class"], parts["one vector"]["alike"]
    # Each concept gains 0.3 of 0.4.
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.75, 0.75, 0.75))
    assert alike.value == pytest.approx(-0.05)
    assert (
        "| one vector, repaired | 80% (70 to 90) | 40% (35 to 45) | 50% (50 to 50) | 0.760 (0.760 to 0.760) |" in table
    )


def test_a_setting_is_reported_once_all_concepts_have_it():
    def turned(concept: str, kind: str, value: float, both: float) -> dict[str, Any]:
        shares = {"both by class": both, "both": 0.5, "alone": 0.5}
        return {"recipe": "one vector", "concept": concept, "dial": kind, "value": value, **shares}

    found = [
        turned("zippy", "length", 1.0, 0.2),
        turned("mittens", "length", 1.0, 0.4),
        turned("zippy", "mix", 0.25, 0.9),
    ]
    figures = findings.dial(found)
    assert findings.dial_table(figures).splitlines()[2:] == [
        "| one vector | as learnt | 30% (20 to 40) | 50% (50 to 50) | 50% (50 to 50) |"
    ]
    assert list(figures["one vector"]) == ["as learnt"]


def test_causes_are_of_learnt_words():
    def word(recipe: str, rank: float, vectors: int = 1) -> dict[str, Any]:
        causes = dict.fromkeys(findings.CAUSES, rank)
        return {
            "recipe": recipe,
            "concept": "throne",
            "vectors": vectors,
            **causes,
            "other": rank,
            "class": -rank,
            "both by class": 1,
        }

    found = [word("one vector", 0.5), word("one vector", 1.5), word("two", 2.5, 2), word(findings.CLASS, -9.0)]
    figures = findings.causes(found)
    assert "| dominance index | +1.00 | -1.00 | +0.00 |" in findings.correlations_table(figures)
    assert "| one vector | 2 | 1 | 1 | 1 | 1 | 1 | 1 | 100% | -100% | 100% |" in findings.causes_table(figures)
    assert (
        figures["recipes"]["one vector"]["dominance"] == 1.0 and figures["recipes"][findings.CLASS]["dominance"] == -9.0
    )
    assert list(figures["rank correlations"]) == ["all 3"]  # of equally many vectors there are too few


def test_correlations_among_words_of_equally_many_vectors():
    few = [{**dict.fromkeys(findings.CAUSES, float(i)), "vectors": 1 + i // 12, "other": -i % 12} for i in range(24)]
    found = [{"recipe": "a", "concept": "throne", "class": 0.5, "both by class": 0.5, **r} for r in few]
    assert list(findings.causes(found)["rank correlations"]) == ["all 24", "12 of 1 vector", "12 of 2 vectors"]
