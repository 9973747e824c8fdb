"""Tables drawn from records that were made so that the answers are known."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import findings


def repaired(row: str, both: float, alike: float) -> dict[str, Any]:
    return {"split": "test", "row": row, "both by class": both, "both": both / 2, "alone": 0.5, "alike": alike}


def test_what_repair_gives_of_the_gain_that_anchors_give():
    found = [
        repaired("one vector", 0.5, 0.8),
        repaired("one vector, repaired", 0.8, 0.76),
        repaired("with anchors", 0.9, 0.9),
        repaired("one vector", 0.5, 0.8) | {"split": "validation", "both by class": 0.0},
    ]
    table, parts = findings.repair(found, "with anchors", ("one vector", "three vectors"))
    assert parts == {"one vector": pytest.approx((0.75, 0.05))}
    assert "| one vector, repaired | 80% | 40% | 50% | 0.760 |" in table


def test_a_dial_is_told_once_all_concepts_have_it():
    def turned(concept: str, kind: str, value: float, both: float) -> dict[str, Any]:
        shares = {"both by class": both, "both": 0.5, "alone": 0.5}
        return {"recipe": "one vector", "concept": concept, "dial": kind, "value": value, **shares}

    found = [
        turned("zippy", "length", 1.0, 0.2),
        turned("mittens", "length", 1.0, 0.4),
        turned("zippy", "mix", 0.25, 0.9),
    ]
    assert findings.dial(found).splitlines()[2:] == ["| one vector | as learnt | 30% | 50% | 50% |"]


def test_causes_are_of_learnt_words():
    def word(recipe: str, rank: float) -> dict[str, Any]:
        return {
            "recipe": recipe,
            **dict.fromkeys(findings.CAUSES, rank),
            "other": rank,
            "class": -rank,
            "both by class": 1,
        }

    found = [word("one vector", 0.5), word("one vector", 1.5), word("two", 2.5), word(findings.CLASS, -9.0)]
    assert "| dominance index | +1.00 | -1.00 | +0.00 |" in findings.causes(found)
    assert findings.wider(found) == (2, 3)
