"""Anchors as bars, for a person to look at."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ..compinv_core.anchors import AnchorSet
from ..compinv_core.sentences import quoted

WIDTH, TOP, ROW, MARGIN = 640, 84, 40, 20  # pixels
LEFT, RIGHT = 210, 76  # pixels, of the words and of the numbers
MOST_ROWS = 20
LETTERS = 18  # of a word
WHITE, INK, PALE, WEIGHT, SIMILARITY = "#ffffff", "#222222", "#e8eaee", "#1f6feb", "#d1590b"


def anchor_picture(anchors: AnchorSet, lines: Sequence[tuple[str, float, float]]) -> Image.Image:
    """A row of two bars for each anchor: its weight and its similarity, both on one scale from 0 to 1.

    Args:
        lines: of each anchor, the heaviest first, the word, its weight, and its similarity to what anchors were chosen by, as a cosine;
            one below 0 has no bar.
    """
    shown = lines[:MOST_ROWS]
    left_out = len(lines) - len(shown)
    image = Image.new("RGB", (WIDTH, TOP + ROW * len(shown) + (28 if left_out else 0) + MARGIN // 2), WHITE)
    draw = ImageDraw.Draw(image)
    learnt = ", weights as training begins" if anchors.learnt else ""
    draw.text((MARGIN, 14), f'anchors of "{quoted(anchors.class_word, 30)}"{learnt}', INK, ImageFont.load_default(20))
    left = MARGIN
    for name, color in (("weight", WEIGHT), ("similarity (cosine)", SIMILARITY)):
        draw.rectangle([left, 53, left + 12, 65], color)
        draw.text((left + 20, 59), name, INK, ImageFont.load_default(16), anchor="lm")
        left += 44 + draw.textlength(name, ImageFont.load_default(16))
    for row, (word, weight, likeness) in enumerate(shown):
        top = TOP + ROW * row
        draw.text((LEFT - 12, top + 15), quoted(word, LETTERS), INK, ImageFont.load_default(18), anchor="rm")
        for y, amount, color in ((top + 2, weight, WEIGHT), (top + 17, likeness, SIMILARITY)):
            _bar(draw, y, amount, color)
    if left_out:
        rest = f"and {left_out} more, {sum(weight for _, weight, _ in lines[MOST_ROWS:]):.0%} of the weight"
        draw.text((LEFT, image.height - MARGIN), rest, INK, ImageFont.load_default(16), anchor="lm")
    return image


def _bar(draw: ImageDraw.ImageDraw, top: int, amount: float, color: str) -> None:
    """A bar in its track, with its number behind it."""
    full = WIDTH - LEFT - RIGHT
    draw.rectangle([LEFT, top, LEFT + full, top + 12], PALE)
    if amount > 0:
        draw.rectangle([LEFT, top, LEFT + max(1, round(full * min(1.0, amount))), top + 12], color)
    draw.text((WIDTH - RIGHT + 10, top + 6), f"{amount:.2f}", INK, ImageFont.load_default(15), anchor="lm")
