"""Inputs that several training nodes share, and what they say: the same records as the command line fills."""

from typing import Any

from comfy_api.latest import io

from ..compinv_core.training.recipe import Recipe
from ..compinv_core.training.request import LIMITS, Request
from .training_options import Options
from .types import AnchorsType, ConceptType, OptionsType

DEFAULTS = Recipe()
FOLDED = ("batch", "learning_rate", "mirror", "seed")
"""What few need to change, of the inputs that training nodes share."""


def training_inputs() -> dict[str, Any]:
    """By name, in the order of Compositional Inversion Train."""
    inputs = [
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
            tooltip="One ordinary word for what the images show; the vectors are initialised with it. Empty: the class word of the anchors.",
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
            tooltip="Learning rate of AdamW, relative to the RMS of the vocabulary's embeddings; with the optimizer sphere of Training "
            "Options, radians per step. Decays to 0 along a cosine.",
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
    ]
    return {one.id: one for one in inputs}


def requests_of(inputs: dict[str, list[Any]]) -> list[Request]:
    """The concept that a training node is asked to learn, and the second one of Training Options."""
    one = first_values(inputs)
    options: Options = one.get("options") or Options()
    request = Request(
        name=one["placeholder"],
        class_word=_class_word(one),
        images=inputs["images"],
        masks=inputs.get("masks") or [],
        vectors=one["vectors"],
        resolution=one["resolution"],
        kind=one["kind"],
        mirror=one["mirror"],
        rescale=options.rescale,
        prompts=options.prompts,
        captions=options.captions,
        preview_prompts=options.preview_prompts,
        ignore_background=one["ignore_background"],
        start_from=one.get("start_from"),
        anchors=one.get("anchors") if one["anchor_weight"] else None,
    )
    return [request, *options.second_of(request)]


def _class_word(one: dict[str, Any]) -> str:
    """What is written, or else what Anchor Select was given. Raises ValueError for neither."""
    given, anchors = one["class_word"].strip(), one.get("anchors")
    if given:
        return given
    if anchors is None:
        raise ValueError(
            'The input "class_word" is empty and no anchors are connected; write one ordinary word for what the images show, or connect '
            "Anchor Select."
        )
    return anchors.class_word


def recipe_of(inputs: dict[str, list[Any]], weights_learning_rate: float = DEFAULTS.weights_learning_rate) -> Recipe:
    one = first_values(inputs)
    options: Options = one.get("options") or Options()
    weight = one["anchor_weight"]
    return Recipe(
        steps=one["steps"],
        batch=one["batch"],
        learning_rate=one["learning_rate"],
        reconstruction_weight=1 - weight,
        anchor_weight=weight,
        seed=one["seed"],
        anchor_schedule=options.anchor_schedule,
        noise_levels=options.noise_levels,
        anchor_loss=options.anchor_loss,
        weights_learning_rate=weights_learning_rate,
        optimizer=options.optimizer,
    )


def first_values(inputs: dict[str, list[Any]]) -> dict[str, Any]:
    """Of a node whose inputs come as lists: what each has, or its first picture batch."""
    return {name: values[0] for name, values in inputs.items() if values}
