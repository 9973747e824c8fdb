"""What is learnt of images, masks, prompts and captions, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.training.concept_training import ConceptTraining
from compositional_inversion.compinv_core.training.recipe import (
    PAPER_DREAMBOOTH,
    PAPER_KEYS_AND_VALUES,
    Recipe,
)
from compositional_inversion.compinv_core.training.request import FineTuneRequest, as_paper
from fake_backbone import FakeBackbone, K
from fake_training import ANCHORS, SIDE, pictures, request, run, training


def test_where_a_mask_is_black_nothing_is_learnt(tmp_path: Path):
    """This UNet's cells do not see each other."""
    masks = torch.zeros(3, SIDE, SIDE)
    masks[:, :, : SIDE // 2] = 1
    shown, other = pictures(), pictures(seed=9)
    settings = {"masks": [masks], "mirror": False}
    one, two = (
        run(training(images=images, **settings), tmp_path).parameters["mine/clip_l"] for images in (shown, other)
    )
    assert torch.equal(one, two)
    whole = [
        run(training(images=images, mirror=False), tmp_path).parameters["mine/clip_l"] for images in (shown, other)
    ]
    assert not torch.equal(*whole)


def test_without_masks_the_class_words_attention_finds_the_thing(tmp_path: Path, monkeypatch: Any):
    of = training(ignore_background=True, mirror=False)
    run(of, tmp_path, stop_after=1)
    assert of.foregrounds[0] is not None
    learnt = of.learnt()
    assert learnt.shape == (3, SIDE, SIDE) and learnt.min() >= 0 and learnt.max() <= 1 and learnt.std() > 0
    for changes in ({"masks": [torch.ones(3, SIDE, SIDE)]}, {"kind": "style"}):
        of = training(ignore_background=True, mirror=False, **changes)
        run(of, tmp_path, stop_after=1)
        assert of.foregrounds == [None] and (of.learnt() == 1).all()


def test_attention_that_is_everywhere_leaves_all_of_the_images(tmp_path: Path, caplog: Any):
    backbone = FakeBackbone()
    backbone.attention_to = lambda prompt, columns, noisy, timesteps: [torch.ones(len(noisy), len(columns), 4, 4)]
    found, plain = (
        run(training(of, ignore_background=ignored), tmp_path).parameters["mine/clip_l"]
        for of, ignored in ((backbone, True), (FakeBackbone(), False))
    )
    assert torch.equal(found, plain) and "too diffuse to find it" in caplog.text


def test_the_thing_is_found_image_by_image_where_memory_is_short(tmp_path: Path):
    learnt: list[torch.Tensor] = []
    for most in (1, 8):
        backbone = FakeBackbone()
        backbone.most = most
        of = training(backbone, ignore_background=True)
        run(of, tmp_path / str(most), stop_after=1)
        learnt.append(of.learnt())
    assert torch.allclose(*learnt, atol=1e-5)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (torch.zeros(SIDE, SIDE), 'Mask 2 of "masks" is black all over'),
        (torch.full((SIDE, SIDE), float("nan")), 'Mask 2 of "masks" holds NaN or infinite values'),
        (torch.ones(32, 48), 'Mask 2 of "masks" has 48 x 32 pixels and its image has 32 x 32'),
        (torch.ones(SIDE, SIDE, 3), r'Mask 2 of "masks" has the shape \(32, 32, 3\)'),
    ],
)
def test_masks_that_cannot_be_used_are_refused(mask: torch.Tensor, sentence: str):
    whole = torch.ones(1, SIDE, SIDE)
    with pytest.raises(ValueError, match=sentence):
        training(masks=[whole, mask[None], whole])
    with pytest.raises(ValueError, match='"masks" holds 1 masks for 3 images'):
        training(masks=[whole])


def test_what_a_mask_shows_is_learnt_wherever_it_is(caplog: Any):
    images, mask = [torch.rand(1, SIDE, 64, 3), torch.rand(1, SIDE, SIDE, 3)], torch.zeros(1, SIDE, 64)
    mask[:, :, :10] = 1
    with caplog.at_level("INFO"):
        of = training(images=images, masks=[mask, torch.ones(1, SIDE, SIDE)], mirror=False)
    learnt = of.examples[0].images[0]
    assert learnt[..., 3].mean() == pytest.approx(10 / SIDE)
    assert torch.allclose(learnt[..., :3], images[0][0, :, :SIDE], atol=1e-5)
    assert of.notices == ["1 of 2 images cropped to the largest square around the mask."]
    assert set(of.notices) <= set(caplog.messages)


