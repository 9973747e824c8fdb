"""Where a model would put each subject: boxes read off its cross-attention."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from .regions import Box, Layout, Region, default_layout

MIN_CONFIDENCE = 0.08  # 0..1; under it the attention says no more than that the subject is somewhere
SHARED_EXTENT = (
    0.8  # of the canvas's width or height, for the least extents of all boxes: a thing is larger than its attention
)
BOX_SHARE = 0.8  # of a subject's attention, which its box holds along each axis


def layout_from_attention(maps: Tensor, phrases: Sequence[str]) -> Layout:
    """Read each subject's place off its attention.

    Each map keeps what stands out of its own mean, shared out where subjects compete for a cell. Subjects on the same spot
    are separated. Where a map says too little, the default boxes take over for all.

    Args:
        maps: (S, h, w), how strongly each cell attends to subject s; non-negative.
    """
    strong = (maps - maps.mean(dim=(1, 2), keepdim=True)).clamp_min(0)
    strong = strong / strong.amax(dim=(1, 2), keepdim=True).clamp_min(1e-8)
    shares = strong * strong / strong.sum(dim=0, keepdim=True).clamp_min(1e-8)
    regions: list[Region] = []
    least = SHARED_EXTENT / max(2, len(phrases))
    for phrase, own, raw in zip(phrases, shares, maps, strict=True):
        box = _box(own, least)
        inside = (raw * box.cells(*raw.shape)).sum() / raw.sum().clamp_min(1e-8)
        confidence = ((inside - box.area) / max(1e-6, 1 - box.area)).clamp(0, 1).item()
        regions.append(Region(phrase, box, None, confidence))
    uncertain = [region.name for region in regions if region.confidence < MIN_CONFIDENCE]
    if uncertain:
        note = f"attention is too diffuse to locate {' and '.join(uncertain)}"
        return replace(default_layout(phrases), note=note)
    separate, moved = _separate(regions, least)
    note = f"overlapping, so separated: {'; '.join(f'{a} and {b}' for a, b in moved)}" if moved else ""
    return Layout(tuple(separate), "attention", note)


def _box(weights: Tensor, least: float) -> Box:
    """The box that holds the middle of a map's mass along each axis, at least so much of the canvas wide and high."""
    (left, right), (top, bottom) = _span(weights.sum(0), least), _span(weights.sum(1), least)
    return Box(left, top, right, bottom)


def _span(marginal: Tensor, least: float) -> tuple[float, float]:
    """Where the middle BOX_SHARE of a map's mass along an axis starts and ends, in fractions of the canvas."""
    shares = torch.cat([torch.zeros(1), marginal.cumsum(0) / marginal.sum().clamp_min(1e-8)])
    steps = cast("list[float]", shares.tolist())
    start, end = _quantile(steps, (1 - BOX_SHARE) / 2), _quantile(steps, (1 + BOX_SHARE) / 2)
    wider = max(0.0, least - (end - start)) / 2
    return max(0.0, start - wider), min(1.0, end + wider)


def _quantile(cumulative: Sequence[float], share: float) -> float:
    """Where a cumulative sum from 0 to 1, at n + 1 places along an axis, reaches a share; a fraction of the axis."""
    count = len(cumulative) - 1
    for i in range(count):
        if cumulative[i + 1] >= share:
            gap = cumulative[i + 1] - cumulative[i]
            return (i + ((share - cumulative[i]) / gap if gap > 0 else 0.0)) / count
    return 1.0


def _separate(regions: list[Region], least: float, allowed: float = 0.25) -> tuple[list[Region], list[tuple[str, str]]]:
    """Separate boxes that share more than `allowed` of the smaller one, along the axis on which their centres differ more; each
    keeps at least so much of the canvas along it.

    Returns:
        The regions, and the names of those that were moved.
    """
    result = list(regions)
    moved: list[tuple[str, str]] = []
    for i in range(len(result)):
        for j in range(i + 1, len(result)):
            a, b = result[i].box, result[j].box
            if a.overlap(b) <= allowed:
                continue
            moved.append((result[i].name, result[j].name))
            across = (b.left + b.right - a.left - a.right) / 2
            down = (b.top + b.bottom - a.top - a.bottom) / 2
            if abs(across) >= abs(down):
                first, second = (i, j) if across >= 0 else (j, i)
                cut = min(max((result[first].box.right + result[second].box.left) / 2, least), 1 - least)
                f, s = result[first].box, result[second].box
                result[first] = replace(result[first], box=Box(min(f.left, cut - least), f.top, cut, f.bottom))
                result[second] = replace(result[second], box=Box(cut, s.top, max(s.right, cut + least), s.bottom))
            else:
                first, second = (i, j) if down >= 0 else (j, i)
                cut = min(max((result[first].box.bottom + result[second].box.top) / 2, least), 1 - least)
                f, s = result[first].box, result[second].box
                result[first] = replace(result[first], box=Box(f.left, min(f.top, cut - least), f.right, cut))
                result[second] = replace(result[second], box=Box(s.left, cut, s.right, max(s.bottom, cut + least)))
    return result, moved
