"""Where each subject of a prompt goes: boxes and masks, a region for each subject."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..sentences import quoted


@dataclass(frozen=True)
class Box:
    """A region of the canvas. Edges are fractions of its size; the origin is top left."""

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise ValueError(f"A box needs 0 <= left < right <= 1 and 0 <= top < bottom <= 1, but got {self}.")

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)

    def cells(self, height: int, width: int) -> Tensor:
        """(height, width), how much of each cell the box covers, 0..1."""

        def covered(start: float, end: float, count: int) -> Tensor:
            edges = torch.arange(count + 1) / count
            return (edges[1:].clamp_max(end) - edges[:-1].clamp_min(start)).clamp_min(0) * count

        return covered(self.top, self.bottom, height)[:, None] * covered(self.left, self.right, width)

    def shared(self, other: "Box") -> float:
        """The area that both have."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def overlap(self, other: "Box") -> float:
        """The shared area, as a fraction of the smaller box."""
        return self.shared(other) / min(self.area, other.area)

    def within(self, place: "Box") -> "Box":
        """The same part of `place` as this is of the canvas."""

        def put(edge: float, start: float, end: float) -> float:
            return min(end, start + edge * (end - start))

        left, right = (put(edge, place.left, place.right) for edge in (self.left, self.right))
        top, bottom = (put(edge, place.top, place.bottom) for edge in (self.top, self.bottom))
        return Box(left, top, right, bottom)


WHOLE = Box(0, 0, 1, 1)


@dataclass(frozen=True)
class Region:
    """One subject's place.

    Attributes:
        phrase: the subject, as the prompt writes it.
        box: where it goes.
        mask: (h, w) in 0..1, a softer form of the same, or None.
        confidence: 0 (a guess) to 1.
    """

    phrase: str
    box: Box
    mask: Tensor | None = None
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if self.mask is None:
            return
        if self.mask.ndim != 2 or not self.mask.numel():
            raise ValueError(
                f'The mask for "{quoted(self.phrase)}" has shape {tuple(self.mask.shape)}; one mask (height, width) is needed.'
            )
        if not self.mask.isfinite().all():
            raise ValueError(
                f'The mask for "{quoted(self.phrase)}" holds NaN or infinite values; values from 0 to 1 are allowed.'
            )
        if self.mask.max() <= 0:
            raise ValueError(
                f'The mask for "{quoted(self.phrase)}" is black all over; paint white where the subject goes.'
            )

    @property
    def name(self) -> str:
        """Short, for images and messages."""
        return self.phrase.removeprefix("embedding:")

    def cells(self, height: int, width: int) -> Tensor:
        """(height, width) in 0..1: the mask where there is one, else the box."""
        if self.mask is None:
            return self.box.cells(height, width)
        return F.interpolate(self.mask[None, None], size=(height, width), mode="area")[0, 0]


@dataclass(frozen=True)
class Layout:
    """Regions, one for each subject, and where they come from.

    Attributes:
        source: "attention", "predicted", "default boxes" or "my boxes".
        note: what was done to it that its user should know, or "".
        preview: (h, w, 3) in 0..1, the image that it was recovered from as far as it was sampled, or None.
    """

    regions: tuple[Region, ...]
    source: str
    note: str = ""
    preview: Tensor | None = field(default=None, compare=False, repr=False)

    def region(self, phrase: str) -> Region:
        """A subject's; a concept is found by its bare name, too.

        Raises:
            ValueError: the layout has none of it.
        """
        for region in self.regions:
            if phrase in (region.phrase, region.name):
                return region
        known = quoted(", ".join(region.name for region in self.regions))
        raise ValueError(f'The layout has no region of "{quoted(phrase)}"; it has regions of {known}.')

    def merged(self, other: "Layout") -> "Layout":
        """These regions, and another layout's, which count where both have a subject."""
        regions = {region.phrase: region for region in (*self.regions, *other.regions)}
        source = self.source if self.source == other.source else f"{self.source} and {other.source}"
        preview = other.preview if self.preview is None else self.preview
        return Layout(tuple(regions.values()), source, preview=preview)

    def swapped(self, first: str, second: str) -> "Layout":
        """Two subjects in each other's place.

        Raises:
            ValueError: the layout has no region of one of them.
        """
        a, b = self.region(first), self.region(second)
        places = {a.phrase: replace(b, phrase=a.phrase), b.phrase: replace(a, phrase=b.phrase)}
        return replace(self, regions=tuple(places.get(region.phrase, region) for region in self.regions), note="")

    def to_json(self) -> str:
        """Its boxes, for a person to edit."""
        boxes = {
            r.phrase: [round(e, 4) for e in (r.box.left, r.box.top, r.box.right, r.box.bottom)] for r in self.regions
        }
        return json.dumps(boxes)


def region_from_mask(phrase: str, mask: Tensor) -> Region:
    """The region of a mask (h, w) in 0..1; its box holds all that is more than half white.

    Raises:
        ValueError: a mask of another shape, or one that is black.
    """
    mask = mask.detach().float().cpu().clamp(0, 1)
    full = Region(phrase, WHOLE, mask)
    white = mask > 0.5 * mask.max()
    rows, columns = (torch.where(white.any(dim))[0] for dim in (1, 0))
    height, width = mask.shape
    edges = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
    return replace(full, box=Box(*(edge.item() for edge in edges)))


def default_layout(phrases: Sequence[str]) -> Layout:
    """The boxes of the reference implementation for two subjects; one in the middle; more side by side."""
    if len(phrases) == 2:
        boxes = [Box(0.1, 0.2, 0.5, 0.8), Box(0.6, 0.2, 0.95, 0.8)]
    elif len(phrases) == 1:
        boxes = [Box(0.2, 0.2, 0.8, 0.8)]
    else:
        count = len(phrases)
        boxes = [Box((i + 0.05) / count, 0.25, (i + 0.95) / count, 0.75) for i in range(count)]
    return Layout(tuple(Region(p, b, confidence=0.0) for p, b in zip(phrases, boxes, strict=True)), "default boxes")


def layout_by_place(places: Sequence[Box], make: Callable[[Sequence[int]], Layout]) -> Layout:
    """Subjects laid out place by place, as if each were a canvas.

    Args:
        places: of each subject, the part of the canvas that it may be in.
        make: the layout of some of them, by their indices; its regions are boxes.
    """
    groups = {place: [i for i, own in enumerate(places) if own == place] for place in places}
    layouts = {place: make(own) for place, own in groups.items()}
    regions = {
        i: replace(region, box=region.box.within(place))
        for place, own in groups.items()
        for i, region in zip(own, layouts[place].regions, strict=True)
    }
    source = " and ".join(dict.fromkeys(layout.source for layout in layouts.values()))
    note = "; ".join(dict.fromkeys(layout.note for layout in layouts.values() if layout.note))
    return Layout(tuple(regions[i] for i in range(len(places))), source, note)
