"""Regularized Sampler and Apply Spatial Regularization: sampling that keeps every subject in its region."""

from collections.abc import Callable
from typing import Any, get_args

import comfy.samplers
from comfy_api.latest import io
from PIL import Image, ImageDraw

from nodes import common_ksampler  # pyright: ignore[reportAttributeAccessIssue] - the host's

from ..compinv_core.host.composition import subjects_of
from ..compinv_core.host.recovery import check_fit, check_latent, outside_their_place
from ..compinv_core.host.sampler import with_layout
from ..compinv_core.layout.regions import Layout
from ..compinv_core.reading.regional import ClassWords, Reads, Regional
from ..compinv_core.sampling.conditioning import check_layout
from ..compinv_core.sampling.guidance import Guidance
from ..compinv_core.sampling.report import Report, described
from ..compinv_core.sampling.schedules import Balance, Steering
from .pictures import from_image, heat_pictures, overlays
from .types import CATEGORY, LayoutType, folded, found_by

PAPER = Guidance()
DEFAULT = Steering()
READING = Regional()
FOLDED = ("steering_until", "guidance", "corrections", "guidance_until", "threshold")
"""What few need to change: the paper's guidance, and when steering ends."""


def _regularization_inputs() -> list[Any]:
    return [
        io.Float.Input(
            "steering",
            default=DEFAULT.strength,
            min=0.0,
            max=30.0,
            step=0.5,
            tooltip="Attention bias towards the layout, in nats: a subject's tokens weigh e^steering times as much inside its region "
            "and as much less outside. Needs no gradients. 4 is gentle, 0 switches it off.",
        ),
        io.Float.Input(
            "steering_until",
            default=DEFAULT.until,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Fraction of the schedule over which steering decays linearly to 0. 0 switches steering off.",
        ),
        io.Float.Input(
            "guidance",
            default=0.0,
            min=0.0,
            max=1000.0,
            step=1.0,
            tooltip="Step size of the paper's spatial inversion, which corrects the latent by the gradient of the layout energy. Slower, as "
            "it needs backward passes. The paper: 30, steering 0, reading whole prompt. 0 switches it off.",
        ),
        io.Int.Input(
            "corrections",
            default=PAPER.corrections,
            min=0,
            max=50,
            tooltip="Maximum number of guidance corrections per sampling step. 0 switches guidance off.",
        ),
        io.Float.Input(
            "guidance_until",
            default=PAPER.until,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Fraction of the schedule, from its start, in which guidance is active. 0 switches guidance off.",
        ),
        io.Float.Input(
            "threshold",
            default=PAPER.threshold,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Guidance stops for an image once its layout energy is this low: 0 means all attention lies inside the regions, 1 "
            "none. At 1 nothing is corrected.",
        ),
        io.Float.Input(
            "balance",
            optional=True,
            default=0.0,
            min=0.0,
            max=2.0,
            step=0.1,
            tooltip="Equalises the subjects' total attention, decaying linearly over the schedule: at 1, all get the same at its start. "
            "Needs no layout. 0 switches it off.",
        ),
        io.Combo.Input(
            "reading",
            optional=True,
            options=list(get_args(Reads)),
            default=READING.reading,
            tooltip="regional: inside a subject's region the prompt is read with its concept alone, elsewhere with class words in place "
            "of concepts, so that no concept leaks onto other things. whole prompt: all of it is read everywhere; choose this with steering "
            "and guidance at 0. Without a layout, or without a concept that has a class word, both are the same.",
        ),
        io.Combo.Input(
            "class_words",
            optional=True,
            options=list(get_args(ClassWords)),
            default=READING.class_words,
            tooltip="coarse blocks: the low-resolution cross-attention blocks, which decide what is drawn, read class words in place of "
            "concepts; colour and style still come from the concept. For a concept that displaces other things. Needs no layout. off: "
            "concepts are read in all blocks.",
        ),
    ]


