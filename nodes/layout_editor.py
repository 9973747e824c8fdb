"""Layout Editor: a layout by mouse, keyboard or touch. The boxes are drawn in web/js/layout_editor.js and live in the input "edits"."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..compinv_core.layout.editing import edited, fingerprint, whole_json
from ..compinv_core.layout.regions import Layout
from .pictures import from_image, layout_picture
from .regions import boxes_and_masks, canvas_inputs, region_outputs
from .types import CATEGORY, LayoutType, found_by


class CompInvLayoutEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvLayoutEditor",
            display_name="Layout Editor",
            category=CATEGORY,
            **found_by("box editor", "bounding box", "regional prompt", "draw boxes", "mask"),
            description="Edits a layout on the node: drag, resize, add and remove the subjects' boxes. Draws a layout from scratch, or corrects "
            "a recovered one; edits last until that changes.",
            is_output_node=True,
            inputs=[
                LayoutType.Input(
                    "layout",
                    optional=True,
                    tooltip="The layout to start from; when another comes, it replaces the edits. Unconnected: the boxes are drawn from scratch.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Drawn behind the boxes. Unconnected: the layout's own latent preview, when it was recovered from attention.",
                ),
                io.String.Input(
                    "edits",
                    default="",
                    multiline=True,
                    tooltip='The edited layout as JSON, written by the editor. By hand: {"cat": [left, top, right, bottom], ...} in fractions of '
                    "the canvas. Empty: the layout as it comes.",
                ),
                *canvas_inputs(" for boxes and masks"),
            ],
            outputs=[
                LayoutType.Output(
                    "LAYOUT",
                    display_name="layout",
                    tooltip="For Regularized Sampler or Apply Spatial Regularization.",
                ),
                *region_outputs(),
                io.Image.Output("PREVIEW", display_name="preview", tooltip="The regions, drawn with their subjects."),
                io.String.Output("JSON", display_name="json", tooltip="The whole layout as JSON, masks included."),
            ],
        )

    @classmethod
    def execute(
        cls, edits: str, width: int, height: int, layout: Layout | None = None, image: torch.Tensor | None = None
    ) -> io.NodeOutput:
        shown = edited(layout, edits)
        behind = layout.preview if image is None and layout is not None else None if image is None else image[0]
        picture = from_image(layout_picture(shown, preview=behind))
        return io.NodeOutput(
            shown,
            *boxes_and_masks(shown, width, height),
            picture,
            whole_json(shown),
            ui=canvas(cls, shown, layout, behind),
        )


def canvas(
    cls: type[io.ComfyNode], shown: Layout, upstream: Layout | None, behind: torch.Tensor | None
) -> dict[str, Any]:
    """What the editor on the page draws: the layout as it came, what edits of it are known by, and the picture (h, w, 3) behind it."""
    pictures = [] if behind is None else ui.PreviewImage(behind[None].float(), cls=cls).as_dict()["images"]
    made_of = "" if upstream is None else fingerprint(upstream)
    came = shown if upstream is None else upstream
    return {"layout_json": [whole_json(came)], "layout_upstream": [made_of], "layout_background": list(pictures)}


NODES = [CompInvLayoutEditor]
