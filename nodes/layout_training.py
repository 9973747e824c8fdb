"""Train Layout Predictor: the layouts that a model gives on its own, learnt once per base model."""

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ..compinv_core.host.predictor import train_predictor
from ..compinv_core.layout.predictor_training import LIMITS, PredictorTraining
from ..compinv_core.layout.regions import Layout
from .live_text import lasting
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
            description="Trains a layout predictor, once per base model; Spatial Layout Recover's method "
            '"predicted" then needs milliseconds and no sampling.',
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model, without LoRAs; its predictor also serves it with LoRAs. It is not changed.",
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint. It is not changed."),
                io.Int.Input(
                    "prompts",
                    default=DEFAULTS.prompts,
                    **LIMITS["prompts"],
                    tooltip="Number of generated prompts in the training set. More give better boxes and take longer; layouts that were "
                    "recovered earlier are reused.",
                ),
                io.Int.Input(
                    "resolution",
                    default=DEFAULTS.resolution,
                    **LIMITS["resolution"],
                    step=64,
                    tooltip="Image size in pixels; use the model's native one: 512 for SD 1.x, 768 for SD 2.x, 1024 for SDXL.",
                ),
                io.Int.Input("steps", default=DEFAULTS.steps, **LIMITS["steps"], tooltip="Sampling steps per prompt."),
                io.Float.Input(
                    "cfg",
                    default=DEFAULTS.cfg,
                    **LIMITS["cfg"],
                    step=0.1,
                    tooltip="Classifier-free guidance while sampling. 1 switches it off.",
                ),
                io.Int.Input(
                    "seed",
                    default=DEFAULTS.seed,
                    **LIMITS["seed"],
                    control_after_generate=False,
                    tooltip="Seed of the prompts and the noise. The same seed gives the same predictor.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "REPORT",
                    display_name="report",
                    tooltip="Intersection over union on held-out prompts, next to that of default boxes, and the file's path.",
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
        return io.NodeOutput(report, ui=lasting(report))


NODES = [CompInvTrainLayoutPredictor]
