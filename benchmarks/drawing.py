"""Curves with intervals, and contact sheets with names, drawn with Pillow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intervals import Estimate
from PIL import Image, ImageDraw, ImageFont

INK, PALE = "#222222", "#dddddd"
SCALE = 2  # drawn so many times as large and made smaller, for smooth lines


@dataclass(frozen=True)
class Curve:
    """Shares in 0..1 at rising positive x, and how it is shown: a colour as (red, green, blue)."""

    name: str
    color: tuple[int, int, int]
    points: Sequence[tuple[float, Estimate]]


def draw_curves(panels: Mapping[str, Sequence[Curve]], across: str, file: Path) -> None:
    """A panel for each title, side by side, x on a logarithmic axis that all of them share."""
    ends = [x for curves in panels.values() for curve in curves for x, _ in curve.points]
    low, high = min(ends) / 1.2, max(ends) * 1.2
    width, height = 330, 300
    whole = Image.new("RGB", (width * len(panels) * SCALE, (height + 30) * SCALE), "white")
    for i, (title, curves) in enumerate(panels.items()):
        panel = _panel(title, curves, across, (low, high), (width * SCALE, height * SCALE))
        whole.paste(panel, (i * width * SCALE, 0))
    pen, left = ImageDraw.Draw(whole), 46 * SCALE
    for curve in next(iter(panels.values())):
        middle = (height + 12) * SCALE
        pen.line([(left, middle), (left + 24 * SCALE, middle)], curve.color, 3 * SCALE)
        pen.text((left + 30 * SCALE, middle), curve.name, INK, _font(12), anchor="lm")
        left += (50 + 7 * len(curve.name)) * SCALE
    whole.resize((whole.width // SCALE, whole.height // SCALE), Image.Resampling.LANCZOS).save(file, optimize=True)


def _panel(
    title: str, curves: Sequence[Curve], across: str, span: tuple[float, float], size: tuple[int, int]
) -> Image.Image:
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image, "RGBA")
    left, right, top, bottom = 46 * SCALE, size[0] - 10 * SCALE, 30 * SCALE, size[1] - 44 * SCALE

    def place(x: float, share: float) -> tuple[float, float]:
        along = math.log(x / span[0]) / math.log(span[1] / span[0])
        return left + along * (right - left), bottom - share * (bottom - top)

    pen.text(((left + right) / 2, 12 * SCALE), title, INK, _font(13), anchor="mm")
    for share in (0, 0.25, 0.5, 0.75, 1):
        _, y = place(span[0], share)
        pen.line([(left, y), (right, y)], PALE, SCALE)
        pen.text((left - 6 * SCALE, y), f"{share:.0%}", INK, _font(11), anchor="rm")
    for power in range(math.ceil(math.log10(span[0])), math.floor(math.log10(span[1])) + 1):
        x, _ = place(10**power, 0)
        pen.line([(x, top), (x, bottom)], PALE, SCALE)
        pen.text((x, bottom + 12 * SCALE), f"{10**power:,}", INK, _font(11), anchor="mm")
    pen.text(((left + right) / 2, bottom + 30 * SCALE), across, INK, _font(11), anchor="mm")
    for curve in curves:
        upper = [place(x, e.high) for x, e in curve.points]
        lower = [place(x, e.low) for x, e in curve.points]
        pen.polygon([*upper, *reversed(lower)], (*curve.color, 45))
    for curve in curves:
        line = [place(x, e.value) for x, e in curve.points]
        pen.line(line, curve.color, 2 * SCALE, joint="curve")
        for x, y in line:
            pen.ellipse([x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE], curve.color)
    return image


@dataclass(frozen=True)
class Point:
    """A share in 0..1 at some cost."""

    name: str
    cost: float
    share: Estimate


COLORS = (
    "#222222", "#9467bd", "#1f77b4", "#17becf", "#8c564b", "#2ca02c", "#98c21f", "#d62728", "#e377c2", "#ff7f0e",
    "#7f7f7f", "#003f5c", "#b3a100", "#8b0045", "#5f6cff", "#00806c",
)  # fmt: skip


def draw_points(panels: Mapping[str, Sequence[Point]], across: str, up: str, limit: float, file: Path) -> None:
    """A panel for each title, side by side, with a line at a limit of the cost; the names below, each with its colour."""
    width, height, row = 380, 300, 16
    top, bottom = 30 * SCALE, (height - 44) * SCALE
    names = [point.name for point in next(iter(panels.values()))]
    most = max(point.cost for points in panels.values() for point in points)
    low = min(point.share.low for points in panels.values() for point in points) // 0.1 * 0.1
    whole = Image.new("RGB", (width * len(panels) * SCALE, (height + 12 + row * len(names)) * SCALE), "white")
    pen = ImageDraw.Draw(whole)
    for i, (title, points) in enumerate(panels.items()):
        left, right = (i * width + 46) * SCALE, ((i + 1) * width - 16) * SCALE

        def place(cost: float, share: float, left: int = left, right: int = right) -> tuple[float, float]:
            along = (cost - 0.95) / (most + 0.05 - 0.95)
            return left + along * (right - left), bottom - (share - low) / (1 - low) * (bottom - top)

        pen.text(((left + right) / 2, 12 * SCALE), title, INK, _font(13), anchor="mm")
        for tenth in range(round(low * 10), 11):
            _, y = place(1, tenth / 10)
            pen.line([(left, y), (right, y)], PALE, SCALE)
            pen.text((left - 6 * SCALE, y), f"{tenth / 10:.0%}", INK, _font(11), anchor="rm")
        for quarter in range(4, math.floor(4 * most) + 1):
            x, _ = place(quarter / 4, low)
            pen.text((x, bottom + 12 * SCALE), f"{quarter / 4:g}", INK, _font(11), anchor="mm")
        x, _ = place(limit, low)
        pen.line([(x, top), (x, bottom)], "#bbbbbb", SCALE)
        pen.text(((left + right) / 2, bottom + 30 * SCALE), f"{across}; {up}", INK, _font(11), anchor="mm")
        for number, (point, color) in enumerate(zip(points, COLORS[: len(points)], strict=True)):
            apart = (number - len(points) / 2) * 2 * SCALE  # for points of one cost would hide each other
            (x, y), (_, high), (_, deep) = (
                place(point.cost, value) for value in (point.share.value, point.share.high, point.share.low)
            )
            x += apart
            pen.line([(x, deep), (x, high)], color, SCALE)
            pen.ellipse([x - 5 * SCALE, y - 5 * SCALE, x + 5 * SCALE, y + 5 * SCALE], color)
    for line, (name, color) in enumerate(zip(names, COLORS[: len(names)], strict=True)):
        y = (height + 6 + row * line) * SCALE
        pen.ellipse([46 * SCALE, y - 5 * SCALE, 56 * SCALE, y + 5 * SCALE], color)
        pen.text((64 * SCALE, y), name, INK, _font(12), anchor="lm")
    whole.resize((whole.width // SCALE, whole.height // SCALE), Image.Resampling.LANCZOS).save(file, optimize=True)


def draw_sheet(rows: Mapping[str, Image.Image], columns: Sequence[str], file: Path) -> None:
    """Strips of pictures, one below the other, with the names of the rows and the columns."""
    side, height = next(iter(rows.values())).width // len(columns), next(iter(rows.values())).height
    names, head = 120, 30
    whole = Image.new("RGB", (names + side * len(columns), head + len(rows) * (height + 2)), "white")
    pen = ImageDraw.Draw(whole)
    for i, name in enumerate(columns):
        pen.multiline_text((names + (i + 0.5) * side, head / 2), name, INK, _font(10, 1), anchor="mm", align="center")
    for line, (name, strip) in enumerate(rows.items()):
        top = head + line * (height + 2)
        pen.text((4, top + height / 2), name, INK, _font(11, 1), anchor="lm")
        whole.paste(strip, (names, top))
    whole.save(file, quality=85, optimize=True)


def _font(size: int, scale: int = SCALE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * scale)
