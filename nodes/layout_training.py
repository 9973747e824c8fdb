"""Train Layout Predictor: the layouts that a model gives on its own, learnt once for each base model."""

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ..compinv_core.host.predictor import train_predictor
from ..compinv_core.layout.predictor_training import LIMITS, PredictorTraining
from ..compinv_core.layout.regions import Layout
from .live_text import say
from .pictures import layout_picture
from .types import CATEGORY

DEFAULTS = PredictorTraining()


class CompInvTrainLayoutPredictor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvTrainLayoutPredictor",
            display_name="Train Layout Predictor",
            category=CATEGORY,
            description="Learns, once for each base model, where it puts things: from then on Spatial Layout Recover's "
            '"predicted" finds a layout in milliseconds.',
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model, without LoRAs; what is learnt serves it with any. It is not changed.",
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint. It is not changed."),
                io.Int.Input(
                    "prompts",
                    default=DEFAULTS.prompts,
                    **LIMITS["prompts"],
                    tooltip="How many generated prompts are sampled and read. More take longer and make better boxes; those "
                    "that were read before are not sampled again.",
                ),
                io.Int.Input(
                    "resolution",
                    default=DEFAULTS.resolution,
                    **LIMITS["resolution"],
                    step=64,
                    tooltip="Pixels a side. Take what the model was made for: 512 for SD 1.x, 1024 for SDXL.",
                ),
                io.Int.Input("steps", default=DEFAULTS.steps, **LIMITS["steps"], tooltip="Steps of each sampling."),
                io.Float.Input("cfg", default=DEFAULTS.cfg, **LIMITS["cfg"], step=0.1, tooltip="CFG of each sampling."),
                io.Int.Input(
                    "seed",
                    default=DEFAULTS.seed,
                    **LIMITS["seed"],
                    control_after_generate=False,
                    tooltip="Of the prompts and of the noise. The same seed learns the same predictor.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "REPORT", display_name="report", tooltip="What the predictor is worth, and where its file is."
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, prompts: int, resolution: int, steps: int, cfg: float, seed: int
    ) -> io.NodeOutput:
        management, bar = comfy.model_management, comfy.utils.ProgressBar(prompts)

        def on_recovery(number: int, layout: Layout, maps: torch.Tensor, preview: torch.Tensor | None) -> None:
            bar.update_absolute(number, prompts, ("JPEG", layout_picture(layout, maps, preview), 384))

        request = PredictorTraining(prompts=prompts, resolution=resolution, steps=steps, cfg=cfg, seed=seed)
        stop_if_asked = management.throw_exception_if_processing_interrupted
        predictor, file = train_predictor(model, clip, request, stop_if_asked=stop_if_asked, on_recovery=on_recovery)
        report = f"{predictor.provenance.describe()}\n{file}"
        say(cls, report)
        return io.NodeOutput(report)


NODES = [CompInvTrainLayoutPredictor]
