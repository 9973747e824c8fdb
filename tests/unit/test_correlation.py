"""The rank correlation of the benchmarks, against cases that were worked out by hand."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from correlation import ranks, spearman


def test_equal_values_share_the_mean_of_their_ranks():
    assert ranks([3.0, 1.0, 1.0, 2.0]) == [4, 1.5, 1.5, 3]
    assert ranks([7.0, 7.0, 7.0]) == [2, 2, 2]


def test_the_rank_correlation_of_hand_computed_cases():
    """1 - 6 sum d^2 / (n (n^2 - 1)), of ranks without ties: d = 1, 1, 0, 1, 1 gives 1 - 24/120."""
    assert spearman([1, 2, 3, 4, 5], [2, 1, 3, 5, 4]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3], [9, 3, 1]) == pytest.approx(-1)
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: of the deviations, 1.5 / sqrt(1.5 * 2)
    assert spearman([0, 0, 5], [1, 2, 3]) == pytest.approx(1.5 / 3**0.5)


def test_what_never_changes_goes_along_with_nothing():
    assert spearman([1, 1, 1], [1, 2, 3]) == 0
