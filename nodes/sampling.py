"""Regularized Sampler and Apply Spatial Regularization: sampling that keeps every subject in its place."""

from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy_api.latest import io
from PIL import Image, ImageDraw

from nodes import common_ksampler

from ..compinv_core.host.composition import subjects_of
from ..compinv_core.host.recovery import check_fit
from ..compinv_core.host.sampler import with_layout
from ..compinv_core.layout.regions import Layout
from ..compinv_core.sampling.conditioning import check_layout
from ..compinv_core.sampling.guidance import Guidance
from ..compinv_core.sampling.report import Report, described
from ..compinv_core.sampling.schedules import Balance, Steering
from .pictures import from_image, heat_pictures, overlays
from .types import CATEGORY, LayoutType

PAPER = Guidance()
DEFAULT = Steering()


def _regularization_inputs() -> list[Any]:
    return [
        io.Float.Input(
            "steering",
            default=DEFAULT.strength,
            min=0.0,
            max=30.0,
            step=0.5,
            tooltip="How strongly attention itself is turned to the regions, at no cost in time: a subject's words weigh e to "
            "the power of this more inside its region, and less outside. 0 switches it off.",
        ),
        io.Float.Input(
            "steering_until",
            default=DEFAULT.until,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="The part of the schedule along which steering fades to nothing; 0 switches it off.",
        ),
        io.Float.Input(
            "guidance",
            default=0.0,
            min=0.0,
            max=1000.0,
            step=1.0,
            tooltip="How far the latent is moved along the gradient of attention, the paper's way; it takes half as long "
            "again, or more. The paper has 30, and no steering; 0 switches it off.",
        ),
        io.Int.Input(
            "corrections",
            default=PAPER.corrections,
            min=0,
            max=50,
            tooltip="Of guidance: at most so many before one step; 0 switches guidance off.",
        ),
        io.Float.Input(
            "guidance_until",
            default=PAPER.until,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="The part of the schedule in which guidance works, from its start; 0 switches it off.",
        ),
        io.Float.Input(
            "threshold",
            default=PAPER.threshold,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Of guidance, an energy that is low enough: 0 when all attention keeps to its regions, 1 when none does. "
            "Once it is met, the picture is left alone.",
        ),
        io.Float.Input(
            "balance",
            optional=True,
            default=0.0,
            min=0.0,
            max=2.0,
            step=0.1,
            tooltip="Evens out how much attention each subject gets, wherever it lies, fading over the schedule: at 1, at first, all get "
            "the same. Needs no layout; 0 switches it off.",
        ),
    ]


def _regularized(
    model: Any,
    layout: Layout | None,
    report: Callable[[Report], None] | None = None,
    balance: float = 0.0,
    **chosen: float,
) -> Any:
    """The model under what `_regularization_inputs` asks for."""
    steering = Steering(chosen["steering"], chosen["steering_until"])
    guidance = Guidance(chosen["guidance"], int(chosen["corrections"]), chosen["guidance_until"], chosen["threshold"])
    return with_layout(model, layout, steering, guidance, balance=Balance(balance), report=report)


class CompInvRegularizedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvRegularizedSampler",
            display_name="Regularized Sampler",
            category=CATEGORY,
            description="KSampler that holds every subject's attention to its region. Without a layout and balance it is KSampler.",
            inputs=[
                io.Model.Input("model", tooltip="The model. It is not changed."),
                io.Conditioning.Input("positive", tooltip="From Composition Prompt."),
                io.Conditioning.Input("negative", tooltip="What the picture should not show."),
                io.Latent.Input("latent_image", tooltip="The latent to sample."),
                LayoutType.Input(
                    "layout",
                    optional=True,
                    tooltip="From Spatial Layout Recover. Unconnected: balance alone, or plain sampling.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Classifier-free guidance."),
                io.Combo.Input("sampler_name", options=list(comfy.samplers.KSampler.SAMPLERS), tooltip="The sampler."),
                io.Combo.Input(
                    "scheduler", options=list(comfy.samplers.KSampler.SCHEDULERS), tooltip="The noise schedule."
                ),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Under 1: start from the latent."
                ),
                *_regularization_inputs(),
            ],
            outputs=[
                io.Latent.Output("LATENT", display_name="latent", tooltip="The sampled latent."),
                io.Image.Output(
                    "HEAT_MAPS",
                    display_name="heat maps",
                    tooltip="Where each subject's attention went, a picture a step, and its share of it; of many steps, 24.",
                ),
                io.String.Output(
                    "REPORT",
                    display_name="report",
                    tooltip="Who was starved; and step by step each subject's share of the attention, and how much of its own kept to "
                    "its region.",
                ),
                io.Image.Output(
                    "OVERLAY",
                    display_name="overlay",
                    tooltip="The same attention in colours over a glimpse of the first picture as it came into being.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        layout: Layout | None = None,
        **chosen: float,
    ) -> io.NodeOutput:
        reports: list[Report] = []
        check_fit(model, positive)
        if layout is not None:
            check_layout(layout, subjects_of(positive))
        model = _regularized(model, layout, reports.append, **chosen)
        (latent,) = common_ksampler(
            model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
        )
        if not reports:
            blank = Image.new("RGB", (384, 384), "#202030")
            ImageDraw.Draw(blank).text((12, 12), "no attention was recorded", fill="white")
            return io.NodeOutput(
                latent,
                from_image(blank),
                "No attention was recorded: steering, guidance and balance are off.",
                from_image(blank),
            )
        return io.NodeOutput(latent, heat_pictures(reports), described(reports), overlays(reports, layout))


class CompInvRegularizeModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvRegularizeModel",
            display_name="Apply Spatial Regularization",
            category=CATEGORY,
            description="A model that keeps every subject in its region, for any sampler. The positive prompt must come from "
            "Composition Prompt.",
            inputs=[
                io.Model.Input("model", tooltip="The model. It is not changed."),
                LayoutType.Input(
                    "layout", optional=True, tooltip="From Spatial Layout Recover. Unconnected: balance alone."
                ),
                *_regularization_inputs(),
            ],
            outputs=[
                io.Model.Output("REGULARIZED", display_name="model", tooltip="For KSampler or any other sampler.")
            ],
        )

    @classmethod
    def execute(cls, model: Any, layout: Layout | None = None, **chosen: float) -> io.NodeOutput:
        return io.NodeOutput(_regularized(model, layout, **chosen))


NODES = [CompInvRegularizedSampler, CompInvRegularizeModel]
