"""What learnt words are used for: entropies of colours, and what inpainting changes."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from use_tables import bias, bias_table, entropy, entropy_of, inpainting, inpainting_table

FOUR = ["red", "blue", "green", "pink"]


@pytest.mark.parametrize(
    ("colours", "bits"),
    [(FOUR, 2.0), ([*FOUR, None], 2.0), (["red"] * 9, 0.0), (["red", "red", "blue", "green"], 1.5), ([], 0)],
)
def test_the_entropy_of_colours(colours: list[str | None], bits: float):
    assert entropy(colours) == pytest.approx(bits)


def test_an_interval_holds_the_entropy_and_narrows_with_more_images():
    few, many = (entropy_of([(["red"] * 3 + ["blue"]) * n]) for n in (8, 64))
    assert few.value == many.value == pytest.approx(0.811, abs=1e-3)
    assert few.low < few.value < few.high and many.high - many.low < 0.5 * (few.high - few.low)


def of_class(word: str, row: str, colours: list[str]) -> dict[str, Any]:
    return {"use": "bias", "row": row, "unit": word, "colours": colours}


def test_a_learnt_word_is_set_against_its_balanced_set_where_all_rows_are_there():
    found = [of_class("cat", "balanced set", FOUR), of_class("cat", "class word", ["red"] * 8)]
    assert bias(found) == {}
    found += [of_class("cat", "learnt", FOUR * 8), of_class("cup", "learnt", FOUR)]
    assert set(bias(found)) == {"cat", "all"}
    assert bias(found)["cat"]["learnt, of the balanced set"].value == pytest.approx(1)
    assert bias_table(bias(found)).splitlines()[2].startswith("| cat | 0.000 (0.000 to 0.000) | 2.000")


def test_inpainting_tells_shares_and_the_largest_change():
    found = [
        {"use": "inpainting", "row": "alone", "unit": unit, "look": [[1, 0]]} for unit in ("one", "two")
    ] + [
        {
            "use": "inpainting", "row": "KSampler", "unit": unit, "look": [[1, 1], [1, 0]], "other": [[1, 1], [1, 1]],
            "latent": [0.0, latent], "pixel": [0.25, 1.0],
        }
        for unit, latent in (("one", 0.0), ("two", 1e-6))
    ]  # fmt: skip
    lines = inpainting_table(inpainting(found)).splitlines()
    assert lines[2].startswith("| alone | 50%") and lines[2].endswith("|  |  |  |")
    assert lines[3].startswith("| KSampler | 75%") and lines[3].endswith("| 100% (100 to 100) | 1e-06 | 1 |")
