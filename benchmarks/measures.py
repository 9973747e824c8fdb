"""What is read off pictures beside the judge's verdicts."""

from collections.abc import Iterable

import numpy as np
from PIL import Image
from torch import Tensor


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
