"""The colours of what images show, in ordinary words: a palette in CIELAB, and the nearest named colour of each."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

NAMED = {
    "red": "e50000", "orange": "f97306", "yellow": "ffff14", "green": "15b01a", "blue": "0343df", "purple": "7e1e9c",
    "pink": "ff81c0", "brown": "653700", "black": "000000", "white": "ffffff", "gray": "929591", "cyan": "00ffff",
    "teal": "029386", "turquoise": "06c2ac", "navy": "01153e", "beige": "e6daa6", "tan": "d1b26f", "maroon": "650021",
    "magenta": "c20078", "olive": "6e750e", "lavender": "c79fef", "gold": "dbb40c",
}  # fmt: skip
"""sRGB of colour words as speakers see them, which pure red is not: the means of the xkcd colour survey (Munroe 2010, CC0)."""
PALETTE = 5  # colours that an image is reduced to
ROUNDS = 12  # of k-means
MOST_PIXELS = 4096
NOTICEABLE = 1.0  # distance in CIELAB
LEAST_SHARE = 0.15  # of a colour that is named
SHOWN = 0.5  # of a mask
WHITE_POINT = (0.95047, 1.0, 1.08883)  # of D65, which sRGB is made for


def colour_words(images: Tensor, masks: Tensor, known: Callable[[str], bool]) -> dict[str, float]:
    """The colours of what masks show, the most frequent first, with shares that sum to 1.

    Args:
        images: (N, H, W, 3), sRGB in 0..1.
        masks: (N, H, W) in 0..1; colours are taken where they are above a half, or where they are highest.
        known: whether a word can be used.

    Raises:
        ValueError: none of the colour words can.
    """
    names = [name for name in NAMED if known(name)]
    if not names:
        raise ValueError('The text encoder knows no word for a colour; write the colours at "colour_words".')
    shown = masks > min(SHOWN, masks.max().item() / 2)
    pixels = images[shown]
    pixels = pixels[torch.linspace(0, len(pixels) - 1, min(MOST_PIXELS, len(pixels))).long()]
    centres, shares = palette(lab(pixels))
    named = lab(torch.tensor([[int(NAMED[name][i : i + 2], 16) / 255 for i in (0, 2, 4)] for name in names]))
    found: dict[str, float] = {}
    for centre, share in zip(centres, cast("list[float]", shares.tolist()), strict=True):
        name = names[int((named - centre).square().sum(dim=1).argmin())]
        found[name] = found.get(name, 0.0) + share
    most = max(found.values())
    kept = {name: share for name, share in found.items() if share >= min(LEAST_SHARE, most)}
    total = sum(kept.values())
    return {name: share / total for name, share in sorted(kept.items(), key=lambda pair: -pair[1])}


def palette(colours: Tensor) -> tuple[Tensor, Tensor]:
    """The few colours (K, 3) that colours (P, 3) come nearest to, and the share of each (K,): k-means, the same each time.

    It begins with the colour nearest to the mean and goes on with the one that is farthest from those before.
    """
    chosen = [int((colours - colours.mean(dim=0)).square().sum(dim=1).argmin())]
    for _ in range(min(PALETTE, len(colours)) - 1):
        far = torch.cdist(colours, colours[chosen]).amin(dim=1)
        if far.max() < NOTICEABLE:
            break
        chosen.append(int(far.argmax()))
    centres = colours[chosen]
    nearest = torch.zeros(len(colours), dtype=torch.long)
    for _ in range(ROUNDS):
        nearest = torch.cdist(colours, centres).argmin(dim=1)
        centres = torch.stack(
            [colours[nearest == i].mean(dim=0) if (nearest == i).any() else centre for i, centre in enumerate(centres)]
        )
    return centres, torch.bincount(nearest, minlength=len(centres)).float() / len(colours)


def lab(colours: Tensor) -> Tensor:
    """sRGB (..., 3) in 0..1 -> CIELAB (CIE 1976), where equal distances look about equally large."""
    linear = torch.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    to_xyz = torch.tensor(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / torch.tensor(WHITE_POINT)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(dim=-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)
