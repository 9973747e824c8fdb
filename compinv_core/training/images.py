"""The user's images, as the autoencoder wants them."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

DARK = 1 / 255  # of a mask; below it nothing is shown
SMALLEST_SIDE = 16  # pixels; below it there is nothing that a latent could hold


def training_images(images: Sequence[Tensor], resolution: int, shifts: Sequence[tuple[int, int]] = ()) -> Tensor:
    """Square RGB pictures from whatever was connected.

    Args:
        images: batches (B, H, W, C) in 0..1 of any sizes; grey (1 channel) becomes RGB, alpha (4) is laid on white.
        resolution: side of the result in pixels, a multiple of 8.
        shifts: of each picture, see `off_centre`; none without them.

    Returns:
        (N, resolution, resolution, 3), the largest square of each picture that is centred, or shifted as far as there is room.

    Raises:
        ValueError: no picture, a picture that is too small or has another number of channels, or values that are not
            finite numbers.
    """
    pictures = [picture for batch in images for picture in batch.detach().float().cpu().clone()]
    if not pictures:
        raise ValueError('The input "images" is empty; connect 1 or more images of the concept (3 to 5 are usual).')
    shifts = shifts or [(0, 0)] * len(pictures)
    return torch.stack(
        [
            _square(picture, i, resolution, shift)
            for i, (picture, shift) in enumerate(zip(pictures, shifts, strict=True), 1)
        ]
    )


def off_centre(mask: Tensor) -> tuple[int, int]:
    """How many pixels down and right of the middle the middle of what a mask (H, W) shows is."""
    down, right = (
        (shown * (torch.arange(len(shown)) - (len(shown) - 1) / 2)).sum().item() / shown.sum().item()
        for shown in (mask.double().sum(dim=1), mask.double().sum(dim=0))
    )
    return round(down), round(right)


def rescaled(pictures: Tensor, small: bool, generator: torch.Generator) -> Tensor:
    """Each picture far away or close up, at a place and in a size that are drawn anew for each.

    Args:
        pictures: (N, side, side, C), the last channel a mask.
        small: 0.4 to 0.8 of the side, grey and masked around it; else 1.2 to 1.6 times as large, and cropped.
    """
    side = pictures.shape[1]
    results: list[Tensor] = []
    for picture in rearrange(pictures, "n h w c -> n 1 c h w"):
        share, across, down = cast("list[float]", torch.rand(3, generator=generator).tolist())
        size = round(side * ((0.4 if small else 1.2) + 0.4 * share))
        scaled = F.interpolate(picture, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
        left, top = round(abs(side - size) * across), round(abs(side - size) * down)
        if small:
            canvas = torch.full_like(picture, 0.5)
            canvas[:, -1] = 0
            canvas[..., top : top + size, left : left + size] = scaled
            scaled = canvas
        else:
            scaled = scaled[..., top : top + side, left : left + side]
        results.append(scaled)
    return rearrange(torch.cat(results), "n c h w -> n h w c")


def _square(picture: Tensor, number: int, resolution: int, shift: tuple[int, int]) -> Tensor:
    height, width, channels = picture.shape
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f'Image {number} of "images" has {width} x {height} pixels; each side needs {SMALLEST_SIDE} or more.'
        )
    if channels not in (1, 3, 4):
        raise ValueError(
            f'Image {number} of "images" has {channels} channels; 1 (grey), 3 (RGB) or 4 (RGBA) are allowed.'
        )
    if not picture.isfinite().all():
        raise ValueError(f'Image {number} of "images" holds NaN or infinite values; each must be a number from 0 to 1.')
    if channels == 4:
        alpha = picture[..., 3:]
        picture = picture[..., :3] * alpha + (1 - alpha)
    picture = picture.expand(height, width, 3)
    side = min(height, width)
    top, left = (
        min(max((length - side) // 2 + moved, 0), length - side)
        for length, moved in zip((height, width), shift, strict=True)
    )
    square = rearrange(picture[top : top + side, left : left + side], "h w c -> 1 c h w")
    square = F.interpolate(square, size=(resolution, resolution), mode="bicubic", antialias=True).clamp(0, 1)
    return rearrange(square, "1 c h w -> h w c")
