"""Attributes are learnt each where it acts, by the same loop as every other way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.backbone import Encoded
from compositional_inversion.compinv_core.concept import read_concept, write_concept
from compositional_inversion.compinv_core.reading.table import parsed, per_layer
from compositional_inversion.compinv_core.training.attribute_training import KINDS, AttributeRequest, AttributeTraining
from compositional_inversion.compinv_core.training.loop import as_leaves
from compositional_inversion.compinv_core.training.recipe import Recipe
from compositional_inversion.compinv_core.training.ways.attributes import Attributes, disentanglement_loss
from fake_backbone import FakeBackbone
from fake_training import gradients_of, request, run, same, task_of
from outlines import SD15, SDXL

BY_ATTRIBUTE, BY_LAYER, BY_STAGE = KINDS
RECIPE = Recipe(steps=13, batch=4)
ATTRIBUTES = ("colour", "style", "object", "layout")


def training(kind: Any = BY_ATTRIBUTE, backbone: Any = None, recipe: Recipe = RECIPE, **changes: Any) -> Any:
    own = {
        name: changes.pop(name)
        for name in ("images", "vectors", "class_word", "masks", "ignore_background")
        if name in changes
    }
    asked = AttributeRequest(
        request(**{"vectors": 1, "mirror": False, **own}), kind, **{"style_word": "picture", **changes}
    )
    return AttributeTraining(backbone or FakeBackbone(), asked, recipe)


def leaves_of(of: Any) -> dict[str, torch.Tensor]:
    return as_leaves(of.way.start(), torch.device("cpu"), set(of.way.learning_rates(of.recipe)))


def encoded(of: Any, t: float, only: Any = None) -> tuple[Encoded, dict[str, torch.Tensor]]:
    leaves = leaves_of(of)
    of.way.encode_ordinary([0])
    timestep = torch.tensor([round(t * len(of.backbone.schedule.alphas_cumprod))])
    return of.way.encode([0], leaves, timestep, only), leaves


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [1, 7, 12])
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(tmp_path: Path, kind: Any, stop: int):
    whole = run(training(kind), tmp_path / "whole")
    run(training(kind), tmp_path / "parts", stop_after=stop)
    assert same(run(training(kind), tmp_path / "parts"), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_change_no_gradient(kind: Any):
    whole, losses = gradients_of(training(kind), 4)
    parts, of_parts = gradients_of(training(kind), 1)
    assert torch.allclose(losses, of_parts, atol=1e-6)
    assert all(torch.allclose(whole[name], parts[name], rtol=1e-4, atol=1e-5) for name in whole)
    assert any(gradient.any() for gradient in whole.values())


@pytest.mark.parametrize(
    ("t", "acting"),
    [(0.9, {"colour", "style", "layout"}), (0.6, {"colour", "style", "object"}), (0.3, {"object"}), (0.1, set())],
)
def test_at_each_timestep_only_what_acts_there_is_learnt(t: float, acting: set[str]):
    of = training()
    read, leaves = encoded(of, t)
    total = sum((own.square().sum() for own in read.elsewhere.values()), torch.zeros((), requires_grad=True))
    total.backward()
    moved = {name for name in ATTRIBUTES if (grad := leaves[f"mine-{name}/clip_l"].grad) is not None and grad.any()}
    assert moved == acting
    assert not read.context.requires_grad and torch.equal(read.context, of.way.encode_ordinary([0]).context)


def test_a_block_reads_the_text_of_its_cell():
    of = training()
    read, leaves = encoded(of, 0.6)
    words = of.way.words({name: leaf.detach() for name, leaf in leaves.items()})
    first = of.examples.ordinary[0]
    texts = {
        "input 1": first.replace("cat", "embedding:mine-colour cat") + ", in the style of embedding:mine-style",
        "middle 0": first.replace("cat", "embedding:mine-object"),
    }
    from compositional_inversion.compinv_core.concept import Concept

    known = [Concept(name, vectors) for name, vectors in words.items()]
    assert set(read.elsewhere) == set(texts)
    for place, text in texts.items():
        assert torch.equal(read.elsewhere[place], of.backbone.encode_text(text, known).context)


def test_an_attribute_alone_is_read_without_the_others():
    of = training()
    colour, _ = encoded(of, 0.9, ["colour"])
    assert set(colour.elsewhere) == {"input 1"}
    assert encoded(of, 0.6, ["layout"])[0].elsewhere == {}


@pytest.mark.parametrize("outline", [SD15, SDXL])
def test_a_sample_takes_three_encodings_at_most(outline: Any):
    backbone = FakeBackbone()
    backbone.outline = outline
    of = training(backbone=backbone)
    of.way.encode_ordinary([0])
    asked: list[int] = []
    encode = backbone.encode

    def counted(prepared: Any, indices: Any, words: Any) -> Encoded:
        asked.append(len(indices))
        return encode(prepared, indices, words)

    backbone.encode = counted
    for t in range(50):
        read = of.way.encode([0], leaves_of(of), torch.tensor([t]))
        assert len({id(own) for own in read.elsewhere.values()}) <= 3
    assert max(asked) <= 3


def test_only_timesteps_at_which_something_acts_are_trained():
    timesteps = task_of(training()).data.timesteps
    assert timesteps is not None and timesteps.tolist() == list(range(13, 50))  # of 50, those above a quarter
    whole = task_of(training(BY_LAYER)).data.timesteps
    assert whole is not None and len(whole) == 50


def test_every_block_and_every_stage_has_a_word_of_its_own():
    assert [*training(BY_LAYER).cells.lines] == [*per_layer(FakeBackbone.outline).lines] == ["IN01", "MID"]
    stages = training(BY_STAGE)
    read, leaves = encoded(stages, 0.95)
    torch.stack([own.sum() for own in read.elsewhere.values()]).sum().backward()
    assert set(read.elsewhere) == {"input 1", "middle 0"}
    assert [name for name, leaf in leaves.items() if leaf.grad is not None and leaf.grad.any()] == [
        "mine-stage1/clip_l"
    ]
    assert stages.way.penalty(leaves, RECIPE, [0]) is None


def test_the_losses_are_mattes_in_spreads_of_the_vocabulary():
    """L_cs = |c - c*|^2 + (|c - s|^2 - |c* - s|^2)^2 and L_o = |o - o*|^2, each distance squared over the spread, a mean over colours."""
    of = training(colour_words="red, cyan")
    leaves, known = leaves_of(of), of.backbone.vocabularies["clip_l"]
    with torch.no_grad():
        for i, name in enumerate(ATTRIBUTES):
            leaves[f"mine-{name}/clip_l"].add_(0.1 * (i + 1))
    c, s, o = (leaves[f"mine-{name}/clip_l"].detach() for name in ("colour", "style", "object"))
    true, word = torch.stack([known.vector("red"), known.vector("cyan")]), known.vector("cat")
    assert len(c) == 2 and len(s) == len(o) == 1

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return ((a - b) ** 2).sum(dim=1).mean().item() / known.spread

    colour = distance(c, true) + (distance(c, s) - distance(true, s)) ** 2
    thing = distance(o, word)
    for switched, expected in (
        ({}, colour + thing), ({"colour_style": False}, thing), ({"object_class": False}, colour),
        ({"colour_style": False, "object_class": False}, None),
    ):  # fmt: skip
        way = replace(of.way, **switched)
        found = way.penalty(leaves, RECIPE, [0])
        assert (found is None) == (expected is None)
        if found is not None:
            assert found.item() == pytest.approx(expected, rel=1e-4)
        other = training(colour_words="red, cyan", **switched)
        assert (other.name == of.name) == (not switched)


def test_at_weight_0_neither_loss_is_there():
    free = training(recipe=replace(RECIPE, anchor_weight=0.0))
    assert free.way.penalty(leaves_of(free), free.recipe, [0]) is None
    assert not any(word.anchors for word in free.words)


def test_a_colour_is_as_far_from_the_style_as_its_words_are_at_no_cost():
    style, true = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]])
    assert disentanglement_loss(torch.tensor([[0.0, 3.0]]), style, true, 2.0) == 0
    assert disentanglement_loss(torch.zeros(1, 2), style, true, 3.0) == 9


def test_the_true_colours_are_found_where_the_mask_is():
    """The thing is on the left, of nearly turquoise; this text encoder knows red and cyan."""
    masks = torch.zeros(3, 32, 32)
    masks[:, :, :16] = 1
    of = training(masks=[masks])
    assert of.way.of_words.all_words[0].anchors.words == ("cyan",)
    assert training(colour_words="red").way.of_words.all_words[0].anchors.words == ("red",)


def test_each_colour_begins_as_its_own_word():
    """Their mean would be no colour."""
    of = training(colour_words="red, cyan", vectors=2)
    known = of.backbone.vocabularies["clip_l"]
    begun = of.way.of_words.all_words[0].start["clip_l"]
    assert torch.equal(begun, torch.stack([known.vector("red"), known.vector("cyan")]))
    assert [len(word.start["clip_l"]) for word in of.words] == [2, 2, 2, 2]
    assert [len(word.start["clip_l"]) for word in training(colour_words="red, cyan").words] == [2, 1, 1, 1]


def test_an_attribute_without_cells_is_not_learnt():
    of = training(table=parsed("colour: fine\nstyle: none"))
    assert [*of.cells.lines] == ["colour"] and [word.name for word in of.words] == ["mine-colour"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_out_is_a_concept_with_attributes(tmp_path: Path, kind: Any):
    of = training(kind, colour_words="red, cyan")
    (concept,) = of.concepts(run(of, tmp_path))
    write_concept(concept, tmp_path / "mine.safetensors")
    read = read_concept(tmp_path / "mine.safetensors")
    assert read.table == of.cells and set(read.attributes) == set(of.cells.lines) and read.provenance["learnt"] == kind
    if kind == BY_ATTRIBUTE:
        assert read.provenance["anchors"] == f"colour: red, cyan; object: {of.request.class_word}"
    plain, each = read.vectors["clip_l"], [own["clip_l"] for own in read.attributes.values()]
    expected = read.attributes["object"]["clip_l"] if kind == BY_ATTRIBUTE else torch.stack(each).mean(0)
    assert torch.equal(plain, expected)
    shown = of.preview(of.way.start())
    assert len(shown) == len(of.looks) == (5 if kind == BY_ATTRIBUTE else 1)


def test_a_run_that_is_cancelled_keeps_the_attributes(tmp_path: Path):
    of = training()
    run(of, tmp_path / "runs", stop_after=11)
    of.keep(tmp_path / "embeddings", tmp_path)
    (file,) = (tmp_path / "embeddings").iterdir()
    assert set(read_concept(file).attributes) == set(ATTRIBUTES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"table": parsed("colour: none")}, "leaves no attribute any cell"),
        (
            {"table": parsed("colour: moderate")},
            'gives "colour" to "moderate", which this model lacks; it has coarse, fine',
        ),
        ({"table": parsed("hue: fine")}, 'has a line for "hue"; colour, style, object, layout are learnt'),
        ({"style_word": "style"}, 'for "style_word"'),
        ({"colour_words": "red, mauve"}, 'for "colour_words"'),
        ({"class_word": "zebra"}, 'for "class_word"'),
        ({"kind": "per pixel"}, '"attributes" is "per pixel"'),
    ],
)
def test_bad_input_gets_one_sentence_before_the_first_step(changes: dict[str, Any], said: str):
    kind = changes.pop("kind", BY_ATTRIBUTE)
    with pytest.raises(ValueError) as error:
        training(kind, **changes)
    assert said in str(error.value)


def test_it_is_a_way_like_the_others():
    assert isinstance(training().way, Attributes)
