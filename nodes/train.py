"""Compositional Inversion Train: images in, a concept out."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw

from ..compinv_core.host.backbone import ComfyBackbone
from ..compinv_core.host.text_encoder import check_new_placeholder
from ..compinv_core.training.checkpoint import Checkpoint, Losses, Progress
from ..compinv_core.training.concept_training import ConceptTraining
from ..compinv_core.training.preview import Preview
from ..compinv_core.training.recipe import Recipe
from ..compinv_core.training.request import LIMITS, Request, as_paper
from .learning import Picture, learn
from .live_text import say
from .pictures import from_image, to_image
from .training_options import Options
from .types import CATEGORY, AnchorsType, ConceptType, OptionsType

DEFAULTS = Recipe()


class CompInvTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvTrain",
            display_name="Compositional Inversion Train",
            category=CATEGORY,
            description="Trains an embedding for the concept in your images. With anchors (semantic inversion), it stays close to ordinary words "
            "and does not dominate the rest of the prompt.",
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model to train for: SD 1.x, SD 2.x or SDXL. It is not changed."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint. It is not changed."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint. It is not changed."),
                io.Image.Input(
                    "images", tooltip="Training images of the concept, usually 3 to 5; a batch or a list, any sizes."
                ),
                io.String.Input(
                    "placeholder",
                    default="my-concept",
                    tooltip='Name of the embedding: letters, digits, "-" and "_". Prompts use it as embedding:name.',
                ),
                io.String.Input(
                    "class_word",
                    default="cat",
                    tooltip="One ordinary word for what the images show; the vectors are initialised with it.",
                ),
                AnchorsType.Input(
                    "anchors",
                    optional=True,
                    tooltip="Ordinary words that regularise the embedding, from Anchor Select. Unconnected: no anchor loss; "
                    "with ignore_background off, that is plain textual inversion.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="One mask per image; black is excluded from the loss. Unconnected: see ignore_background.",
                ),
                ConceptType.Input(
                    "start_from",
                    optional=True,
                    tooltip="A concept to continue training from; its number of vectors is used. Unconnected: starts at the class word.",
                ),
                OptionsType.Input(
                    "options",
                    optional=True,
                    tooltip="Advanced settings, from Training Options. Unconnected: their defaults.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    **LIMITS["resolution"],
                    step=8,
                    tooltip="Images are cropped to a square, centred or around the mask, and scaled to this size in pixels. Use the model's native "
                    "one: 512 for SD 1.x, 768 for SD 2.x, 1024 for SDXL.",
                ),
                io.Int.Input("steps", default=DEFAULTS.steps, **LIMITS["steps"], tooltip="Optimiser steps."),
                io.Int.Input(
                    "batch",
                    default=DEFAULTS.batch,
                    **LIMITS["batch"],
                    tooltip="Batch size: images per optimiser step. Split into micro-batches when memory is short.",
                ),
                io.Int.Input(
                    "vectors",
                    default=3,
                    **LIMITS["vectors"],
                    tooltip="Number of vectors, all initialised with the class word. 3 vectors can encode both class and appearance; with 1, "
                    "appearance tends to displace the class.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=DEFAULTS.learning_rate,
                    **LIMITS["learning_rate"],
                    step=0.001,
                    tooltip="Learning rate of AdamW, relative to the RMS of the vocabulary's embeddings; decays to 0 along a cosine.",
                ),
                io.Float.Input(
                    "anchor_weight",
                    default=DEFAULTS.anchor_weight,
                    **LIMITS["anchor_weight"],
                    step=0.01,
                    tooltip="Weight of the anchor loss; the reconstruction loss gets 1 - anchor_weight. 0 switches the anchors off.",
                ),
                io.Combo.Input(
                    "kind",
                    options=["object", "style"],
                    tooltip='Training prompts: "a photo of ..." for an object, "in the style of ..." for a style.',
                ),
                io.Boolean.Input(
                    "mirror",
                    default=True,
                    tooltip="Horizontal flip augmentation. Switch it off for lettering and faces.",
                ),
                io.Boolean.Input(
                    "ignore_background",
                    default=True,
                    tooltip="Finds the concept by the model's cross-attention to the class word, and all but excludes the background from the loss. "
                    "Ignored when masks are connected or kind is style. Off: the background is learnt, too.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    **LIMITS["seed"],
                    control_after_generate=False,
                    tooltip="Seed of the data order and the noise. The same seed gives the same embedding.",
                ),
            ],
            outputs=[
                ConceptType.Output(
                    "CONCEPT",
                    display_name="concept",
                    tooltip="The concept after the last step, for Apply Concept or Save Concept.",
                ),
                io.Image.Output(
                    "LOSS_PLOT", display_name="loss plot", tooltip="Reconstruction loss and anchor loss over the steps."
                ),
                io.Image.Output(
                    "PREVIEW",
                    display_name="preview",
                    tooltip="Images sampled after training: the concept alone, and beside an ordinary thing.",
                ),
                ConceptType.Output(
                    "BEST",
                    display_name="best",
                    tooltip="The concept at the evaluation with the lowest validation loss; the same as concept when that was the last.",
                ),
                io.Custom("LOSS_MAP").Output(
                    "LOSS_MAP",
                    display_name="losses",
                    tooltip="Validation loss at each evaluation, the initial one first, for Plot Loss Graph.",
                ),
                io.Mask.Output(
                    "LEARNT",
                    display_name="learnt",
                    tooltip="The loss mask of each image: white is learnt, black is not.",
                ),
            ],
        )

    @classmethod
    def execute(cls, **inputs: list[Any]) -> io.NodeOutput:
        one = {name: values[0] for name, values in inputs.items() if values}
        weight = one["anchor_weight"]
        check_new_placeholder(one["clip"], one["placeholder"])
        options: Options = one.get("options") or Options()
        request = Request(
            name=one["placeholder"],
            class_word=one["class_word"].strip(),
            vectors=one["vectors"],
            images=inputs["images"],
            masks=inputs.get("masks") or [],
            resolution=one["resolution"],
            kind=one["kind"],
            mirror=one["mirror"],
            rescale=options.rescale,
            prompts=options.prompts,
            captions=options.captions,
            ignore_background=one["ignore_background"],
            start_from=one.get("start_from"),
            anchors=one.get("anchors") if weight else None,
        )
        recipe = Recipe(
            steps=one["steps"],
            batch=one["batch"],
            learning_rate=one["learning_rate"],
            reconstruction_weight=1 - weight,
            anchor_weight=weight,
            seed=one["seed"],
            anchor_schedule=options.anchor_schedule,
            noise_levels=options.noise_levels,
        )
        if options.paper:
            request, recipe = as_paper(request, recipe)
        backbone = ComfyBackbone(one["model"], one["clip"], one["vae"])
        return cls._run(ConceptTraining(backbone, [request], recipe))

    @classmethod
    def _run(cls, training: ConceptTraining) -> io.NodeOutput:
        looks = list[Preview]()
        if training.notices:
            say(cls, "\n".join(training.notices))

        def on_evaluation(progress: Progress) -> Picture | None:
            looked = training.recipe.previews(progress.step)
            if looked:
                looks[:] = [training.preview(progress.checkpoint.parameters)]  # the last while the run is on disk
            say(cls, _line(training, progress, looks[0].dominance if looks else None))
            return ("JPEG", to_image(torch.cat(list(looks[0].images), dim=1)), 512) if looked else None

        end = learn(cls, training, on_evaluation)
        (last,), (best,) = training.concepts(end), training.concepts(end, best=True)
        return io.NodeOutput(last, loss_plot(end.history), looks[0].images, best, loss_map(end), training.learnt())


def loss_map(end: Checkpoint) -> dict[str, list[float]]:
    """The losses of a run's evaluations, for Plot Loss Graph."""
    return {"loss": [end.initial_loss, *(p.evaluation for p in end.history if p.evaluation is not None)]}


