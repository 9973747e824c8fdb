"""What is read off pictures beside the judge's verdicts."""

import colorsys
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

INNER = 0.5  # of a thing, where little but itself is
NEAR = 0.25  # of each of red, green and blue, of 1


def mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else None


def at(features: Tensor, place: tuple[float, float]) -> Tensor:
    """The column of features (C, h, w) at a place (x, y) in 0..1."""
    (x, y), (_, height, width) = place, features.shape
    return features[:, int(y * height), int(x * width)]


def unlikeness(vectors: Tensor) -> float:
    """1 - the mean cosine similarity of two of these vectors (n, E): 0 when all point one way."""
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    likeness = unit @ unit.T
    n = len(vectors)
    return 1 - ((likeness.sum() - likeness.trace()) / (n * (n - 1))).item()


def share(said: Iterable[float | None]) -> float:
    values = [bool(value) for value in said]
    return sum(values) / max(1, len(values))


def stained(image: Tensor, place: tuple[float, float], hue: float) -> bool:
    """Whether three tenths of the pixels about a place of an image (H, W, 3), a sixth of it wide, are of a hue in degrees."""
    pixels = np.asarray(Image.fromarray((image.numpy() * 255).round().astype(np.uint8)).convert("HSV"), np.float32)
    (x, y), (height, width) = place, image.shape[:2]
    top, left, reach = int(y * height), int(x * width), width // 12
    near = pixels[max(0, top - reach) : top + reach + 1, max(0, left - reach) : left + reach + 1].reshape(-1, 3)
    away = np.abs((near[:, 0] * 360 / 256 - hue + 180) % 360 - 180)
    same = (away < 14) & (near[:, 1] > 90) & (near[:, 2] > 90)
    return bool(same.mean() > 0.3)


def worn(
    image: Tensor, place: tuple[float, float], extent: float, colors: Sequence[tuple[float, float, float]]
) -> bool:
    """Whether three fifths of the pixels of a disc within a thing of an image (H, W, 3) are of one of these colours, (hue in degrees,
    saturation, value)."""
    wanted = np.array([colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value) for hue, saturation, value in colors])
    near = np.abs(inside(image, place, extent)[:, None] - wanted[None]).max(2).min(1) < NEAR
    return bool(near.mean() >= 0.6)


def inside(image: Tensor, place: tuple[float, float], extent: float) -> np.ndarray:
    """(P, 3), the 8-bit pixels, in 0..1, of a disc within a thing of an image (H, W, 3)."""
    pixels = np.asarray(Image.fromarray((image.numpy() * 255).round().astype(np.uint8)), np.float32) / 255
    height, width = pixels.shape[:2]
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return pixels[np.hypot(x - place[0], y - place[1]) < INNER * extent]
