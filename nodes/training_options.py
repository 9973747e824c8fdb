"""Training Options: advanced settings of a training run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..compinv_core.anchors import AnchorSet
from ..compinv_core.training.objective import NoiseLevels
from ..compinv_core.training.recipe import AnchorLoss, AnchorSchedule, Optimizer
from ..compinv_core.training.request import Request
from .types import CATEGORY, AnchorsType, OptionsType

OURS, PAPER = "as set on the training node", "paper"
CONSTANT, GROWING = "constant", "growing"
EMBEDDING, TEXT = "embeddings", "text features"
ADAMW, SPHERE = "AdamW", "sphere (DTI)"


@dataclass(frozen=True)
class Second:
    """See the inputs that begin with second_."""

    images: Sequence[Tensor]
    masks: Sequence[Tensor]
    placeholder: str
    class_word: str
    anchors: AnchorSet | None


@dataclass(frozen=True)
class Options:
    """See the inputs of the node."""

    paper: bool = False
    anchor_schedule: AnchorSchedule = "constant"
    noise_levels: NoiseLevels = "even"
    rescale: bool = False
    prompts: tuple[str, ...] = ()
    preview_prompts: tuple[str, ...] = ()
    captions: bool = False
    anchor_loss: AnchorLoss = "embedding"
    second: Second | None = None
    optimizer: Optimizer = "AdamW"

    def second_of(self, first: Request) -> list[Request]:
        """The concept that is learnt together with the first one, with its settings."""
        if self.second is None:
            return []
        shared = replace(first, start_from=None, prompts=() if self.captions else first.prompts, captions=False)
        if not self.second.placeholder.strip() or not self.second.class_word.strip():
            raise ValueError(
                'The inputs "second_placeholder" and "second_class_word" are needed with "second_images"; one of them is empty.'
            )
        anchors = self.second.anchors
        if anchors is None and first.anchors is not None:
            anchors = AnchorSet(self.second.class_word, (self.second.class_word,), (1.0,))
        own = {"name": self.second.placeholder, "class_word": self.second.class_word}
        return [replace(shared, **own, images=self.second.images, masks=self.second.masks, anchors=anchors)]


class CompInvTrainingOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvTrainingOptions",
            display_name="Training Options",
            category=CATEGORY,
            description="Advanced settings of Compositional Inversion Train and Compositional Fine-Tune.",
            is_input_list=True,
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[OURS, PAPER],
                    tooltip='"paper" trains as the reference implementation does and overrides the training node: 5000 steps, batch 8, '
                    "3 vectors, its learning rate, its anchor loss with the class word as the only anchor, and the class word after "
                    "the placeholder in every prompt. Without anchors: textual inversion with these settings. On Compositional Fine-Tune: "
                    "Custom Diffusion or DreamBooth, see there.",
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
                io.Combo.Input(
                    "anchor_loss",
                    options=[EMBEDDING, TEXT],
                    optional=True,
                    tooltip="What the anchors hold: the placeholder's input embeddings (semantic inversion), or the text features of whole "
                    "prompts, compared with the same prompts in the class word (ClassDiffusion). Ignored by the preset paper.",
                ),
                io.Image.Input(
                    "second_images",
                    optional=True,
                    tooltip="Images of a second concept, learnt together with the first in one run. Unconnected: one concept.",
                ),
                io.Mask.Input(
                    "second_masks",
                    optional=True,
                    tooltip="One mask per image of the second concept. Unconnected: none.",
                ),
                io.String.Input(
                    "second_placeholder",
                    default="",
                    optional=True,
                    tooltip="Name of the second concept's embedding. Needed with second_images.",
                ),
                io.String.Input(
                    "second_class_word",
                    default="",
                    optional=True,
                    tooltip="One ordinary word for what the second concept's images show. Needed with second_images.",
                ),
                AnchorsType.Input(
                    "second_anchors",
                    optional=True,
                    tooltip="Anchors of the second concept, from Anchor Select. Unconnected: its class word, if the first has anchors.",
                ),
                io.Combo.Input(
                    "optimizer",
                    options=[ADAMW, SPHERE],
                    optional=True,
                    tooltip="AdamW, or Directional Textual Inversion: the vectors keep a typical word's length, only their direction is "
                    "learnt, and learning_rate is an angle in radians per step. Ignored by the preset paper.",
                ),
                io.String.Input(
                    "preview_prompts",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Prompts that previews are sampled with, at most four, one per line, {} where the placeholder goes. Empty: the concept "
                    "alone, and beside another object.",
                ),
            ],
            outputs=[
                OptionsType.Output(
                    "OPTIONS",
                    display_name="options",
                    tooltip="For Compositional Inversion Train or Compositional Fine-Tune.",
                )
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
        anchor_loss: list[str] | None = None,
        second_images: list[Tensor] | None = None,
        second_masks: list[Tensor] | None = None,
        second_placeholder: list[str] | None = None,
        second_class_word: list[str] | None = None,
        second_anchors: list[AnchorSet] | None = None,
        optimizer: list[str] | None = None,
        preview_prompts: list[str] | None = None,
    ) -> io.NodeOutput:
        second = None
        if second_images:
            second = Second(
                images=second_images,
                masks=second_masks or [],
                placeholder=(second_placeholder or [""])[0].strip(),
                class_word=(second_class_word or [""])[0].strip(),
                anchors=(second_anchors or [None])[0],
            )
        lines, previews = (
            tuple(line.strip() for line in text.splitlines() if line.strip())
            for text in (prompts[0], (preview_prompts or [""])[0])
        )
        return io.NodeOutput(
            Options(
                paper=preset[0] == PAPER,
                anchor_schedule=anchor_schedule[0],
                noise_levels=noise_levels[0],
                rescale=rescale[0],
                prompts=tuple(captions) if captions else lines,
                preview_prompts=previews,
                captions=bool(captions),
                anchor_loss="text features" if anchor_loss and anchor_loss[0] == TEXT else "embedding",
                second=second,
                optimizer="sphere" if optimizer and optimizer[0] == SPHERE else "AdamW",
            )
        )


NODES = [CompInvTrainingOptions]
