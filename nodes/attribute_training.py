"""Attribute Inversion Train: images in, a concept with its colour, style, object and layout apart out."""

from typing import Any

import torch
from comfy_api.latest import io

from ..compinv_core.host.backbone import ComfyBackbone
from ..compinv_core.host.text_encoder import check_new_placeholder
from ..compinv_core.reading.table import MATTE, parsed
from ..compinv_core.training.attribute_training import KINDS, AttributeRequest, AttributeTraining
from ..compinv_core.training.checkpoint import Progress
from ..compinv_core.training.recipe import Recipe
from ..compinv_core.training.request import Request
from .inputs import FOLDED, first_values, training_inputs
from .learning import Picture, compared, learn
from .live_text import lasting
from .losses import loss_map, loss_plot
from .pictures import to_image
from .types import CATEGORY, ConceptType, folded, found_by

BEFORE = ("model", "clip", "vae", "images", "placeholder", "class_word", "masks", "resolution", "steps", "batch")
AFTER = ("learning_rate", "anchor_weight", "seed")


class CompInvTrainAttributes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        word = "One ordinary word for what the images show; the object's vector is initialised with it."
        shared = {**training_inputs(), "class_word": io.String.Input("class_word", default="cat", tooltip=word)}
        schema = io.Schema(
            node_id="CompInvTrainAttributes",
            display_name="Attribute Inversion Train",
            category=CATEGORY,
            **found_by("MATTE", "P+", "ProSpect", "extended textual inversion"),
            description="Trains one concept whose colour, style, object and layout are embeddings of their own, each read where it acts; or an "
            "embedding for each block (P+) or each stage (ProSpect).",
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *(shared[name] for name in BEFORE),
                *(shared[name] for name in AFTER),
                io.Combo.Input(
                    "attributes",
                    options=list(KINDS),
                    tooltip="What is learnt: MATTE's four attributes, a vector for each cross-attention block, or one for each of ten stages.",
                ),
                io.String.Input(
                    "table",
                    multiline=True,
                    default=str(MATTE),
                    tooltip="Where colour, style, object and layout act: the blocks (coarse, moderate, fine, all, output 3) and, behind in, the "
                    "stages of each. none: the attribute is not learnt. Ignored per layer and per stage.",
                ),
                io.String.Input(
                    "colour_words",
                    default="",
                    tooltip="The true colours of the concept, separated by commas. Empty: found in the images, where the concept is.",
                ),
                io.String.Input(
                    "style_word",
                    default="style",
                    tooltip="One ordinary word that the style's vector is initialised with, such as watercolor or striped.",
                ),
                io.Boolean.Input(
                    "colour_style_loss",
                    default=True,
                    tooltip="Loss that keeps the colour near its colour words, and as far from the style as these are. Off: no such loss.",
                ),
                io.Boolean.Input(
                    "object_loss",
                    default=True,
                    tooltip="Loss that keeps the object near its class word, so that it does not learn the layout. Off: no such loss.",
                ),
                io.Boolean.Input(
                    "mirror",
                    default=False,
                    tooltip="Horizontal flip augmentation. Leave it off to learn a layout, which has a left and a right.",
                ),
                io.Boolean.Input(
                    "ignore_background",
                    default=False,
                    tooltip="All but excludes the background from the loss. Off: the background is learnt, too, which style and layout need. Ignored when "
                    "masks are connected.",
                ),
            ],
            outputs=[
                ConceptType.Output(
                    "CONCEPT",
                    display_name="concept",
                    tooltip="The concept with its attributes, for Attribute Prompt or Save Concept. In other prompts it is its object.",
                ),
                io.Image.Output(
                    "PREVIEW",
                    display_name="preview",
                    tooltip="One image with all attributes, then one with each alone, from the same noise.",
                ),
                io.Image.Output("LOSS_PLOT", display_name="loss plot", tooltip="The losses over the steps."),
                io.Custom("LOSS_MAP").Output(
                    "LOSS_MAP",
                    display_name="losses",
                    tooltip="Validation loss at each evaluation, the initial one first, for Plot Loss Graph.",
                ),
                io.String.Output(
                    "TABLE",
                    display_name="table",
                    tooltip="Where each attribute was learnt, as Attribute Prompt reads it.",
                ),
            ],
        )
        return folded(schema, *FOLDED, "anchor_weight", "colour_style_loss", "object_loss", "ignore_background")

    @classmethod
    def execute(cls, **inputs: list[Any]) -> io.NodeOutput:
        one = first_values(inputs)
        check_new_placeholder(one["clip"], one["placeholder"])
        weight = one["anchor_weight"]
        recipe = Recipe(
            steps=one["steps"],
            batch=one["batch"],
            learning_rate=one["learning_rate"],
            reconstruction_weight=1 - weight,
            anchor_weight=weight,
            seed=one["seed"],
        )
        request = Request(
            name=one["placeholder"],
            class_word=one["class_word"].strip(),
            images=inputs["images"],
            masks=inputs.get("masks") or [],
            vectors=1,
            resolution=one["resolution"],
            mirror=one["mirror"],
            ignore_background=one["ignore_background"],
        )
        asked = AttributeRequest(
            request,
            one["attributes"],
            table=parsed(one["table"]),
            colour_words=one["colour_words"],
            style_word=one["style_word"].strip(),
            colour_style=one["colour_style_loss"],
            object_class=one["object_loss"],
        )
        backbone = ComfyBackbone(one["model"], one["clip"], one["vae"])
        return cls._run(AttributeTraining(backbone, asked, recipe))

    @classmethod
    def _run(cls, training: AttributeTraining) -> io.NodeOutput:
        looks = list[torch.Tensor]()

        def on_evaluation(progress: Progress) -> tuple[str, Picture | None]:
            looked = training.recipe.previews(progress.step)
            if looked:
                looks[:] = [training.preview(progress.checkpoint.parameters)]  # the last while the run is on disk
            picture = ("JPEG", to_image(torch.cat(list(looks[0]), dim=1)), 512) if looked else None
            return progress_text(training, progress), picture

        end, said = learn(cls, training, on_evaluation)
        (concept,) = training.concepts(end)
        return io.NodeOutput(concept, looks[0], loss_plot(end), loss_map(end), str(training.cells), ui=lasting(said))


def progress_text(training: AttributeTraining, progress: Progress) -> str:
    """How far a training is: the losses, and the words that are nearest to each attribute."""
    end = progress.checkpoint
    loss = compared(progress.evaluation or 0.0, end.initial_loss)
    lines = [f"{loss}; anchor loss {progress.anchor:.3g}"]
    learnt = training.way.words(end.parameters)
    for attribute, word in list(zip(training.cells.lines, training.words, strict=True))[:4]:
        held = f" (anchors: {training.anchors_of(word, end)})" if word.anchors is not None else ""
        lines.append(f"{attribute}: {training.describe(learnt[word.name])}{held}")
    return "\n".join([*lines, *training.notices])


NODES = [CompInvTrainAttributes]
