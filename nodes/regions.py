"""Set Region, Merge Layouts, Swap Regions, Layout to Boxes, Boxes to Layout: a layout is the user's, in and out of ComfyUI's own types."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..compinv_core.layout.editing import MINE
from ..compinv_core.layout.regions import Box, Layout, Region, region_from_mask
from ..compinv_core.sentences import quoted
from .pictures import COLORS, from_image, layout_picture
from .types import CATEGORY, LayoutType, found_by

BoundingBox = io.Custom("BOUNDING_BOX")  # pixels: {"x", "y", "width", "height"}, or lists of these, one list a picture
AnyBoxes = io.Custom("BOUNDING_BOX,BOUNDING_BOXES,ARRAY")  # what box editors and detectors give


def canvas_inputs(of: str = "") -> list[Any]:
    """The pixels that boxes and masks are in."""
    return [
        io.Int.Input(name, default=512, min=8, max=16384, tooltip=f"Canvas {name}{of}, in pixels.")
        for name in ("width", "height")
    ]


def region_outputs() -> list[Any]:
    """A layout's regions in ComfyUI's own types."""
    return [
        BoundingBox.Output(
            "BOUNDING_BOXES", display_name="boxes", tooltip="One list of bounding boxes, one per subject, in pixels."
        ),
        io.Mask.Output("MASKS", display_name="masks", tooltip="One mask per subject, in the same order as the boxes."),
    ]


def boxes_and_masks(layout: Layout, width: int, height: int) -> tuple[list[list[dict[str, Any]]], Tensor]:
    """A layout's regions as BOUNDING_BOX, labelled as ComfyUI's own box editor labels them, and as masks (R, height, width)."""
    boxes: list[dict[str, Any]] = []
    for i, region in enumerate(layout.regions):
        left, top = round(region.box.left * width), round(region.box.top * height)
        right, bottom = round(region.box.right * width), round(region.box.bottom * height)
        label = {"type": "obj", "text": "", "desc": region.phrase, "palette": [COLORS[i % len(COLORS)]]}
        size = {"width": max(1, right - left), "height": max(1, bottom - top)}
        boxes.append({"x": left, "y": top, **size, "metadata": label})
    return [boxes], torch.stack([region.cells(height, width) for region in layout.regions])


def _layout_outputs() -> list[Any]:
    return [
        LayoutType.Output(
            "LAYOUT", display_name="layout", tooltip="For Regularized Sampler or Apply Spatial Regularization."
        ),
        io.Image.Output("PREVIEW", display_name="preview", tooltip="The layout's regions, drawn with their subjects."),
    ]


def _shown(layout: Layout) -> io.NodeOutput:
    return io.NodeOutput(layout, from_image(layout_picture(layout, preview=layout.preview)))


class CompInvSetRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def edge(name: str, default: float, tooltip: str) -> Any:
            return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)

        return io.Schema(
            node_id="CompInvSetRegion",
            display_name="Set Region",
            category=CATEGORY,
            **found_by("mask", "regional prompt", "bounding box", "area"),
            description="Sets one subject's region from a mask, a bounding box, or the four edges below. Chain one per subject, "
            "or correct a recovered layout.",
            inputs=[
                LayoutType.Input(
                    "layout",
                    optional=True,
                    tooltip="The layout to change: this subject's region is added or replaced. Unconnected: a new layout.",
                ),
                io.String.Input(
                    "subject",
                    default="cat",
                    tooltip="The subject exactly as in the prompt; a concept as embedding:name.",
                ),
                edge(
                    "left",
                    0.1,
                    "Left edge, a fraction of the canvas width. Ignored when a mask or a bounding box is connected.",
                ),
                edge(
                    "top",
                    0.2,
                    "Top edge, a fraction of the canvas height. Ignored when a mask or a bounding box is connected.",
                ),
                edge(
                    "right",
                    0.5,
                    "Right edge, a fraction of the canvas width. Ignored when a mask or a bounding box is connected.",
                ),
                edge(
                    "bottom",
                    0.8,
                    "Bottom edge, a fraction of the canvas height. Ignored when a mask or a bounding box is connected.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the subject goes; same aspect ratio as the canvas. Unconnected: bounding_box or the edges.",
                ),
                BoundingBox.Input(
                    "bounding_box",
                    optional=True,
                    tooltip="In pixels of a canvas of width x height below. Unconnected: mask or the edges.",
                    extra_dict={
                        "forceInput": True
                    },  # else newer front ends make widgets of it, whose box is then always there
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=8,
                    max=16384,
                    tooltip="Canvas width that bounding_box refers to, in pixels. Ignored without it.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=8,
                    max=16384,
                    tooltip="Canvas height that bounding_box refers to, in pixels. Ignored without it.",
                ),
            ],
            outputs=_layout_outputs(),
        )

    @classmethod
    def execute(
        cls,
        subject: str,
        left: float,
        top: float,
        right: float,
        bottom: float,
        width: int,
        height: int,
        layout: Layout | None = None,
        mask: Tensor | None = None,
        bounding_box: Any = None,
    ) -> io.NodeOutput:
        phrase = subject.strip()
        if not phrase:
            raise ValueError('The input "subject" is empty; write the subject as the prompt does.')
        if mask is not None and bounding_box is not None:
            raise ValueError('Both "mask" and "bounding_box" are connected; connect one of them.')
        if mask is not None:
            if mask.ndim < 2 or (count := math.prod(mask.shape[:-2])) != 1:
                what = f"holds {count} masks" if mask.ndim == 3 else f"has the shape {tuple(mask.shape)}"
                raise ValueError(f'The input "mask" {what}; a region has one, (height, width).')
            region = region_from_mask(phrase, mask.reshape(mask.shape[-2:]))
        elif bounding_box is not None:
            region = Region(phrase, _box(bounding_box, width, height))
        else:
            region = Region(phrase, Box(left, top, right, bottom))
        known = () if layout is None else layout.regions
        region = next((_renamed(region, r) for r in known if phrase == r.name), region)
        mine = Layout((region,), MINE)
        return _shown(mine if layout is None else layout.merged(mine))


class CompInvMergeLayouts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvMergeLayouts",
            display_name="Merge Layouts",
            category=CATEGORY,
            description="Combines two layouts. Where both have a region for a subject, the second wins.",
            inputs=[
                LayoutType.Input("first", tooltip="Used for subjects that the second has no region for."),
                LayoutType.Input("second", tooltip="Wins where both have a region for a subject."),
            ],
            outputs=_layout_outputs(),
        )

    @classmethod
    def execute(cls, first: Layout, second: Layout) -> io.NodeOutput:
        return _shown(first.merged(second))


class CompInvSwapRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvSwapRegions",
            display_name="Swap Regions",
            category=CATEGORY,
            description="Exchanges the regions of two subjects.",
            inputs=[
                LayoutType.Input("layout", tooltip="A layout with a region for each of the two."),
                io.String.Input("first", default="cat", tooltip="One subject, as the layout's preview writes it."),
                io.String.Input("second", default="car", tooltip="The other subject."),
            ],
            outputs=_layout_outputs(),
        )

    @classmethod
    def execute(cls, layout: Layout, first: str, second: str) -> io.NodeOutput:
        return _shown(layout.swapped(first.strip(), second.strip()))


class CompInvLayoutToBoxes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvLayoutToBoxes",
            display_name="Layout to Boxes",
            category=CATEGORY,
            **found_by("bounding box", "mask"),
            description="Converts a layout to bounding boxes, masks and JSON, for regional prompting, detailers and box editors.",
            inputs=[
                LayoutType.Input("layout", tooltip="The layout to convert."),
                *canvas_inputs(),
            ],
            outputs=[
                *region_outputs(),
                io.String.Output(
                    "JSON",
                    display_name="json",
                    tooltip='The boxes as JSON, in fractions of the canvas, for Spatial Layout Recover\'s "my boxes".',
                ),
                io.String.Output(
                    "SUBJECTS",
                    display_name="subjects",
                    tooltip="The subjects in the order of boxes and masks, one per line.",
                ),
            ],
        )

    @classmethod
    def execute(cls, layout: Layout, width: int, height: int) -> io.NodeOutput:
        if not layout.regions:
            raise ValueError('The input "layout" has no region; set one with Set Region.')
        boxes, masks = boxes_and_masks(layout, width, height)
        names = "\n".join(region.phrase for region in layout.regions)
        return io.NodeOutput(boxes, masks, layout.to_json(), names)


class CompInvBoxesToLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvBoxesToLayout",
            display_name="Boxes to Layout",
            category=CATEGORY,
            **found_by("bounding box", "detection"),
            description="Makes a layout of bounding boxes, from a box editor or a detector: each box is the region of the subject that its label "
            "names, or of the subject in the same place of the list.",
            inputs=[
                AnyBoxes.Input(
                    "boxes", tooltip="Bounding boxes of one image, in pixels of a canvas of width x height."
                ),
                io.String.Input(
                    "subjects",
                    default="",
                    multiline=True,
                    tooltip="The subjects as in the prompt, separated by commas or lines; a concept as embedding:name. A box whose label is "
                    "one of them is its region; boxes without labels take them in order. Empty: the boxes' labels.",
                ),
                *canvas_inputs(" that the boxes refer to"),
            ],
            outputs=_layout_outputs(),
        )

    @classmethod
    def execute(cls, boxes: Any, subjects: str, width: int, height: int) -> io.NodeOutput:
        found = [(_label(box), _box(box, width, height, "boxes")) for box in _one_image(boxes)]
        names = [name for line in subjects.splitlines() for part in line.split(",") if (name := part.strip())]
        return _shown(Layout(tuple(Region(name, box) for name, box in _named(found, names)), MINE))


def _named(found: list[tuple[str, Box]], names: list[str]) -> Iterator[tuple[str, Box]]:
    """Each box with its subject: the one that its label is, bare or as embedding:name, else the next of the list that no label is.

    Raises:
        ValueError: two boxes of one subject, or a box without one.
    """
    whose = {name.removeprefix("embedding:"): name for name in names}
    labels = [label.removeprefix("embedding:") for label, _ in found]
    rest = iter([name for bare, name in whose.items() if bare not in labels])
    taken = set[str]()
    for number, (label, (written, box)) in enumerate(zip(labels, found, strict=True), 1):
        name = whose.get(label) or (next(rest, "") if names else written)
        if not name:
            raise ValueError(
                f'The input "subjects" names {len(names)} and the input "boxes" holds {len(found)}: box {number} has no subject; add it.'
            )
        if name in taken:
            raise ValueError(f'The input "boxes" holds two boxes of "{quoted(name)}"; a subject has one region.')
        taken.add(name)
        yield name, box


def _one_image(boxes: Any) -> list[Any]:
    """The boxes of one image: a box, a list of them, or a list of one such list.

    Raises:
        ValueError: of several images, or none at all.
    """
    found: list[Any] = list(boxes) if isinstance(boxes, (list, tuple)) else [boxes]
    while found and isinstance(found[0], (list, tuple)):
        if len(found) > 1:
            raise ValueError(f'The input "boxes" holds the boxes of {len(found)} images; give those of one.')
        found = list(found[0])
    if not found:
        raise ValueError('The input "boxes" holds no box; connect at least one.')
    return found


def _label(box: Any) -> str:
    """What a box says that it shows: a detector's label, or the description that ComfyUI's own box editor gives it."""
    metadata = box.get("metadata") if isinstance(box, dict) else None
    places = [box if isinstance(box, dict) else {}, metadata if isinstance(metadata, dict) else {}]
    said = (str(place.get(key) or "").strip() for place in places for key in ("label", "desc"))
    return next(filter(None, said), "")


def _renamed(region: Region, known: Region) -> Region:
    return Region(known.phrase, region.box, region.mask)


def _box(value: Any, width: int, height: int, name: str = "bounding_box") -> Box:
    """The one box of a BOUNDING_BOX, however deep in lists."""
    while isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise ValueError(f'The input "{name}" holds {len(value)} boxes; a region has one.')
        value = value[0]
    try:
        left, top, wide, tall = (float(value[key]) for key in ("x", "y", "width", "height"))
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(
            f'The input "{name}" cannot be read; a box needs the numbers x, y, width and height, in pixels.'
        ) from error
    return Box(left / width, top / height, (left + wide) / width, (top + tall) / height)


NODES = [CompInvSetRegion, CompInvMergeLayouts, CompInvSwapRegions, CompInvLayoutToBoxes, CompInvBoxesToLayout]
