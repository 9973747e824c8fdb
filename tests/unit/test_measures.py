"""What the comparison reads off pictures, on pictures and features made by hand."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from measures import at, mean, share, stained, unlikeness, worn

RED = torch.tensor([0.9, 0.1, 0.1])  # its hue is 0 degrees
BLUE = torch.tensor([0.1, 0.1, 0.9])  # 240


def test_a_share_is_of_those_that_are_not_zero():
    assert share([1.0, 0.0, 0.5, None]) == 0.5


def test_nothing_has_no_mean():
    assert mean([]) is None and mean([1, 2]) == 1.5


def test_the_column_of_a_place():
    features = torch.arange(4.0).reshape(1, 2, 2)
    assert [at(features, place).item() for place in [(0.2, 0.2), (0.8, 0.2), (0.2, 0.8)]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [([[1, 0], [2, 0]], 0.0), ([[1, 0], [0, 1]], 1.0), ([[1, 0], [0, 1], [0, 3]], 2 / 3)],
)
def test_pictures_that_are_alike_have_no_diversity(vectors: list[list[float]], expected: float):
    # Of three, one pair of two points one way (1) and two pairs stand at right angles (0): the mean cosine is one third.
    assert unlikeness(torch.tensor(vectors, dtype=torch.float32)) == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "expected"), [(3, False), (4, True)])
def test_a_colour_leak_is_three_tenths_of_the_hue_about_a_things_place(rows: int, expected: bool):
    # 64 pixels wide, the place at the middle: 11 by 11 pixels around pixel 32. Three of 11 rows are 27 %, four are 36 %.
    picture = BLUE.expand(64, 64, 3).clone()
    picture[: 27 + rows] = RED
    assert stained(picture, (0.5, 0.5), 0) is expected


def test_a_hue_is_near_across_the_circles_end():
    assert stained(RED.expand(64, 64, 3), (0.5, 0.5), 350)


def test_grey_has_no_hue():
    assert not stained(torch.full((64, 64, 3), 0.6), (0.5, 0.5), 0)


def test_a_thing_wears_colours_where_most_of_it_has_one_of_them():
    red, blue, green = (0.0, 0.85, 0.85), (243.0, 0.8, 0.85), (118.0, 0.75, 0.7)
    image = torch.zeros(64, 64, 3)
    image[..., 0] = 0.8  # a red wall
    image[20:44, 20:44] = torch.tensor([0.25, 0.2, 0.85])
    image[20:44, 32:44] = torch.tensor([0.2, 0.7, 0.2])
    place, extent = (0.5, 0.5), 0.3
    assert worn(image, place, extent, [blue, green])
    assert not worn(image, place, extent, [blue]) and not worn(image, place, extent, [red])
    assert worn(image, (0.1, 0.1), 0.1, [red])
