"""A run's losses: drawn, and for ComfyUI's own Plot Loss Graph."""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from ..compinv_core.training.checkpoint import Checkpoint
from .pictures import from_image

WIDTH, HEIGHT, TALLEST = (
    640,
    240,
    480,
)  # pixels of a panel, and of all together, for a preview on a node grows with them
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 34, 30  # pixels around its axes
INK, PALE, TRAINING, VALIDATION = "#222222", "#dddddd", "#7fb0ef", "#d1590b"
MOST_POINTS = 50  # of a curve; training losses are noisy and are averaged

Curve = Sequence[tuple[int, float]]
"""Steps and losses."""


def loss_map(end: Checkpoint) -> dict[str, list[float]]:
    """The losses of a run's evaluations, for Plot Loss Graph."""
    return {"loss": [loss for _, loss in evaluations(end)]}


def evaluations(end: Checkpoint) -> Curve:
    """The initial one first."""
    return [(0, end.initial_loss), *((p.step, p.evaluation) for p in end.history if p.evaluation is not None)]


def loss_plot(end: Checkpoint) -> torch.Tensor:
    """(1, H, W, 3): a panel for each loss over the steps, that of training averaged, that of validation a dot each."""
    history = end.history
    panels: list[tuple[str, Curve, Curve]] = [
        ("reconstruction loss", averaged([(p.step, p.reconstruction) for p in history]), evaluations(end))
    ]
    if any(p.objective != p.reconstruction for p in history):
        panels.append(("DCO loss", averaged([(p.step, p.objective) for p in history]), ()))
    if any(p.anchor for p in history):
        panels.append(("anchor loss", averaged([(p.step, p.anchor) for p in history]), ()))
    height = min(HEIGHT, TALLEST // len(panels))
    whole = Image.new("RGB", (WIDTH, height * len(panels)), "white")
    for row, (title, training, validation) in enumerate(panels):
        whole.paste(_panel(title, training, validation, history[-1].step, height), (0, height * row))
    return from_image(whole)


def averaged(curve: Curve) -> Curve:
    """Means of neighbours, each at the last of its steps."""
    window = math.ceil(len(curve) / MOST_POINTS)
    parts = [curve[i : i + window] for i in range(0, len(curve), window)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers from `low` to `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _panel(title: str, training: Curve, validation: Curve, steps: int, height: int) -> Image.Image:
    image = Image.new("RGB", (WIDTH, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    losses = [loss for _, loss in [*training, *validation]]
    low, high = min(losses), max(losses)
    room = 0.06 * (high - low) or abs(high) / 10 or 1.0
    low, high = low - room, high + room

    def place(step: float, loss: float) -> tuple[float, float]:
        across, up = step / steps, (loss - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), height - BOTTOM - up * (height - TOP - BOTTOM)

    for loss in ticks(low, high):
        _, y = place(0, loss)
        draw.line([(LEFT, y), (WIDTH - RIGHT, y)], PALE)
        draw.text((LEFT - 8, y), f"{loss:.4g}", INK, font, anchor="rm")
    for step in ticks(0, steps):
        x, y = place(step, low)
        draw.line([(x, y), (x, y + 4)], INK)
        draw.text((x, y + 7), f"{step:g}", INK, font, anchor="mt")
    draw.line([place(0, high), place(0, low), place(steps, low)], INK)
    draw.text((LEFT, 8), title, INK, font)
    draw.text((WIDTH - RIGHT, 8), "steps", INK, font, anchor="ra")
    points = [place(*point) for point in training]
    draw.line(points if len(points) > 1 else points * 2, TRAINING, 2)
    for x, y in (place(*point) for point in validation):
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], VALIDATION)
    left = LEFT + draw.textlength(title, font) + 24
    for name, color in (("training", TRAINING), ("validation", VALIDATION))[: 1 + bool(validation)]:
        draw.ellipse([left, 12, left + 8, 20], color)
        draw.text((left + 14, 8), name, INK, font)
        left += 14 + draw.textlength(name, font) + 20
    return image
