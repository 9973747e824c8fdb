"""The benchmarks' statistics against cases that can be counted by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from intervals import above, change, drawn_means, estimate, true_share
from recorded import columns, seeds_of


def grid(values: object) -> np.ndarray:
    return np.array(values, dtype=float)


def test_what_never_varies_has_no_interval():
    said = estimate(np.full((4, 3, 7, 8), 0.25))
    assert (said.value, said.low, said.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("level", range(4))
def test_two_values_at_any_level_are_drawn_as_two(level: int):
    # Drawn twice from 0 and 1, both are 0 in one of four cases, both 1 in one of four: 2.5 % lie below 0 and above 1 alike.
    shape = [1, 1, 1, 1]
    shape[level] = 2
    said = estimate(grid([0, 1]).reshape(shape))
    assert (said.value, said.low, said.high) == (0.5, 0, 1)


def test_pictures_of_one_concept_are_no_concepts():
    # A hundred pictures of each of two concepts say no more of a third than one of each does.
    values = np.zeros((2, 1, 1, 100))
    values[1] = 1
    said = estimate(values)
    assert (said.low, said.high) == (0, 1)


def test_pairs_are_drawn_with_their_concepts():
    # Pairs of a, b, c; both are there when a is one of them. Of 27 draws of three, aaa, bbb and ccc have no pair. In 6 there is no a
    # (bbc, bcc), in 6 each is there once (2 of 3 pairs), in 12 (abb, acc, aab, aac) every pair has an a.
    members = tuple(frozenset(pair) for pair in ("ab", "ac", "bc"))
    drawn = drawn_means(grid([1, 1, 0]).reshape(3, 1, 1, 1), members)
    assert np.isnan(drawn).mean() == pytest.approx(3 / 27, abs=0.03)
    drawn = drawn[~np.isnan(drawn)]
    for value, share in ((0, 6 / 24), (2 / 3, 6 / 24), (1, 12 / 24)):
        assert np.isclose(drawn, value).mean() == pytest.approx(share, abs=0.05)


def test_many_independent_pictures_give_the_textbooks_interval():
    # The standard error of a share of one half among 400 is 0.025; 1.96 of them are 0.049. A thousand draws know a
    # quantile to a tenth of a standard error or so.
    said = estimate(grid([0, 1] * 200).reshape(1, 1, 1, 400))
    assert said.low == pytest.approx(0.451, abs=0.005) and said.high == pytest.approx(0.549, abs=0.005)


def test_the_standard_error_of_a_mean_of_means_adds_up_by_level():
    # 30 concepts with means that spread by 0.1, each of 30 pictures that spread by 0.5 around it: the variance of the mean is
    # 0.1^2 / 30 + 0.5^2 / 900, its root 0.0247.
    random = np.random.default_rng(1)
    pictures = random.choice([-0.5, 0.5], size=(30, 1, 1, 30))
    pictures -= pictures.mean(axis=3, keepdims=True)  # the concepts' means are then exactly what they are set to
    values = pictures + np.repeat([-0.1, 0.1], 15).reshape(30, 1, 1, 1)
    said = estimate(values)
    assert (said.high - said.low) / (2 * 1.96) == pytest.approx(0.0247, rel=0.1)


def test_nothing_to_say_counts_neither_way():
    said = estimate(grid([[[[1, np.nan, 0, np.nan]]]]))
    assert said.value == 0.5


def test_the_same_records_give_the_same_interval():
    values = np.random.default_rng(2).random((4, 3, 7, 8))
    assert estimate(values) == estimate(values.copy())


def test_a_change_of_the_same_factor_everywhere_is_certain():
    base = np.random.default_rng(3).random((4, 3, 7, 8)) + 0.1
    said = change(3 * base, base)
    assert (said.value, said.low, said.high) == pytest.approx((2, 2, 2))


def test_a_change_is_taken_between_the_same_concepts():
    # Twice as often for both concepts, one of which is rarer: drawn apart, the ratio would lie anywhere from 0.4 to 10.
    base = grid([0.1, 0.5]).reshape(2, 1, 1, 1)
    assert change(2 * base, base).low == pytest.approx(1)


def test_over_what_may_be_nothing_a_change_has_no_upper_end():
    # The base is 0 in a quarter of the draws and 1 in a quarter, else one half.
    said = change(grid([1, 1]).reshape(2, 1, 1, 1), grid([0, 1]).reshape(2, 1, 1, 1))
    assert (said.value, said.low, said.high) == (1, 0, float("inf"))


@pytest.mark.parametrize(("truth", "said"), [(0.0, 0.1), (0.5, 0.5), (1.0, 0.9)])
def test_a_judges_error_is_undone(truth: float, said: float):
    # Of 10 things 9 are found, of 10 absent ones 1 is made up: said = 0.9 truth + 0.1 (1 - truth).
    assert true_share(said, found=0.9, made_up=0.1) == pytest.approx(truth)


def test_less_than_a_judge_makes_up_is_nothing():
    assert true_share(0.05, found=0.9, made_up=0.1) == 0


PAIR = {
    "unit": "throne",
    "seed": 0,
    "forwards": 42.0,
    "samples": 800,
    "diversity": [0.2],
    "class": [[1, 1, 0, 1]],
    "look": [[1, 0, 0, 1]],
    "other": [[1, 1, 1, 0]],
    "other look": [[None] * 4],
    "aligned": [[0.9, 0.7, None, 0.8]],
    "stained": [[1, 0, 0, None]],
    "room": [[0, 0, 1, 0]],
}


def means(record: dict[str, object]) -> dict[str, float]:
    return {key: float(np.nanmean(values)) for key, values in columns([record], [0]).items()}


def test_columns_of_a_word_beside_an_ordinary_thing():
    assert means(PAIR) == pytest.approx(
        {
            "class": 0.75,
            "look": 0.5,
            "other": 0.75,
            "other look": 0.75,
            "both": 0.5,  # the first two pictures
            "both look": 0.25,  # the first
            "text": 0.75,
            "aligned": 0.8,
            "stained": 1 / 3,
            "room": 0.25,
            "diversity": 0.2,
            "forwards": 42,
            "samples": 800,
        }
    )


def test_of_two_concepts_both_must_look_as_they_should():
    said = means({**PAIR, "other look": [[0, 1, 1, 0]]})
    assert said["other look"] == 0.5 and said["both"] == 0.5 and said["both look"] == 0


def test_whatever_else_a_record_holds_is_a_column_of_its_own():
    said = columns([{**PAIR, "parameters": 768, "drift": [[1, 0, 0, 0]], "prompts": ["throne and cup"]}], [0])
    assert (said["parameters"].shape, said["drift"].shape) == ((1, 1, 1, 1), (1, 1, 1, 4)) and "prompts" not in said


def test_a_seed_counts_when_no_concept_lacks_it():
    found = [{"unit": unit, "seed": seed} for unit, seed in [("a", 0), ("b", 0), ("a", 1), ("b", 2), ("a", 2)]]
    assert seeds_of(found, {"a", "b"}) == [0, 2]


def test_a_difference_is_of_the_same_draws():
    values = grid([0.25, 1.0]).reshape(2, 1, 1, 1)
    said = above(values, values - 0.25)
    assert (said.value, said.low, said.high) == pytest.approx((0.25, 0.25, 0.25))
    assert above(values, np.zeros_like(values)).low == 0.25
