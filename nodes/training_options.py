"""Training Options: advanced settings of a training run."""

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
            description="Advanced settings of Compositional Inversion Train.",
            is_input_list=True,
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[OURS, PAPER],
                    tooltip='"paper" trains as the reference implementation does and overrides the training node: 5000 steps, batch 8, '
                    "3 vectors, its learning rate, its anchor loss with the class word as the only anchor, and the class word after "
                    "the placeholder in every prompt. Without anchors: textual inversion with these settings.",
                ),
                io.Combo.Input(
                    "anchor_schedule",
                    options=[CONSTANT, GROWING],
                    tooltip="The anchor weight over the run: constant, or a linear warm-up from 0 to its full value.",
                ),
                io.Combo.Input(
                    "noise_levels",
                    options=["even", "high", "low"],
                    tooltip="Which noise levels are sampled more often: high ones decide content and layout, low ones texture. even "
                    "switches the preference off.",
                ),
                io.Boolean.Input(
                    "rescale",
                    default=False,
                    tooltip="Scale augmentation: also trains on the images made small and large, with prompts that say so, so that the "
                    "embedding does not encode a size.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="Your own training prompts, one per line, {} where the placeholder goes. Empty: the built-in neutral ones.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="One caption per image, {} where the placeholder goes; replaces prompts. Unconnected: prompts are used.",
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
