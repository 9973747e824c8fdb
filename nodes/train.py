"""Compositional Inversion Train: images in, a concept out."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker

from ..compinv_core.concept import Concept
from ..compinv_core.host.backbone import ComfyBackbone
from ..compinv_core.host.text_encoder import check_new_placeholder
from ..compinv_core.training.checkpoint import Progress
from ..compinv_core.training.concept_training import ConceptTraining
from ..compinv_core.training.preview import Preview
from ..compinv_core.training.request import as_paper
from .inputs import FOLDED, first_values, recipe_of, requests_of, training_inputs
from .learning import Picture, compared, learn
from .live_text import lasting
from .losses import loss_map, loss_plot
from .pictures import to_image
from .types import CATEGORY, ConceptType, folded, found_by


class CompInvTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="CompInvTrain",
            display_name="Compositional Inversion Train",
            category=CATEGORY,
            **found_by("textual inversion", "TI", "train embedding", "embedding training"),
            description="Trains an embedding (textual inversion) for the concept in your images. With anchors (semantic inversion), it stays close to ordinary words "
            "and does not dominate the rest of the prompt.",
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=list(training_inputs().values()),
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
                    tooltip="Images sampled after training: the concept alone, and beside an ordinary thing; or Training Options' preview_prompts.",
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
                ConceptType.Output(
                    "SECOND",
                    display_name="second concept",
                    tooltip="The second concept of Training Options, learnt together with the first.",
                ),
                io.Image.Output(
                    "LEARNT_IN_IMAGES",
                    display_name="learnt in images",
                    tooltip="Your images as they are trained on, dimmed where nothing is learnt of them.",
                ),
            ],
        )
        return folded(schema, *FOLDED)

    @classmethod
    def execute(cls, **inputs: list[Any]) -> io.NodeOutput:
        one = first_values(inputs)
        requests, recipe = requests_of(inputs), recipe_of(inputs)
        for request in requests:
            check_new_placeholder(one["clip"], request.name)
        if one.get("options") and one["options"].paper:
            pairs = [as_paper(request, recipe) for request in requests]
            requests, recipe = [request for request, _ in pairs], pairs[0][1]
        backbone = ComfyBackbone(one["model"], one["clip"], one["vae"])
        return cls._run(ConceptTraining(backbone, requests, recipe))

    @classmethod
    def _run(cls, training: ConceptTraining) -> io.NodeOutput:
        looks = list[Preview]()

        def on_evaluation(progress: Progress) -> tuple[str, Picture | None]:
            looked = training.recipe.previews(progress.step)
            if looked:
                looks[:] = [training.preview(progress.checkpoint.parameters)]  # the last while the run is on disk
            picture = ("JPEG", to_image(torch.cat(list(looks[0].images), dim=1)), 512) if looked else None
            return progress_text(training, progress, looks[0].dominance if looks else None), picture

        end, said = learn(cls, training, on_evaluation)
        last, best = training.concepts(end), training.concepts(end, best=True)
        return io.NodeOutput(
            last[0], loss_plot(end), looks[0].images, best[0], loss_map(end), training.learnt(), second_of(last),
            training.learnt_in_images(), ui=lasting(said),
        )  # fmt: skip


def second_of(concepts: Sequence[Concept]) -> Any:
    """The second concept, or what stops a node that wants one."""
    if len(concepts) > 1:
        return concepts[1]
    return ExecutionBlocker("No second concept was learnt: connect second_images at Training Options.")


def progress_text(training: ConceptTraining, progress: Progress, dominance: float | None) -> str:
    """How far a training is: the losses, where the words lie, and what the first takes of an image of two things."""
    end = progress.checkpoint
    lines = [compared(progress.evaluation or 0.0, end.initial_loss)]
    for word in training.words:
        if word.anchors is not None:
            lines[0] += f"; anchor loss {progress.anchor:.3g}, {training.anchors_of(word, end)}"
        lines.append(training.describe(training.way.words(end.parameters)[word.name]))
    if dominance is not None:
        lines.append(f"attention beside a {training.companion}: {dominance:.2f} times the class word's")
    return "\n".join([*lines, *training.notices])


NODES = [CompInvTrain]
