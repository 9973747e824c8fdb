"""The colours of a thing in ordinary words."""

import pytest
import torch
from compositional_inversion.compinv_core.training.palette import NAMED, colour_words, lab, palette


def rgb(name: str) -> torch.Tensor:
    return torch.tensor([int(NAMED[name][i : i + 2], 16) / 255 for i in (0, 2, 4)])


def picture(left: str, right: str, share: float = 0.5) -> torch.Tensor:
    """(1, 8, 20, 3), the left part of one colour."""
    image = rgb(right).repeat(1, 8, 20, 1)
    image[:, :, : round(20 * share)] = rgb(left)
    return image


def test_cielab_of_known_colours():
    """White is L 100, red L 53.24 a 80.09 b 67.20, blue L 32.30 a 79.19 b -107.86 (published conversions of sRGB, D65)."""
    found = lab(torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]]))
    expected = torch.tensor([[100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [0, 0, 0]])
    assert torch.allclose(found, expected, atol=0.05)


def test_a_palette_is_the_colours_that_are_there():
    colours = lab(torch.stack([rgb("red")] * 30 + [rgb("blue")] * 10))
    centres, shares = palette(colours)
    assert len(centres) == 2 and sorted(shares.tolist()) == [0.25, 0.75]
    assert all(torch.equal(a, b) for a, b in zip(palette(colours), (centres, shares), strict=True))


@pytest.mark.parametrize("name", NAMED)
def test_a_named_colour_is_its_own_name(name: str):
    image = picture(name, name) * 0.95 + 0.02
    assert next(iter(colour_words(image, torch.ones(1, 8, 20), lambda _: True))) == name


def test_only_what_the_mask_shows_has_a_colour():
    image, mask = picture("green", "pink"), torch.zeros(1, 8, 20)
    mask[..., :10] = 1
    assert colour_words(image, mask, lambda _: True) == {"green": 1.0}
    assert colour_words(image, 0.2 * mask, lambda _: True) == {"green": 1.0}  # a faint mask


def test_shares_are_those_of_the_pixels_and_specks_have_no_name():
    found = colour_words(picture("red", "white", 0.75), torch.ones(1, 8, 20), lambda _: True)
    assert list(found) == ["red", "white"] and found["red"] == pytest.approx(0.75)
    assert list(colour_words(picture("red", "white", 0.95), torch.ones(1, 8, 20), lambda _: True)) == ["red"]


def test_only_known_words_are_used():
    known = ("red", "blue")
    assert list(colour_words(picture("maroon", "maroon"), torch.ones(1, 8, 20), known.__contains__)) == ["red"]
    with pytest.raises(ValueError, match="knows no word for a colour"):
        colour_words(picture("red", "red"), torch.ones(1, 8, 20), lambda _: False)
