"""A concept report's figures, against cases that were worked out by hand."""

import json
import math
from dataclasses import replace

import pytest
import torch
from compositional_inversion.compinv_core.prompts.vocabulary import Vocabulary
from compositional_inversion.compinv_core.report.figures import (
    Attention,
    Report,
    Standing,
    dominance,
    entropy,
    kept,
    standing,
)

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


def report(share: float, vectors: int = 1, repeated: float = 0.1) -> Report:
    """Of a word that takes this share beside a cup, which gets .1 there; an ordinary word gets as much as the cup."""
    where = standing(LINE.vectors[:1], LINE)
    own, again = (Attention(0.2, 0.8, {"cup": (part, 0.1)}) for part in (share, repeated))
    return Report("mine", "cat", {"clip_l": (where, where)}, vectors, own, ORDINARY, again)


def test_a_report_says_the_same_as_text_and_as_a_table():
    figures = json.loads(report(0.3).to_json())
    assert figures["dominance"] == pytest.approx(1.5) and figures["kept"] == figures["usual"] == pytest.approx(1)
    assert ("dominance index", "1.50", "1.00") in report(0.3).rows()
    assert ("share of two subjects' attention, beside cup", "75.0 %", "50.0 %") in report(0.3).rows()
    assert not any("pictures" in row[0] for row in report(0.3).rows())


def test_a_word_of_several_vectors_stands_beside_its_class_word_written_as_often():
    three = report(0.2, vectors=3, repeated=0.15)  # .15 of .25 where it was half
    assert three.usual == pytest.approx(1.2) and json.loads(three.to_json())["usual"] == pytest.approx(1.2)
    assert ("dominance index", "1.33", "1.00; 3 times: 1.20") in three.rows()
    assert ("other words' attention, relative", "100.0 %", "100.0 %; 3 times: 100.0 %") in three.rows()


@pytest.mark.parametrize(
    ("share", "vectors", "repeated", "compared", "outlook"),
    [
        (0.11, 1, 0.1, "1.05 times", "about as much as a word of one vector"),
        (0.06, 1, 0.1, "0.75 times", "less than a word of one vector"),
        (0.2, 3, 0.2, "1.33 times", 'about as much as "cat" written 3 times'),
        (0.25, 3, 0.15, "1.43 times", 'more than "cat" written 3 times'),
    ],
)
def test_the_verdict_compares_with_ordinary_words_of_so_many_vectors(
    share: float, vectors: int, repeated: float, compared: str, outlook: str
):
    said = report(share, vectors, repeated).verdict()
    assert compared in said and outlook in said and "keeps 100% of its attention" in said
    assert said.endswith("only images can tell.")


@pytest.mark.parametrize(("share", "warned"), [(0.29, False), (0.32, True)])
def test_the_verdict_warns_only_above_the_dominance_of_learnt_words_that_compose(share: float, warned: bool):
    """.29 of .39 is 1.49 times the half that the class word takes, .32 of .42 is 1.52 times."""
    for vectors, repeated in ((1, 0.1), (8, 0.32)):
        assert ("may be lost" in report(share, vectors, repeated).verdict()) == warned


@pytest.mark.parametrize(("own", "asked"), [(0.7, False), (0.65, True), (0.6, True)])
def test_pictures_that_are_no_more_like_the_concept_than_like_its_class_word_are_asked_about(own: float, asked: bool):
    compared = replace(report(0.1), likeness=(own, 0.65))
    said = "no more similar to it than to an ordinary cat: see that they show the concept"
    assert (said in compared.verdict()) == asked
    mark = ", no more than its class word" if asked else ""
    assert ("image similarity to your pictures", f"{own:.3f}{mark}", "0.650") in compared.rows()


def test_the_place_among_ordinary_words_is_no_reason_for_a_warning():
    far = Standing((("cat", 0.9),), 100.0, 3.0, 3.0)
    said = Report("mine", "cat", {"clip_l": (far, far)}, 1, ORDINARY, ORDINARY, ORDINARY).verdict()
    assert "may" not in said
