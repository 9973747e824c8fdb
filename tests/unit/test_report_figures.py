"""A concept report's figures, against cases that were worked out by hand."""

import json
import math

import pytest
import torch

from compinv_core.report import Attention, Report, Standing, dominance, entropy, kept, standing
from compinv_core.vocabulary import Vocabulary

ORDINARY = Attention(0.1, 0.9, {"cup": (0.1, 0.1), "car": (0.1, 0.3)})
# Nine words a step of 1 apart on a line, all as long as their distance from 0.
LINE = Vocabulary(tuple("abcdefghi"), torch.arange(9), torch.tensor([[i + 1.0, 0.0] for i in range(9)]))


def test_entropy_is_0_in_one_cell_and_1_everywhere():
    maps = torch.zeros(3, 4, 4)
    maps[0, 2, 1] = 5
    maps[1] += 0.3
    maps[2, :2, :2] = 0.1  # four of sixteen cells: log 4 / log 16
    assert entropy(maps).tolist() == pytest.approx([0, 1, 0.5])
    assert entropy(7 * maps).tolist() == pytest.approx([0, 1, 0.5])


def test_dominance_is_1_for_an_ordinary_word_and_2_for_one_that_takes_all_of_equal_shares():
    assert dominance(ORDINARY, ORDINARY) == 1
    assert dominance(Attention(0.5, 1, {"cup": (0.2, 0.0)}), ORDINARY) == 2
    # .2 of .3 where it was half, .2 of .4 where it was a quarter: (4/3 + 2) / 2
    assert dominance(Attention(0.5, 1, {"cup": (0.2, 0.1), "car": (0.2, 0.2)}), ORDINARY) == pytest.approx(5 / 3)


def test_what_the_other_words_keep():
    assert kept(ORDINARY, ORDINARY) == 1
    assert kept(Attention(0.5, 1, {"cup": (0.2, 0.05), "car": (0.0, 0.3)}), ORDINARY) == pytest.approx(0.75)


def test_standing_of_several_vectors_is_their_mean():
    """The eight nearest of a on the line, at 1..8: a mean square of 25.5; of a vector 3 above e, at 3 and beyond."""
    vectors = torch.tensor([[1.0, 0.0], [5.0, 3.0]])
    where = standing(vectors, LINE, count=2)
    squares = [sum(i * i for i in range(1, 9)) / 8, sum(9 + i * i for i in (0, 1, 1, 2, 2, 3, 3, 4)) / 8]
    assert where.distance == pytest.approx(sum(math.sqrt(s / LINE.spread) for s in squares) / 2)
    assert where.length == pytest.approx((1 + math.sqrt(34)) / 2 / 5)  # the median word is 5 long
    assert len(where.nearest) == 2 and where.nearest[0][1] == pytest.approx(3 / math.sqrt(9 + 2.25))
    alone = [standing(vector[None], LINE).percentile for vector in vectors]
    assert where.percentile == pytest.approx(sum(alone) / 2)


def test_a_report_says_the_same_as_text_and_as_a_table():
    where = standing(LINE.vectors[:1], LINE)
    report = Report("mine", "cat", {"clip_l": (where, where)}, Attention(0.2, 0.8, {"cup": (0.3, 0.1)}), ORDINARY)
    figures = json.loads(report.to_json())
    assert figures["dominance"] == pytest.approx(1.5) and figures["kept"] == pytest.approx(1)
    assert ("dominance index", "1.50", "1.00") in report.rows()
    assert ("of the attention of two, beside cup", "75.0 %", "50.0 %") in report.rows()
    assert not any("pictures" in row[0] for row in report.rows())


@pytest.mark.parametrize(
    ("percentile", "share", "place", "outlook"),
    [
        (
            40.0,
            0.11,
            "sits among ordinary words (further out than 40 % of them) and takes 1.0 times",
            "it should compose",
        ),
        (40.0, 0.3, "sits among ordinary words (further out than 40 % of them) and takes 1.5 times", "may be lost"),
        (40.0, 0.05, "and takes 0.7 times", "it may give up what it is"),
        (99.0, 0.11, "lies outside of the ordinary words (further out than 99 % of them)", "it may give up what it is"),
    ],
)
def test_the_verdict_names_what_is_out_of_the_ordinary(percentile: float, share: float, place: str, outlook: str):
    where = Standing((("cat", 0.9),), percentile, 1.0, 1.0)
    said = Report(
        "mine", "cat", {"clip_l": (where, where)}, Attention(0.2, 0.8, {"cup": (share, 0.1)}), ORDINARY
    ).verdict()
    assert said.startswith('"mine" ') and place in said and said.endswith(f"{outlook}.")
