"""Attributes learnt on the real host: gradients per cell against diffusers and transformers, and the node."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_families import FAMILIES, comfy_model, diffusers_unet, transformers_text
from torch import Tensor

TABLE = """
stages: 600
colour: output 0, middle 0 in 1
style: output 0 in 1
object: middle 0 in 2; input 3
layout: output 1
"""
WORDS = {"class_word": "cat", "style_word": "painting", "colour_words": "red, blue"}
BLOCKS = {  # ComfyUI's name of a block -> diffusers'
    "input 3": "down_blocks.1.attentions.0", "middle 0": "mid_block.attentions.0",
    "output 0": "up_blocks.0.attentions.0", "output 1": "up_blocks.0.attentions.1",
}  # fmt: skip
SIZES = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])  # original, corner of the crop, target
TEXTS = {  # by hand: what a block reads at a timestep above 600, and below, of the prompt "a photo of a ..."
    "input 3": ("a photo of a embedding:mine-object", "a photo of a embedding:mine-object"),
    "middle 0": ("a photo of a embedding:mine-colour cat", "a photo of a embedding:mine-object"),
    "output 0": ("a photo of a embedding:mine-colour cat, in the style of embedding:mine-style", "a photo of a cat"),
    "output 1": ("a photo of a cat, with the layout of embedding:mine-layout",) * 2,
}


def training_of(model: Any, clip: Any, vae: Any = None, **changes: Any) -> Any:
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone
    from compositional_inversion.compinv_core.reading.table import parsed
    from compositional_inversion.compinv_core.training.attribute_training import AttributeRequest, AttributeTraining
    from compositional_inversion.compinv_core.training.recipe import Recipe
    from compositional_inversion.compinv_core.training.request import Request

    images = [torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))]
    settings = {"vectors": 2, "resolution": 64, "mirror": False, "prompts": ["a photo of a {}"]}
    request = Request("mine", WORDS["class_word"], images, **settings)
    own = {key: value for key, value in WORDS.items() if key != "class_word"}
    asked = AttributeRequest(request, table=parsed(TABLE), **{**own, **changes})
    return AttributeTraining(
        ComfyBackbone(model, clip, vae), asked, Recipe(batch=2, reconstruction_weight=0.7, anchor_weight=0.3)
    )


class Theirs:
    """Texts by transformers, with all attributes' vectors as the last rows of one table for each text encoder."""

    def __init__(self, clip: Any, words: Mapping[str, Mapping[str, Tensor]]):
        from compositional_inversion.compinv_core.concept import Concept
        from compositional_inversion.compinv_core.host import text_encoder

        self.marked = clip
        for name, vectors in words.items():
            self.marked = text_encoder.with_concept(self.marked, Concept(name, vectors))
        self.encoders = text_encoder.text_encoders(clip)
        self.rows = {key: torch.cat([words[name][key] for name in words]) for key in self.encoders}
        self.texts = {key: transformers_text(encoder, self.rows[key]) for key, encoder in self.encoders.items()}

    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """(1, L, E) and (1, P)."""
        contexts: list[Tensor] = []
        pooled = torch.empty(0)
        for key, encoder in self.encoders.items():
            own, rows = self.texts[key], self.rows[key]
            first = len(own.get_input_embeddings().weight) - len(rows)
            (chunk,) = self.marked.tokenize(text)[key.removeprefix("clip_")]
            ids = [
                first + int((rows == token).all(dim=1).nonzero()[0]) if isinstance(token, Tensor) else token
                for token, _ in chunk
            ]
            output = own(torch.tensor([ids]), output_hidden_states=True)
            hidden = output.hidden_states[-1 if encoder.layer == "last" else encoder.layer_idx]
            if encoder.layer == "last" or encoder.layer_norm_hidden_state:
                hidden = own.text_model.final_layer_norm(hidden)
            contexts.append(hidden)
            pooled = output.text_embeds
        return torch.cat(contexts, dim=-1), pooled

    def gradients(self, key: str) -> Tensor:
        return self.texts[key].get_input_embeddings().weight.grad[-len(self.rows[key]) :]


