"""Which blocks and stages decide an attribute, and what embeddings of attributes show, from records counted by hand."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from attribute_tables import (
    MATTE,
    NOTHING,
    STAGES,
    WORDS,
    alone,
    alone_table,
    hits,
    leaks,
    shares,
    table,
    together,
    together_table,
)
from goals import attributes


def _record(a: str, stage: str, follows: list[bool | None], blocks: str = "fine") -> dict[str, object]:
    return {"role": "colour", "a": a, "b": "blue", "blocks": blocks, "stage": stage, "follows": follows}


def test_a_share_is_over_all_pairs_and_leaves_out_images_without_the_thing():
    found = [_record("red", "1", [True, False, None]), _record("green", "1", [True, True])]
    assert shares(found) == {"colour": {"fine": {"1": 0.75}}}
    assert shares([_record("red", "1", [None])]) == {"colour": {"fine": {"1": None}}}


def test_a_table_has_a_line_for_each_attribute_and_group():
    found = [_record("red", stage, [True], blocks) for blocks in ("coarse", "fine") for stage in STAGES]
    lines = table(shares(found)).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| colour, coarse | 100% |")


def _used(
    row: str, hit: list[bool | None], leak: list[bool | None], unit: str = "ember", seed: int = 0
) -> dict[str, Any]:
    """Colour and style, one class, four images."""
    shown = {"colour": {"colour": hit, "style": leak}, "style": {"colour": leak, "style": hit}}
    return {"row": row, "unit": unit, "seed": seed, "used": shown, "together": {"colour": hit, "object": leak}}


YES, NO = [True] * 4, [False] * 4
HALF = [True, False, True, False]


def test_a_row_is_of_all_references_and_leaves_out_images_without_the_thing():
    found = [_used(MATTE, YES, [None, None, True, False]), _used(MATTE, NO, NO, "tide"), _used(WORDS, YES, NO)]
    said = alone(found)
    assert set(said) == {MATTE}  # of the words a reference is missing
    assert said[MATTE]["colour"]["colour"].value == 0.5
    assert said[MATTE]["colour"]["style"].value == pytest.approx(1 / 6)
    assert "**50% (0 to 100)**" in alone_table(said).splitlines()[2]


def test_all_that_is_asked_for_together_has_to_be_there_in_one_image():
    said = together([_used(MATTE, HALF, [None, True, True, True])])[MATTE]
    assert (said["colour"].value, said["object"].value, said["all"].value) == (0.5, 1, 0.25)
    assert together_table({MATTE: said}).splitlines()[0].endswith("| all three |")


def test_hits_are_held_against_ordinary_words_and_leaks_against_what_is_there_without():
    found = [_used(NOTHING, NO, HALF), _used(WORDS, YES, HALF), _used(MATTE, HALF, YES)]
    assert {role: part.value for role, part in hits(found, MATTE).items()} == {"colour": 0.5, "style": 0.5}
    assert {name: more.value for name, more in leaks(found, MATTE).items()} == {
        "style with colour": 0.5,
        "colour with style": 0.5,
    }
    assert [goal.reached for goal in attributes(MATTE, hits(found, MATTE), leaks(found, MATTE))] == [False, False]
    better = [_used(NOTHING, NO, HALF), _used(WORDS, YES, HALF), _used(MATTE, YES, NO)]
    assert [goal.reached for goal in attributes(MATTE, hits(better, MATTE), leaks(better, MATTE))] == [True, True]
    assert not attributes(MATTE, hits(found[:1], MATTE), leaks(found[:1], MATTE))
