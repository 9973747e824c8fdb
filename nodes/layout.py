"""Spatial Layout Recover: where each subject of a prompt would naturally be."""

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ..compinv_core.host.composition import subjects_of
from ..compinv_core.host.folders import predictor_files
from ..compinv_core.host.predictor import predicted_layout
from ..compinv_core.host.recovery import check_latent, outside_their_place, plain_layout, recover_layout
from ..compinv_core.layout.editing import layout_from_json
from ..compinv_core.sampling.conditioning import check_layout
from .layout_editor import canvas
from .live_text import lasting
from .pictures import from_image, layout_picture
from .types import CATEGORY, LayoutType, folded, found_by

ATTENTION, PREDICTED, DEFAULT, MINE = "from attention", "predicted", "default boxes", "my boxes"


class CompInvLayoutRecover(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="CompInvLayoutRecover",
            display_name="Spatial Layout Recover",
            category=CATEGORY,
            **found_by("heatmap", "attention map", "cross-attention", "regional prompt"),
            description="Recovers a layout, a region for each subject of a prompt: from the model's cross-attention in a short sampling run "
            "with class words, from the model's layout predictor, or from boxes.",
            inputs=[
                io.Model.Input("model", tooltip="The model that you will sample with. It is not changed."),
                io.Conditioning.Input("positive", tooltip="From Composition Prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt that you will sample with."),
                io.Latent.Input("latent_image", tooltip="The latent that you will sample; only its size is used."),
                io.Combo.Input(
                    "method",
                    options=[ATTENTION, PREDICTED, DEFAULT, MINE],
                    tooltip="From the model's cross-attention (a short sampling run); by the layout predictor trained for this model "
                    "(milliseconds); equal boxes side by side; or the boxes you write below.",
                ),
                io.String.Input(
                    "boxes",
                    default="",
                    multiline=True,
                    tooltip='For "my boxes": {"cat": [left, top, right, bottom], ...} in fractions of the canvas. Ignored otherwise.',
                ),
                io.Int.Input(
                    "steps",
                    default=8,
                    min=2,
                    max=100,
                    tooltip='For "from attention": steps of the short sampling run. More cost time and change little.',
                ),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip='For "from attention": classifier-free guidance of the short sampling run. 1 switches it off.',
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of the noise. Use the sampler's seed for the layout that this seed would have on its own.",
                ),
                io.Int.Input(
                    "pictures",
                    optional=True,
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many images the short run samples and averages: 1 gives this seed's layout, more give a typical one. Each "
                    "takes the same time again.",
                ),
            ],
            outputs=[
                LayoutType.Output(
                    "LAYOUT", display_name="layout", tooltip="For Regularized Sampler or Apply Spatial Regularization."
                ),
                io.Image.Output(
                    "PREVIEW",
                    display_name="preview",
                    tooltip="The regions over a latent preview of the image whose attention they were read from.",
                ),
                io.Mask.Output("MASKS", display_name="masks", tooltip="One mask per subject."),
                io.String.Output(
                    "BOXES_JSON", display_name="boxes", tooltip='The boxes as JSON, to edit and use with "my boxes".'
                ),
            ],
        )
        return folded(schema, "steps", "cfg", "pictures")

    @classmethod
    def fingerprint_inputs(cls, method: str | None = None, **_: Any) -> list[tuple[str, int, int]]:
        return predictor_files() if method in (PREDICTED, None) else []  # None comes by wire

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        method: str,
        boxes: str,
        steps: int,
        cfg: float,
        seed: int,
        pictures: int = 1,
    ) -> io.NodeOutput:
        latent = latent_image["samples"]
        check_latent(latent)
        size = (latent.shape[-2], latent.shape[-1])
        maps = None
        if method == ATTENTION:
            empty = torch.zeros_like(latent)
            how = {"seed": seed, "steps": steps, "cfg": cfg, "images": pictures}
            layout, maps, preview = recover_layout(model, positive, negative, empty, **how)
            layout = replace(layout, preview=preview)
        elif method == PREDICTED:
            layout = predicted_layout(model, positive, size)
        elif method == DEFAULT:
            layout = plain_layout(positive, size)
        else:
            layout = layout_from_json(boxes)
            check_layout(layout, subjects_of(positive))
            layout = replace(layout, note=outside_their_place(layout, positive, size))
        height, width = latent.shape[-2] * 8, latent.shape[-1] * 8
        masks = torch.stack([region.cells(height, width) for region in layout.regions])
        picture = from_image(layout_picture(layout, maps, layout.preview))
        text = f"from: {layout.source}{f'; {layout.note}' if layout.note else ''}"
        drawn = None if method == MINE else {**canvas(cls, layout, layout, layout.preview), "layout_method": [method]}
        return io.NodeOutput(layout, picture, masks, layout.to_json(), ui=lasting(text, drawn))


NODES = [CompInvLayoutRecover]
