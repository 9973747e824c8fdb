"""Spatial Layout Recover: where each subject of a prompt would naturally be."""

from typing import Any

import torch
from comfy_api.latest import io

from ..compinv_core.host.composition import subjects_of
from ..compinv_core.host.folders import predictor_files
from ..compinv_core.host.predictor import predicted_layout
from ..compinv_core.host.recovery import plain_layout, recover_layout
from ..compinv_core.layout.regions import layout_from_json
from ..compinv_core.sampling.conditioning import check_layout
from .live_text import say
from .pictures import from_image, layout_picture
from .types import CATEGORY, LayoutType

ATTENTION, PREDICTED, DEFAULT, MINE = "from attention", "predicted", "default boxes", "my boxes"


class CompInvLayoutRecover(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvLayoutRecover",
            display_name="Spatial Layout Recover",
            category=CATEGORY,
            description="Finds a place for every subject of a prompt: samples it briefly in ordinary words and reads the "
            "model's own attention, or asks the layout predictor that was trained for the model.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample. It is not changed."),
                io.Conditioning.Input("positive", tooltip="From Composition Prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt that will be used for sampling."),
                io.Latent.Input("latent_image", tooltip="The latent that will be sampled; its size is used."),
                io.Combo.Input(
                    "method",
                    options=[ATTENTION, PREDICTED, DEFAULT, MINE],
                    tooltip="From the model's attention; in milliseconds, by what Train Layout Predictor learnt for this "
                    "model; side by side; or the boxes you write below.",
                ),
                io.String.Input(
                    "boxes",
                    default="",
                    multiline=True,
                    tooltip='For "my boxes": {"cat": [left, top, right, bottom], ...} in fractions of the canvas.',
                ),
                io.Int.Input(
                    "steps", default=8, min=2, max=100, tooltip="Steps of the probe. More cost more and change little."
                ),
                io.Float.Input("cfg", default=5.0, min=1.0, max=30.0, step=0.1, tooltip="CFG of the probe."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Give the sampler's seed, for the layout that this seed would naturally have.",
                ),
                io.Int.Input(
                    "pictures",
                    optional=True,
                    default=1,
                    min=1,
                    max=64,
                    tooltip="The probe samples so many and averages them: with 1 the layout of this seed, with several where things "
                    "usually are. Each costs as much again.",
                ),
            ],
            outputs=[
                LayoutType.Output("LAYOUT", display_name="layout", tooltip="For Regularized Sampler."),
                io.Image.Output(
                    "PREVIEW",
                    display_name="preview",
                    tooltip="The regions over a glimpse of the picture whose attention they come from.",
                ),
                io.Mask.Output("MASKS", display_name="masks", tooltip="One mask for each subject."),
                io.String.Output(
                    "BOXES_JSON", display_name="boxes", tooltip='The boxes as text, to be edited for "my boxes".'
                ),
            ],
        )

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
        maps = preview = None
        if method == ATTENTION:
            empty = torch.zeros_like(latent)
            how = {"seed": seed, "steps": steps, "cfg": cfg, "images": pictures}
            layout, maps, preview = recover_layout(model, positive, negative, empty, **how)
        elif method == PREDICTED:
            layout = predicted_layout(model, positive)
        elif method == DEFAULT:
            layout = plain_layout(positive)
        else:
            layout = layout_from_json(boxes)
            check_layout(layout, subjects_of(positive))
        height, width = latent.shape[-2] * 8, latent.shape[-1] * 8
        masks = torch.stack([region.cells(height, width) for region in layout.regions])
        say(cls, f"from: {layout.source}{f'; {layout.note}' if layout.note else ''}")
        return io.NodeOutput(layout, from_image(layout_picture(layout, maps, preview)), masks, layout.to_json())


NODES = [CompInvLayoutRecover]
