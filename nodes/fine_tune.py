"""Compositional Fine-Tune: images in, a concept and a small change of the model out."""

from typing import Any

import comfy.sd
import latent_preview
import torch
from comfy_api.latest import io

from ..compinv_core.host.backbone import ComfyBackbone
from ..compinv_core.host.text_encoder import check_new_placeholder
from ..compinv_core.training.checkpoint import Progress
from ..compinv_core.training.concept_training import CLASS_STEPS, ConceptTraining
from ..compinv_core.training.recipe import Recipe
from ..compinv_core.training.request import FineTuneRequest, as_paper_fine_tune
from ..compinv_core.training.ways.fine_tune import What
from .inputs import FOLDED, first_values, recipe_of, requests_of, training_inputs
from .learning import Picture, learn
from .live_text import lasting, say
from .losses import loss_map, loss_plot
from .pictures import to_image
from .train import progress_text, second_of
from .types import CATEGORY, ConceptType, folded, found_by

KEYS_AND_VALUES = "keys and values (Custom Diffusion)"
ATTENTION = "LoRA on attention (DreamBooth)"
WHOLE = "whole UNet (DreamBooth)"
WHAT: dict[str, What] = {KEYS_AND_VALUES: "keys and values", ATTENTION: "attention", WHOLE: "whole UNet"}
DEFAULTS, RECIPE = FineTuneRequest(), Recipe()


class CompInvTrainModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        shared = training_inputs()
        schema = io.Schema(
            node_id="CompInvTrainModel",
            display_name="Compositional Fine-Tune",
            category=CATEGORY,
            **found_by("dreambooth", "custom diffusion", "train lora", "fine-tuning"),
            description="Trains an embedding and a small change of the model together (Custom Diffusion, DreamBooth), with anchors. The change "
            "comes out as a LoRA; your model is not changed.",
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *shared.values(),
                io.Combo.Input(
                    "what",
                    options=list(WHAT),
                    tooltip="What of the model is trained beside the embedding: the keys and values of cross-attention, a LoRA on all "
                    "attention, or every weight of the UNet, which takes 16 bytes of memory per parameter.",
                ),
                io.Int.Input(
                    "rank",
                    default=16,
                    min=0,
                    max=1024,
                    tooltip="Rank of the change. 0 trains each matrix in full, as Custom Diffusion does; the whole UNet always is.",
                ),
                io.Float.Input(
                    "weights_learning_rate",
                    default=RECIPE.weights_learning_rate,
                    min=0.00001,
                    max=1.0,
                    step=0.0001,
                    round=False,
                    tooltip="Learning rate of the change, relative to each weight's own RMS; decays to 0 along a cosine.",
                ),
                io.Combo.Input(
                    "prior",
                    options=["DCO", "class images", "none"],
                    tooltip="Regularises the change of the model, so that it does not forget the class. DCO: by comparison with the frozen model, one forward "
                    "pass more per step. class images: prior preservation on images of the class. none switches it off.",
                ),
                io.Image.Input(
                    "prior_images",
                    optional=True,
                    tooltip="For class images: images of ordinary things of the class. Unconnected: the model samples them.",
                ),
                io.Int.Input(
                    "prior_count",
                    default=DEFAULTS.prior_count,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="For class images: how many the model samples, once, before training.",
                ),
                io.Float.Input(
                    "prior_weight",
                    default=DEFAULTS.prior_weight,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    optional=True,
                    tooltip="Weight of the class images' loss beside the reconstruction loss; for DCO, a factor of its beta (10 is the paper's value): lower it "
                    "when the concept is not learnt. 0 switches the prior off.",
                ),
            ],
            outputs=[
                ConceptType.Output(
                    "CONCEPT",
                    display_name="concept",
                    tooltip="The embedding, for Apply Concept or Save Concept Adapter.",
                ),
                io.Custom("LORA_MODEL").Output(
                    "LORA_MODEL",
                    display_name="adapter",
                    tooltip="The change of the model as a LoRA, for Save Concept Adapter, Merge Concept Adapters or Load LoRA Model.",
                ),
                io.Model.Output(
                    "TUNED", display_name="model", tooltip="The model with the adapter applied at strength 1."
                ),
                io.Custom("LOSS_MAP").Output(
                    "LOSS_MAP",
                    display_name="losses",
                    tooltip="Validation loss at each evaluation, the initial one first, for Plot Loss Graph.",
                ),
                io.Image.Output(
                    "PREVIEW",
                    display_name="preview",
                    tooltip="Images sampled after training: the concept alone, and beside an ordinary thing; of two concepts, each alone; or Training "
                    "Options' preview_prompts.",
                ),
                io.Image.Output("LOSS_PLOT", display_name="loss plot", tooltip="The losses over the steps."),
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
        return folded(
            schema, *FOLDED, "vectors", "anchor_weight", "rank", "weights_learning_rate", "prior_count", "prior_weight"
        )

    @classmethod
    def execute(cls, **inputs: list[Any]) -> io.NodeOutput:
        one = first_values(inputs)
        requests, recipe = requests_of(inputs), recipe_of(inputs, one["weights_learning_rate"])
        for request in requests:
            check_new_placeholder(one["clip"], request.name)
        what = WHAT[one["what"]]
        fine_tune = FineTuneRequest(
            what=what,
            rank=0 if what == "whole UNet" else one["rank"],
            prior=one["prior"],
            prior_images=inputs.get("prior_images"),
            prior_count=one.get("prior_count", DEFAULTS.prior_count),
            prior_weight=one.get("prior_weight", DEFAULTS.prior_weight),
        )
        backbone = ComfyBackbone(one["model"], one["clip"], one["vae"])
        if one.get("options") and one["options"].paper:
            vocabularies = backbone.vocabularies.values()
            requests, recipe, fine_tune = as_paper_fine_tune(
                requests, recipe, fine_tune, lambda word: all(word in known for known in vocabularies)
            )
        count = fine_tune.prior_count

        def on_drawing(done: int) -> Any:
            say(cls, f"sampling images of the class: {done} of {count}")
            return latent_preview.prepare_callback(one["model"], CLASS_STEPS)

        return cls._run(ConceptTraining(backbone, requests, recipe, fine_tune, on_drawing=on_drawing), one["model"])

    @classmethod
    def _run(cls, training: ConceptTraining, model: Any) -> io.NodeOutput:
        looks: list[torch.Tensor] = []

        def on_evaluation(progress: Progress) -> tuple[str, Picture | None]:
            text = progress_text(training, progress, None)
            if not training.recipe.previews(progress.step):
                return text, None
            looks[:] = [training.preview(progress.checkpoint.parameters).images]
            return text, ("JPEG", to_image(torch.cat(list(looks[0]), dim=1)), 512)

        end, said = learn(cls, training, on_evaluation)
        concepts, adapter = training.concepts(end), training.adapter(end)
        assert adapter is not None
        lora = adapter.to_lora(training.backbone.lora_names)
        tuned, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
        return io.NodeOutput(
            concepts[0], lora, tuned, loss_map(end), looks[0], loss_plot(end), training.learnt(), second_of(concepts),
            training.learnt_in_images(), ui=lasting(said),
        )  # fmt: skip


NODES = [CompInvTrainModel]