def prediction_by_diffusers(unet: Any, family: Any, theirs: Theirs, noisy: Tensor, steps: Tensor) -> Tensor:
    """Each block of diffusers' UNet is handed its own context, where it asks for one."""
    hooks: list[Any] = []
    of_blocks = {
        block: torch.cat([theirs.encode(TEXTS[place][0 if t >= 600 else 1])[0] for t in steps.tolist()])
        for place, block in BLOCKS.items()
    }
    for name, module in unet.named_modules():
        block = name.partition(".transformer_blocks")[0]
        if name.endswith("attn2") and block in of_blocks:

            def hand(_: Any, inputs: Any, named: dict[str, Any], own: Tensor = of_blocks[block]) -> Any:
                return inputs, {**named, "encoder_hidden_states": own}

            hooks.append(module.register_forward_pre_hook(hand, with_kwargs=True))
    plain, pooled = theirs.encode("a photo of a cat")
    added = {"text_embeds": pooled.detach().expand(len(steps), -1), "time_ids": SIZES.repeat(len(steps), 1)}
    try:
        asked = added if family.config == "SDXL" else None
        context = plain.detach().expand(len(steps), -1, -1)
        return unet(noisy, steps, context, added_cond_kwargs=asked).sample
    finally:
        assert len(hooks) == len([1 for name, _ in unet.named_modules() if name.endswith("attn2")])
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", list(FAMILIES))
def test_loss_and_gradients_of_every_cell_are_those_of_diffusers(
    name: str, microworld: Any, request: pytest.FixtureRequest
):
    from compositional_inversion.compinv_core.training.loop import as_leaves
    from compositional_inversion.compinv_core.training.task import Batch, Drawn, Task, TrainingData
    from diffusers import DDPMScheduler

    family, clip = FAMILIES[name], request.getfixturevalue(name)
    model = comfy_model(family, depth=2)
    of = training_of(model, clip)
    generator = torch.Generator().manual_seed(4)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    start = {
        key: value + 0.05 * torch.randn(value.shape, generator=generator) if "clip" in key else value
        for key, value in of.way.start().items()
    }
    leaves = as_leaves(start, torch.device("cpu"), set(of.way.learning_rates(of.recipe)))
    theirs = Theirs(clip, {n: {k: v.detach() for k, v in own.items()} for n, own in of.way.words(leaves).items()})
    data = TrainingData(latents, torch.zeros(2, 1, dtype=torch.long))
    unet = diffusers_unet(family, model)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    known = of.backbone.vocabularies

    for steps in (torch.tensor([120, 840]), torch.tensor([700, 600]), torch.tensor([599, 10])):
        for leaf in leaves.values():
            leaf.grad = torch.zeros_like(leaf) if leaf.requires_grad else None
        for own in (*theirs.texts.values(), unet):
            own.zero_grad()
        drawn = Drawn(Batch(torch.arange(2), torch.zeros(2, dtype=torch.long), steps, noise), None)
        task = Task.on(of.backbone, data, of.way, of.recipe)
        with torch.inference_mode(), torch.inference_mode(False), torch.enable_grad():
            of.way.encode_ordinary([0])
            with of.backbone.trainable(False, 0):
                losses, _ = task.backward(leaves, drawn, 1, torch.tensor(1.0), 2)

        output = prediction_by_diffusers(unet, family, theirs, scheduler.add_noise(latents, noise, steps), steps)
        target = noise if family.prediction == "EPS" else scheduler.get_velocity(latents, noise, steps)
        expected = (output - target).square().mean()
        penalty = torch.zeros(())
        for key, text in theirs.texts.items():
            colour, style, thing = (text.get_input_embeddings().weight[-8:].split(2)[i] for i in range(3))
            true, word = torch.stack([known[key].vector("red"), known[key].vector("blue")]), known[key].vector("cat")
            near, apart, wanted, still = (  # a colour and its own word; each colour and each vector of the style
                (a - b).square().sum(dim=-1).mean() / known[key].spread
                for a, b in ((colour, true), (colour[:, None], style), (true[:, None], style), (thing, word))
            )
            penalty = penalty + near + (apart - wanted) ** 2 + still
        penalty = penalty / len(theirs.texts)
        (0.7 * expected + 0.3 * 1e-3 * penalty).backward()

        assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
        assert losses[1].item() == pytest.approx(penalty.item(), rel=1e-4)
        for key in theirs.texts:
            mine = torch.cat([leaves[f"mine-{n}/{key}"].grad for n in of.cells.lines])
            their = theirs.gradients(key)
            # Float32 through some forty layers in another order of summation: 1e-4 of the gradient's own size.
            for one, other in zip(mine.split(2), their.split(2), strict=True):
                assert (one - other).norm() <= 1e-4 * their.norm()


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_checkpointed_blocks_read_their_own_texts_and_the_gradient_is_the_same_bit_for_bit(
    name: str, request: pytest.FixtureRequest
):
    from compositional_inversion.compinv_core.training.loop import as_leaves

    family, clip = FAMILIES[name], request.getfixturevalue(name)
    of = training_of(comfy_model(family, depth=1), clip)
    leaves = as_leaves(of.way.start(), torch.device("cpu"), set(of.way.learning_rates(of.recipe)))
    noisy, steps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([700, 100])
    found: list[list[Tensor]] = []
    with torch.inference_mode(), torch.inference_mode(False), torch.enable_grad():
        of.way.encode_ordinary([0])
        for saving in (False, True):
            with of.backbone.trainable(saving, 0):
                output = of.backbone.predict(noisy, steps, of.way.encode([0, 0], leaves, steps))
                moving = [leaf for leaf in leaves.values() if leaf.requires_grad]
                found.append(list(torch.autograd.grad(output.square().mean(), moving, allow_unused=True)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


INPUTS = {
    "placeholder": "mine", "class_word": "cat", "resolution": 64, "steps": 6, "batch": 2, "learning_rate": 0.1, "anchor_weight": 0.1,
    "seed": 0, "attributes": "colour, style, object, layout", "table": TABLE, "colour_words": "", "style_word": "striped",
    "colour_style_loss": True, "object_loss": True, "mirror": False, "ignore_background": False,
}  # fmt: skip


def trained(pack: Any, microworld: Any, **changes: Any) -> Any:
    from compositional_inversion.compinv_core.reading.table import MATTE

    one = dict(zip(("model", "clip", "vae"), microworld, strict=True))
    inputs = {**one, **INPUTS, "table": str(MATTE), **changes}
    images = inputs.pop("images", [torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))])
    with torch.inference_mode():
        return pack.run("CompInvTrainAttributes", images=images, **{key: [value] for key, value in inputs.items()})