def _regularized(
    model: Any,
    layout: Layout | None,
    report: Callable[[Report], None] | None = None,
    balance: float = 0.0,
    reading: Reads = READING.reading,
    class_words: ClassWords = READING.class_words,
    **chosen: float,
) -> Any:
    """The model under what `_regularization_inputs` asks for."""
    steering = Steering(chosen["steering"], chosen["steering_until"])
    guidance = Guidance(chosen["guidance"], int(chosen["corrections"]), chosen["guidance_until"], chosen["threshold"])
    regional = Regional(reading, class_words)
    return with_layout(model, layout, steering, guidance, balance=Balance(balance), regional=regional, report=report)


class CompInvRegularizedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="CompInvRegularizedSampler",
            display_name="Regularized Sampler",
            category=CATEGORY,
            **found_by("attention couple", "heatmap", "regional prompt", "attend and excite", "KSampler"),
            description="KSampler that keeps each subject's cross-attention in its region (the idea of attention couple), and draws it as heatmaps. With no layout and balance 0 it equals KSampler.",
            inputs=[
                io.Model.Input("model", tooltip="The model. It is not changed."),
                io.Conditioning.Input("positive", tooltip="From Composition Prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Latent.Input("latent_image", tooltip="The latent image to denoise."),
                LayoutType.Input(
                    "layout",
                    optional=True,
                    tooltip="The subjects' regions, from Spatial Layout Recover or Set Region. Unconnected: balance and class_words only, or plain sampling.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps."),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance scale. 1 switches it off.",
                ),
                io.Combo.Input(
                    "sampler_name", options=list(comfy.samplers.KSampler.SAMPLERS), tooltip="Sampling algorithm."
                ),
                io.Combo.Input(
                    "scheduler", options=list(comfy.samplers.KSampler.SCHEDULERS), tooltip="Noise schedule."
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Denoising strength: below 1 starts from latent_image with less noise; 0 returns it unchanged.",
                ),
                *_regularization_inputs(),
            ],
            outputs=[
                io.Latent.Output("LATENT", display_name="latent", tooltip="The sampled latent."),
                io.Image.Output(
                    "HEAT_MAPS",
                    display_name="heat maps",
                    tooltip="Each subject's cross-attention map and share of the attention, one image per step, at most 24.",
                ),
                io.String.Output(
                    "REPORT",
                    display_name="report",
                    tooltip="Which subjects were under-attended (less than half of an equal share of attention); then, for each step, each "
                    "subject's share and the fraction of its attention inside its region.",
                ),
                io.Image.Output(
                    "OVERLAY",
                    display_name="overlay",
                    tooltip="The same maps as colour overlays on latent previews of the first image, one frame per step, at most 24.",
                ),
            ],
        )
        return folded(schema, *FOLDED, "balance", "class_words")

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
        **chosen: Any,
    ) -> io.NodeOutput:
        reports: list[Report] = []
        notice = ""
        check_fit(model, positive)
        if layout is not None:
            check_layout(layout, subjects_of(positive))
            check_latent(latent_image["samples"])
            height, width = latent_image["samples"].shape[-2:]
            notice = outside_their_place(layout, positive, (height, width))
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
        text = "\n".join([*filter(None, [notice]), described(reports)])
        return io.NodeOutput(latent, heat_pictures(reports), text, overlays(reports, layout))


class CompInvRegularizeModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="CompInvRegularizeModel",
            display_name="Apply Spatial Regularization",
            category=CATEGORY,
            **found_by("attention couple", "regional prompt", "attend and excite"),
            description="Patches a model so that any sampler keeps each subject in its region. The positive prompt must come from "
            "Composition Prompt.",
            inputs=[
                io.Model.Input("model", tooltip="The model. It is not changed."),
                LayoutType.Input(
                    "layout",
                    optional=True,
                    tooltip="The subjects' regions, from Spatial Layout Recover or Set Region. Unconnected: balance and class_words only.",
                ),
                *_regularization_inputs(),
            ],
            outputs=[
                io.Model.Output(
                    "REGULARIZED", display_name="model", tooltip="The patched model, for KSampler or any other sampler."
                )
            ],
        )
        return folded(schema, *FOLDED)

    @classmethod
    def execute(cls, model: Any, layout: Layout | None = None, **chosen: Any) -> io.NodeOutput:
        return io.NodeOutput(_regularized(model, layout, **chosen))


NODES = [CompInvRegularizedSampler, CompInvRegularizeModel]