def _line(training: ConceptTraining, progress: Progress, dominance: float | None) -> str:
    """How far a training is: its step, the losses, where the words lie, and what the first takes of an image of two things."""
    end = progress.checkpoint
    lines = [
        f"step {progress.step}/{training.recipe.steps}: validation loss {progress.evaluation:.4f} (initial: "
        f"{end.initial_loss:.4f})"
    ]
    for word in training.words:
        if word.anchors is not None:
            lines[0] += f"; anchor loss {progress.anchor:.3g}, {training.anchors_of(word, end)}"
        lines.append(training.describe(training.way.words(end.parameters)[word.name]))
    if dominance is not None:
        lines.append(f"dominance {dominance:.2f} beside a {training.companion}")
    return "\n".join([*lines, *training.notices])


def loss_plot(history: Sequence[Losses]) -> torch.Tensor:
    """Both losses over the steps, each on its own scale from zero, averaged over a fiftieth of the run."""
    width, height, margin = 512, 320, 24
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    window = max(1, len(history) // 50)
    curves = {"reconstruction": ("#1f6feb", [p.reconstruction for p in history])}
    if any(p.anchor for p in history):
        curves["anchor"] = ("#d1590b", [p.anchor for p in history])
    for row, (name, (color, values)) in enumerate(curves.items()):
        means = [sum(part) / len(part) for i in range(0, len(values), window) if (part := values[i : i + window])]
        top = max(means) or 1.0
        across = (width - 2 * margin) / max(1, len(means) - 1)
        points = [(margin + i * across, height - margin - m / top * (height - 3 * margin)) for i, m in enumerate(means)]
        draw.line(points if len(points) > 1 else points * 2, fill=color, width=2)
        draw.text(
            (margin, 4 + 13 * row), f"{name} loss: {means[0]:.4f} to {means[-1]:.4f}, maximum {top:.4f}", fill=color
        )
    draw.line([(margin, 2 * margin), (margin, height - margin), (width - margin, height - margin)], fill="black")
    draw.text((width - margin - 60, height - 18), f"{history[-1].step} steps", fill="black")
    return from_image(image)


NODES = [CompInvTrain]