def test_the_node_gives_a_concept_whose_attributes_a_prompt_takes(pack: Any, microworld: Any, tmp_path: Path):
    from test_attributes import applied, attribute_prompt
    from test_sampling import ksampler, negative

    before = ksampler(pack, microworld)
    concept, preview, plot, losses, table = trained(pack, microworld)
    assert set(concept.attributes) == {"colour", "style", "object", "layout"} and concept.cells == table
    assert preview.shape == (5, 64, 64, 3) and plot.ndim == 4 and losses["loss"]
    plain = negative(microworld, "a photo of a cat")
    positive = attribute_prompt(pack, microworld, concept, colour_1=True, object_1=True)[0]
    found = ksampler(pack, microworld, applied(microworld), positive=positive)
    assert torch.equal(positive[0][0], plain[0][0]) and not torch.allclose(
        found, ksampler(pack, microworld, positive=plain), atol=1e-3
    )
    assert torch.equal(ksampler(pack, microworld), before)
    assert concept.describe().startswith('"mine" is an embedding')


@pytest.mark.parametrize("kind", ["per layer (P+)", "per stage (ProSpect)"])
def test_layers_and_stages_are_learnt_by_the_same_node(pack: Any, microworld: Any, kind: str):
    concept, preview, *_ = trained(pack, microworld, attributes=kind, steps=3)
    assert len(concept.attributes) == (7 if "P+" in kind else 10) and preview.shape == (1, 64, 64, 3)
    from test_attributes import attribute_prompt

    conditioning, read = attribute_prompt(pack, microworld, concept, object_1=True, layout_1="P+" in kind)
    assert "embedding:mine-" in read and conditioning


def test_the_same_seed_learns_the_same(pack: Any, microworld: Any):
    one, other = (trained(pack, microworld, steps=3)[0] for _ in range(2))
    for name, own in one.attributes.items():
        assert torch.equal(own["clip_l"], other.attributes[name]["clip_l"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": [torch.rand(6, 64, 64, 3)]}, "holds 6 images; 1 to 5 are allowed"),
        ({"table": "colour: moderate"}, "which this model lacks"),
        ({"placeholder": "cat"}, "is an ordinary word"),
        ({"style_word": "watercolour"}, '"style_word"'),
    ],
)
def test_bad_input_gets_one_sentence(pack: Any, microworld: Any, changes: dict[str, Any], said: str):
    with pytest.raises(ValueError) as error:
        trained(pack, microworld, **changes)
    assert said in str(error.value)


def test_a_concept_can_be_renamed_with_its_attributes(pack: Any, microworld: Any):
    from test_attributes import of_words

    concept = of_words(microworld, "thing", colour="blue")
    assert replace(concept, name="other").of("colour").name == "other-colour"