def test_a_mask_that_no_square_shows_is_refused():
    mask = torch.zeros(1, SIDE, 160)
    mask[..., :10], mask[..., -10:] = 1, 1
    with pytest.raises(ValueError, match='Mask 1 of "masks" is black on the square that its image is cropped to'):
        training(images=[torch.rand(1, SIDE, 160, 3)], masks=[mask])


def test_close_ups_that_leave_out_what_the_mask_shows_are_not_learnt():
    mask = torch.zeros(1, 64, 64)
    mask[:, :3, :3] = 1
    of = training(images=[torch.rand(1, 64, 64, 3)] * 8, masks=[mask] * 8, rescale=True, mirror=False)
    (examples,) = of.examples
    assert 16 < len(examples.images) < 24 and len(examples.fitting) == len(examples.images)
    assert (examples.images[..., 3].amax(dim=(1, 2)) > 0.1).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": ["a photo of a cat"]}, 'The prompt "a photo of a cat" has no place for the placeholder'),
        ({"prompts": ["a {} next to a {}"]}, 'The prompt "a {} next to a {}" has 2 places for the placeholder'),
        ({"prompts": ["two {}s"]}, 'The prompt "two {}s" joins letters to the placeholder'),
        ({"prompts": ["a {}", "the {}"], "captions": True}, 'The input "captions" holds 2 captions for 3 images'),
        ({"prompts": ["very " * 20 + "{}"]}, "longer than one chunk"),
        ({"images": []}, '"images" is empty'),
        ({"class_word": "xylophone"}, '"xylophone" is not a single token.*for "class_word"'),
        ({"start_word": "xylophone"}, '"xylophone" is not a single token.*for "start_word"'),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(changes: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        training(**changes)


def test_captions_are_each_images_own():
    of = training(prompts=[f"{{}} number {i}" for i in range(3)], captions=True, mirror=False)
    assert of.fitting.tolist() == [[0], [1], [2]]


def test_a_finished_concept_is_gone_on_with_and_a_start_word_begins_elsewhere(tmp_path: Path):
    first = training()
    (concept,) = first.concepts(run(first, tmp_path))
    on = training(start_from=concept, vectors=5)
    assert torch.equal(on.way.start()["mine/clip_l"], concept.vectors["clip_l"])
    dog = training(start_word="dog").way.start()["mine/clip_l"]
    assert torch.equal(dog, FakeBackbone().vocabularies["clip_l"].vector("dog").repeat(2, 1))
    wide = replace(concept, vectors={"clip_l": torch.zeros(1, 768)})
    with pytest.raises(ValueError, match="another family of models"):
        training(start_from=wide)


@pytest.mark.parametrize("preset", [None, PAPER_KEYS_AND_VALUES, PAPER_DREAMBOOTH])
def test_a_papers_preset_takes_the_place_of_the_settings(preset: Recipe | None, tmp_path: Path):
    recipe = Recipe(steps=7, seed=5, noise_levels="high")
    asked, learnt = as_paper(request(anchors=ANCHORS), recipe, *([preset] if preset else []))
    assert asked.anchors is not None and asked.anchors.words == ("cat",)
    assert asked.class_word_too and asked.vectors == (1 if preset else 3)
    assert (learnt.seed, learnt.noise_levels, learnt.lr_unit) == (5, "high", "absolute")
    if preset is None:
        assert (learnt.steps, learnt.batch, learnt.learning_rate) == (5000, 8, 0.04)
        assert (learnt.reconstruction_weight, learnt.anchor_weight) == (0.05, 0.95)
    fine_tune = FineTuneRequest(prior="none") if preset else None
    of = ConceptTraining(FakeBackbone(), [asked], replace(learnt, steps=3, batch=2), fine_tune)
    assert of.examples[0].prompts[0] == "a photo of a embedding:mine cat"
    rates = of.way.learning_rates(of.recipe)
    assert rates["mine/clip_l"] == learnt.learning_rate
    assert preset is None or rates[f"unet/{K}"] == preset.weights_learning_rate
    assert run(of, tmp_path).step == 3


def test_a_concept_that_was_learnt_with_an_adapter_is_no_silent_start():
    from compositional_inversion.compinv_core.backbone import Family
    from compositional_inversion.compinv_core.concept import Concept
    from compositional_inversion.compinv_core.training.examples import WITH_ADAPTER, notices_of
    from compositional_inversion.compinv_core.training.request import Request

    vectors = {"clip_l": torch.ones(1, 4)}
    plain, tuned = Concept("mine", vectors, "cat"), Concept("mine", vectors, "cat", {WITH_ADAPTER: "FineTune"})
    said = [
        notices_of(Family("SD 1.x"), Request("new", "cat", [], start_from=start), [(8, 8)]) for start in (plain, tuned)
    ]
    assert said[0] == [] and "learnt with an adapter" in said[1][0]
