"""Repair Concept: an embedding that dominates its prompts in, one that composes out."""

import re
from typing import Any

import latent_preview
from comfy_api.latest import io

from ..compinv_core.concept import Concept
from ..compinv_core.host.backbone import ComfyBackbone
from ..compinv_core.host.text_encoder import check_new_placeholder
from ..compinv_core.training.checkpoint import Progress
from ..compinv_core.training.recipe import Recipe
from ..compinv_core.training.repair import LIMITS, RECIPE, STEPS, Repair, RepairRequest
from ..compinv_core.training.request import LIMITS as TRAINING_LIMITS
from .learning import Picture, compared, kept, learn
from .live_text import lasting, say
from .types import CATEGORY, ConceptType, found_by

DEFAULTS = RepairRequest("")


class CompInvRepairConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvRepairConcept",
            display_name="Repair Concept",
            category=CATEGORY,
            **found_by("fix embedding", "textual inversion"),
            description="Retrains an embedding that dominates its prompts, without its training images: a new embedding, anchored at the class "
            "word, is distilled from the images that the old one gives.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that the embedding is for: SD 1.x, SD 2.x or SDXL. It is not changed."
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint. It is not changed."),
                ConceptType.Input(
                    "concept", tooltip="The concept to repair, from Load Concept or Compositional Inversion Train."
                ),
                io.String.Input(
                    "class_word",
                    default="",
                    tooltip="One ordinary word for what it shows, such as cat. Empty: the concept's own, or else the COCO category nearest to "
                    "its vectors; the report says which.",
                ),
                io.String.Input(
                    "placeholder",
                    default="",
                    tooltip='Name of the repaired embedding; prompts use it as embedding:name. Empty: the old name with "-repaired".',
                ),
                io.Int.Input(
                    "vectors",
                    default=DEFAULTS.vectors,
                    **LIMITS["vectors"],
                    tooltip="Number of vectors, all initialised with the class word. 3 vectors can encode both class and appearance; with 1, "
                    "appearance tends to displace the class.",
                ),
                io.Int.Input(
                    "resolution",
                    default=DEFAULTS.resolution,
                    **LIMITS["resolution"],
                    step=8,
                    tooltip="Size of the sampled images in pixels; use the model's native one: 512 for SD 1.x, 768 for SD 2.x, 1024 for SDXL.",
                ),
                io.Int.Input(
                    "pictures",
                    default=DEFAULTS.pictures,
                    **LIMITS["pictures"],
                    tooltip="Number of images sampled with the old embedding, which are the training set.",
                ),
                io.Float.Input(
                    "cfg",
                    default=DEFAULTS.cfg,
                    **LIMITS["cfg"],
                    step=0.1,
                    tooltip="Classifier-free guidance of these images. 1 switches it off.",
                ),
                io.Int.Input("steps", default=RECIPE.steps, **TRAINING_LIMITS["steps"], tooltip="Optimiser steps."),
                io.Int.Input(
                    "batch",
                    default=RECIPE.batch,
                    **TRAINING_LIMITS["batch"],
                    tooltip="Batch size of a training step, and of the sampling before it. Lower it when memory is short.",
                ),
                io.Float.Input(
                    "anchor_weight",
                    default=RECIPE.anchor_weight,
                    **TRAINING_LIMITS["anchor_weight"],
                    step=0.01,
                    tooltip="Weight of the anchor loss, towards the class word; the distillation loss gets 1 - anchor_weight. 0 switches it off.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    **TRAINING_LIMITS["seed"],
                    control_after_generate=False,
                    tooltip="Seed of the sampled images and of the training noise. The same seed gives the same embedding.",
                ),
            ],
            outputs=[
                ConceptType.Output(
                    "CONCEPT",
                    display_name="concept",
                    tooltip="The repaired concept, for Apply Concept or Save Concept.",
                ),
                io.String.Output(
                    "REPORT",
                    display_name="report",
                    tooltip="The class word, and for the old and the new embedding: nearest words, norm, outlier percentile (distance to the nearest "
                    "words), and attention beside other words.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        concept: Concept,
        class_word: str,
        placeholder: str,
        vectors: int,
        resolution: int,
        pictures: int,
        cfg: float,
        steps: int,
        batch: int,
        anchor_weight: float,
        seed: int,
    ) -> io.NodeOutput:
        name = placeholder.strip() or re.sub(r"[^A-Za-z0-9_]+", "-", f"{concept.name}-repaired")
        check_new_placeholder(clip, name)
        recipe = Recipe(
            steps=steps, batch=batch, reconstruction_weight=1 - anchor_weight, anchor_weight=anchor_weight, seed=seed
        )  # fmt: skip
        request = RepairRequest(
            name, class_word=class_word.strip(), vectors=vectors, resolution=resolution, pictures=pictures, cfg=cfg
        )  # fmt: skip

        def on_sampling(done: int) -> Any:
            say(cls, f"sampling training images with embedding:{concept.name}: {done} of {pictures}")
            return latent_preview.prepare_callback(model, STEPS)

        return cls._run(Repair(ComfyBackbone(model, clip), concept, request, recipe, on_sampling=on_sampling))

    @classmethod
    def _run(cls, repair: Repair) -> io.NodeOutput:
        def on_evaluation(progress: Progress) -> tuple[str, Picture | None]:
            end = progress.checkpoint
            loss = compared(progress.evaluation or 0.0, end.initial_loss)
            text = f"{loss}\n{repair.describe(repair.way.words(end.parameters)[repair.request.name])}"
            return text, None

        end, _ = learn(cls, repair, on_evaluation)
        with kept(cls, repair):
            report = repair.report(end, end.history[-1].evaluation or 0.0)
        (repaired,) = repair.concepts(end)
        return io.NodeOutput(repaired, report, ui=lasting(report))


NODES = [CompInvRepairConcept]
