"""What a concept card shows: name, class word, family, a grid of images, figures."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from ..compinv_core.concept import Concept
from ..compinv_core.report.doctor import ADVICE
from ..compinv_core.sentences import quoted
from .pictures import COLORS, to_image

WIDTH, MARGIN, GAP = 960, 40, 12  # pixels
MAX_PICTURES = 9
FLATTEST, TALLEST = 0.5, 1.5  # height of a tile over its width
MAX_LINES = 12  # of figures
LETTERS = 112  # of a line of figures
BACKGROUND, PANEL, INK, PALE = "#14161b", "#1f232b", "#f2f4f8", "#9aa4b2"
SIGNATURE = "The embedding is inside this file: Load Concept (Compositional Inversion for ComfyUI) and A1111 read it."


def card_picture(concept: Concept, pictures: Sequence[Tensor], report: str = "") -> Image.Image:
    """A card of one width, as tall as what is on it.

    Args:
        pictures: (H, W, 3) in 0..1; the first MAX_PICTURES are shown.
        report: text or JSON of figures.
    """
    tiles = _tiles(pictures[:MAX_PICTURES])
    lines = _figures(report)
    top_of_grid = MARGIN + 104
    top_of_lines = top_of_grid + _height(tiles) + GAP * 2
    bottom = top_of_lines + (24 * len(lines) + 2 * GAP + MARGIN // 2 if lines else 0)
    card = Image.new("RGB", (WIDTH, bottom + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(card)
    _heading(draw, concept)
    _paste(card, tiles, top_of_grid)
    if lines:
        panel = (MARGIN, top_of_lines, WIDTH - MARGIN, top_of_lines + 24 * len(lines) + 2 * GAP)
        draw.rounded_rectangle(panel, 12, PANEL)
        for row, line in enumerate(lines):
            draw.text((MARGIN + 16, top_of_lines + GAP + 24 * row), line, INK, _font(16))
    draw.text((MARGIN, bottom), SIGNATURE, PALE, _font(14))
    return card


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _heading(draw: ImageDraw.ImageDraw, concept: Concept) -> None:
    family, font = concept.family, _font(20)
    left = WIDTH - MARGIN - font.getlength(family) - 32
    draw.rounded_rectangle((left, MARGIN, WIDTH - MARGIN, MARGIN + 38), 19, COLORS[1])
    draw.text(((left + WIDTH - MARGIN) / 2, MARGIN + 19), family, "white", font, anchor="mm")
    name, room = quoted(concept.name, 60), left - MARGIN - 24
    draw.text((MARGIN, MARGIN + 42), name, INK, _fitting(name, room, 48), anchor="ls")
    count = f"{concept.count} vector{'s'[: concept.count > 1]}"
    known = quoted("  ·  ".join(filter(None, (concept.class_word, count, ", ".join(concept.attributes)))), 80)
    draw.text((MARGIN, MARGIN + 62), known, PALE, _fitting(known, WIDTH - 2 * MARGIN, 20))


def _fitting(text: str, room: float, largest: int) -> Any:
    """The largest font in which a line has room."""
    return next((font for size in range(largest, 10, -1) if (font := _font(size)).getlength(text) <= room), _font(10))


def _tiles(pictures: Sequence[Tensor]) -> list[Image.Image]:
    """All of one size, that of the first's proportions; what is of others is cropped."""
    columns = _columns(len(pictures))
    width = (WIDTH - 2 * MARGIN - GAP * (columns - 1)) // columns
    height, across = pictures[0].shape[:2]
    size = (width, round(width * min(TALLEST, max(FLATTEST, height / across))))
    images = (to_image(picture[..., :3]) for picture in pictures)
    return [ImageOps.fit(image, size, Image.Resampling.LANCZOS) for image in images]


def _columns(count: int) -> int:
    return {1: 1, 2: 2, 4: 2}.get(count, 3)


def _height(tiles: Sequence[Image.Image]) -> int:
    rows = -(-len(tiles) // _columns(len(tiles)))
    return rows * (tiles[0].height + GAP) - GAP


def _paste(card: Image.Image, tiles: Sequence[Image.Image], top: int) -> None:
    """Rows with round corners, a last one that is shorter in the middle."""
    columns, (width, height) = _columns(len(tiles)), tiles[0].size
    corners = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 48, 255)
    corners = corners.resize((width, height), Image.Resampling.LANCZOS)
    for start in range(0, len(tiles), columns):
        row = tiles[start : start + columns]
        left = (WIDTH - len(row) * (width + GAP) + GAP) // 2
        for i, tile in enumerate(row):
            card.paste(tile, (left + i * (width + GAP), top), corners)
        top += height + GAP


def _figures(report: str) -> list[str]:
    """Lines of Concept Report's JSON, or of a text, without the advice that Embedding Doctor's ends with."""
    told = _told(report.partition(f"\n{ADVICE}\n")[0])
    lines = [line for one in told for line in textwrap.wrap(one, LETTERS)]
    return lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], "…"]


def _told(report: str) -> list[str]:
    try:
        found = json.loads(report)
        figures = (
            f"dominance index {found['dominance']:.2f}  ·  of its class word, written as often: {found['usual']:.2f}  ·  other words keep "
            f"{found['kept']:.0%} of their attention"
        )
        return [figures, str(found["verdict"])]
    except (ValueError, TypeError, LookupError, RecursionError):  # any other text
        return report.splitlines()
