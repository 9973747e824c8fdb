"""Which blocks and stages decide an attribute: shares over the pairs of prompts."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from attribute_tables import STAGES, shares, table


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
