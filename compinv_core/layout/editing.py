"""A layout as text, whole, and a user's edits of one: they count until the layout changes that they were made of."""

import base64
import hashlib
import io
import json
from dataclasses import replace
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from ..sentences import quoted
from .regions import Box, Layout, Region

MINE = "my boxes"
PNG = "data:image/png;base64,"
MAX_SIDE = 4096  # pixels of a mask; a small file may say that it has any number
MAX_TEXT = 2**24  # letters; masks make it long
Entry = tuple[str, list[float], Tensor | None, float]  # of a region: its subject, edges, mask and confidence


def whole_json(layout: Layout) -> str:
    """All of a layout but its preview, as `layout_from_json` reads it: boxes exactly, masks in steps of 1/255."""
    regions: list[dict[str, Any]] = []
    for region in layout.regions:
        entry = {"subject": region.phrase, "box": _edges_of(region.box), "confidence": region.confidence}
        regions.append(entry if region.mask is None else {**entry, "mask": _to_png(region.mask)})
    return json.dumps({"regions": regions, "source": layout.source, "note": layout.note})


def layout_from_json(text: str, name: str = "boxes") -> Layout:
    """A layout written by hand, {"cat": [left, top, right, bottom], ...}, or a whole one from `whole_json`.

    Args:
        name: of the input that holds the text, for errors.

    Raises:
        ValueError: of neither form, a subject twice, edges outside 0..1, or a mask that is no picture.
    """
    try:
        if len(text) > MAX_TEXT:
            raise ValueError(f"it has {len(text)} letters, up to {MAX_TEXT} are read")
        raw: Any = json.loads(text)
        listed: Any = raw.get("regions")
        whole = isinstance(listed, list) and not any(isinstance(one, (int, float)) for one in cast("list[Any]", listed))
        entries: list[Entry]
        if whole:
            entries = [_entry(one) for one in cast("list[Any]", listed)]
        else:
            entries = [(str(phrase), _edges(box), None, 1.0) for phrase, box in raw.items()]
        if not entries:
            raise ValueError("it names no subject")
        source, note = (str(raw.get("source", MINE)), str(raw.get("note", ""))) if whole else (MINE, "")
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f'The input "{name}" cannot be read ({quoted(str(error))}); write {{"cat": [left, top, right, bottom]}} in fractions of 1.'
        ) from error
    phrases = [phrase for phrase, *_ in entries]
    for phrase in phrases:
        if phrases.count(phrase) > 1:
            raise ValueError(f'The input "{name}" has two regions of "{quoted(phrase)}"; a subject has one.')
    regions = tuple(Region(phrase, Box(*edges), mask, sure) for phrase, edges, mask, sure in entries)
    return Layout(regions, source, note)


def edited(upstream: Layout | None, text: str, name: str = "edits") -> Layout:
    """A user's edits where they count, else the layout that they may be edits of.

    Edits from the editor carry the `fingerprint` of the layout that they were made of, as "upstream": once another comes, they no longer
    count. Edits without one, written by hand, always do.

    Raises:
        ValueError: edits that cannot be read, or neither edits nor a layout.
    """
    if not text.strip():
        if upstream is None:
            raise ValueError(
                f'The input "{name}" is empty and no layout is connected; draw a box, or write {{"cat": [left, top, right, bottom]}}.'
            )
        return upstream
    layout = layout_from_json(text, name)
    if upstream is None:
        return layout
    made_of: Any = json.loads(text).get("upstream")
    if isinstance(made_of, str) and made_of != fingerprint(upstream):
        return upstream
    return replace(layout, preview=upstream.preview)


def fingerprint(layout: Layout) -> str:
    """The same for layouts that look the same: boxes to a thousandth of the canvas, masks to a tenth of white."""
    seen = hashlib.sha256()
    for region in layout.regions:
        edges = [round(edge, 3) for edge in _edges_of(region.box)]
        seen.update(json.dumps([region.phrase, edges]).encode())
        if region.mask is not None:
            seen.update(_levels(region.mask, 10))
    return seen.hexdigest()[:16]


def _edges_of(box: Box) -> list[float]:
    return [float(edge) for edge in (box.left, box.top, box.right, box.bottom)]


def _entry(entry: Any) -> Entry:
    sure = float(entry.get("confidence", 1.0))
    if not 0 <= sure <= 1:
        raise ValueError(f"a confidence is {sure}; 0 to 1 is allowed")
    mask = entry.get("mask")
    return str(entry["subject"]), _edges(entry["box"]), None if mask is None else _from_png(mask), sure


def _edges(box: Any) -> list[float]:
    edges = [float(edge) for edge in box]
    if len(edges) != 4:
        raise ValueError("a box has four edges")
    return edges


def _levels(mask: Tensor, steps: int) -> bytes:
    levels = (mask.detach().float().cpu().clamp(0, 1) * steps).round().byte()
    return bytes(cast("list[int]", levels.flatten().tolist()))


def _to_png(mask: Tensor) -> str:
    image = Image.frombytes("L", (mask.shape[1], mask.shape[0]), _levels(mask, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return PNG + base64.b64encode(file.getvalue()).decode()


def _from_png(text: str) -> Tensor:
    """Raises ValueError when it is none."""
    try:
        file = io.BytesIO(base64.b64decode(text.removeprefix(PNG), validate=True))
        image = Image.open(file, formats=["PNG"])
        if max(image.size) > MAX_SIDE:
            raise ValueError(f"it has {image.width} x {image.height} pixels, up to {MAX_SIDE} a side are read")
        image = image.convert("L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a mask cannot be read: {error}") from error
    levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return levels.view(image.height, image.width).float() / 255
