"""Training Options: what few need to change about a training."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..compinv_core.training.objective import NoiseLevels
from ..compinv_core.training.recipe import AnchorSchedule
from .types import CATEGORY, OptionsType

OURS, PAPER = "as set on the training node", "paper"
CONSTANT, GROWING = "constant", "growing"


@dataclass(frozen=True)
class Options:
    """See the inputs of the node."""

    paper: bool = False
    anchor_schedule: AnchorSchedule = "constant"
    noise_levels: NoiseLevels = "even"
    rescale: bool = False
    prompts: tuple[str, ...] = ()
    captions: bool = False


class CompInvTrainingOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvTrainingOptions",
            display_name="Training Options",
            category=CATEGORY,
            description="What few need to change about Compositional Inversion Train.",
            is_input_list=True,
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[OURS, PAPER],
                    tooltip='"paper" trains as the reference implementation does, whatever the training node says: 5000 steps '
                    "of 8 pictures, 3 vectors, its learning rate, its anchor loss with the class word as the one anchor, and "
                    "the class word behind the new one in every prompt. Without anchors it is plain textual inversion so.",
                ),
                io.Combo.Input(
                    "anchor_schedule",
                    options=[CONSTANT, GROWING],
                    tooltip="Whether the anchors pull alike all along, or ever more towards the end.",
                ),
                io.Combo.Input(
                    "noise_levels",
                    options=["even", "high", "low"],
                    tooltip="Which noise levels are trained more often: high ones decide what and where things are, low ones "
                    "their texture.",
                ),
                io.Boolean.Input(
                    "rescale",
                    default=False,
                    tooltip="Also learn from the pictures made small and large, with prompts that say so, so that the word "
                    "does not keep the size of your thing.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="Your own prompts to learn with, a line each, {} where the new word goes. Empty: neutral ones.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="One caption for each picture, {} where the new word goes; in place of prompts.",
                ),
            ],
            outputs=[
                OptionsType.Output("OPTIONS", display_name="options", tooltip="For Compositional Inversion Train.")
            ],
        )

    @classmethod
    def execute(
        cls,
        preset: list[str],
        anchor_schedule: list[Any],
        noise_levels: list[Any],
        rescale: list[bool],
        prompts: list[str],
        captions: list[str] | None = None,
    ) -> io.NodeOutput:
        lines = tuple(line.strip() for line in prompts[0].splitlines() if line.strip())
        return io.NodeOutput(
            Options(
                paper=preset[0] == PAPER,
                anchor_schedule=anchor_schedule[0],
                noise_levels=noise_levels[0],
                rescale=rescale[0],
                prompts=tuple(captions) if captions else lines,
                captions=bool(captions),
            )
        )


NODES = [CompInvTrainingOptions]
