"""Layouts and attention as pictures, for a person to look at."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..compinv_core.layout import Layout

COLORS = ["#d1590b", "#1f6feb", "#2da44e", "#8250df", "#bf3989", "#9a6700", "#0a7ea4", "#cf222e"]
SIDE = 384


def to_image(tensor: Tensor) -> Image.Image:
    """(H, W, 3) in 0..1 as a PIL image."""
    return Image.fromarray((tensor.detach().cpu().clamp(0, 1) * 255).round().byte().numpy())


def from_image(image: Image.Image) -> Tensor:
    """A PIL image as (1, H, W, 3) in 0..1."""
    pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.view(1, image.height, image.width, 3).float() / 255


def heat(amount: Tensor, name: str) -> Image.Image:
    """A map (h, w) from dark (none) to bright (its highest), labelled."""
    amount = amount.float() / amount.max().clamp_min(1e-8)
    height, width = amount.shape
    size = (round(SIDE * height / max(height, width)), round(SIDE * width / max(height, width)))
    big = F.interpolate(amount[None, None], size=size, mode="bicubic").clamp(0, 1)[0, 0, ..., None]
    cold, warm = torch.tensor([0.05, 0.05, 0.2]), torch.tensor([1.0, 0.85, 0.2])
    image = to_image(cold * (1 - big) + warm * big)
    ImageDraw.Draw(image).text((8, 6), name, fill="white")
    return image


def layout_picture(layout: Layout, maps: Tensor | None = None, glimpse: Tensor | None = None) -> Image.Image:
    """The regions, labelled, over a dimmed glimpse (h, w, 3) of the picture that they were read from, or over its attention."""
    if glimpse is not None:
        height, width = glimpse.shape[:2]
        size = (round(SIDE * width / max(height, width)), round(SIDE * height / max(height, width)))
        image = to_image(0.6 * glimpse).resize(size, Image.Resampling.BICUBIC)
    else:
        image = heat(maps.sum(0), "") if maps is not None else Image.new("RGB", (SIDE, SIDE), "#202030")
    draw = ImageDraw.Draw(image)
    for i, region in enumerate(layout.regions):
        box, color = region.box, COLORS[i % len(COLORS)]
        edges = (box.left * image.width, box.top * image.height, box.right * image.width, box.bottom * image.height)
        draw.rectangle(edges, outline=color, width=4)
        draw.rectangle((edges[0], edges[1], edges[0] + 8 + 6.5 * len(_label(region.phrase)), edges[1] + 16), fill=color)
        draw.text((edges[0] + 4, edges[1] + 2), _label(region.phrase), fill="white")
    draw.text((6, image.height - 16), f"from: {layout.source}", fill="white")
    return image


def heat_pictures(maps: Tensor, names: Sequence[str]) -> Tensor:
    """(S, H, W, 3), one labelled map a subject."""
    return torch.cat([from_image(heat(amount, _label(name))) for amount, name in zip(maps, names, strict=True)])


def _label(phrase: str) -> str:
    return phrase.removeprefix("embedding:")
