"""Repair on a fake backbone: the frozen model under the old word is the teacher; what is found, reported and refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.anchors import COCO_CATEGORIES
from compositional_inversion.compinv_core.concept import Concept
from compositional_inversion.compinv_core.report.figures import standing
from compositional_inversion.compinv_core.training.recipe import Recipe
from compositional_inversion.compinv_core.training.repair import Repair, RepairRequest, likely_class
from fake_backbone import FakeBackbone
from fake_training import run

RECIPE = Recipe(steps=13, batch=3)


def old(class_word: str = "cat") -> Concept:
    """A cyan cat."""
    known = FakeBackbone().vocabularies["clip_l"]
    return Concept("old", {"clip_l": (1.2 * known.vector("cat") + 0.6 * known.vector("cyan"))[None]}, class_word)


def repair(
    concept: Concept | None = None, recipe: Recipe = RECIPE, backbone: FakeBackbone | None = None, **changes: Any
) -> Repair:
    request = RepairRequest("new", **{"vectors": 2, "resolution": 64, "pictures": 4, "cfg": 4.0, **changes})
    return Repair(backbone or FakeBackbone(), concept or old(), request, recipe)


def test_the_new_word_makes_the_model_predict_what_the_old_one_does(tmp_path: Path):
    of = repair(recipe=Recipe(steps=150, batch=4, anchor_weight=0.0, reconstruction_weight=1.0))
    end = run(of, tmp_path)
    last = end.history[-1].evaluation
    assert last is not None and last < 0.3 * end.initial_loss
    (new,) = of.concepts(end)
    assert (new.name, new.class_word, new.count) == ("new", "cat", 2)
    assert new.provenance["repaired from"] == "old" and new.provenance["steps"] == "150"


def test_the_anchor_pulls_to_the_class_word(tmp_path: Path):
    cat = FakeBackbone().vocabularies["clip_l"].vector("cat")
    held, free = (
        run(repair(recipe=replace(RECIPE, steps=30, anchor_weight=w, reconstruction_weight=1 - w)), tmp_path)
        for w in (0.99, 0.0)
    )
    near, far = ((end.parameters["new/clip_l"] - cat).norm() for end in (held, free))
    assert near < far


def test_stopped_it_goes_on_to_the_same_and_another_seed_is_another_word(tmp_path: Path):
    undisturbed = run(repair(), tmp_path / "undisturbed")
    run(repair(), tmp_path, stop_after=6)
    assert torch.equal(run(repair(), tmp_path).parameters["new/clip_l"], undisturbed.parameters["new/clip_l"])
    other = run(repair(recipe=replace(RECIPE, seed=1)), tmp_path)
    assert not torch.equal(other.parameters["new/clip_l"], undisturbed.parameters["new/clip_l"])


def test_the_class_word_is_the_users_or_the_concepts_own_or_found(tmp_path: Path):
    backbone = many_words()
    vectors = {"clip_l": 1.2 * backbone.vocabularies["clip_l"].vector("cat")[None]}
    for own, given, word in (("", "", "cat"), ("boat", "", "boat"), ("", "boat", "boat"), ("car", "boat", "boat")):
        of = repair(Concept("old", vectors, own), backbone=backbone, class_word=given)
        assert of.class_word == word
        said = of.report(run(of, tmp_path, stop_after=1), 0.1)
        assert f'its class word is "{word}"' in said and ("COCO category nearest" in said) == (word == "cat")


def test_its_report_measures_both_words_as_concept_report_does_and_beside_others(tmp_path: Path):
    cat = FakeBackbone().vocabularies["clip_l"].vector("cat")
    same = Concept("old", {"clip_l": cat[None]}, "cat")
    of = repair(same, vectors=3)
    end = run(of, tmp_path, stop_after=1)
    said = of.report(end, end.initial_loss / 4)
    words = of.backbone.vocabularies["clip_l"]
    told = re.findall(r"norm ([\d.]+) times a typical word's; outlier percentile (\d+)", said)
    where = [standing(vectors, words) for vectors in (same.vectors["clip_l"], end.parameters["new/clip_l"])]
    assert told == [(f"{one.length:.1f}", f"{one.percentile:.0f}") for one in where]
    pairs = re.findall(r"([\d.]+) times, the others keep (\d+)%", said)
    (own, left), (new, kept), (again, kept_again) = (map(float, pair) for pair in pairs)
    assert (own, left) == (1, 100) and new > 1.1  # three vectors take more than the word once
    assert again == pytest.approx(new, abs=0.2) and kept_again == pytest.approx(kept, abs=10)  # of one step
    assert said.endswith("distillation loss: 25% of the class word's")


def test_a_text_encoder_without_everyday_things_costs_no_word(tmp_path: Path):
    words = {"mat": [1.0, 0, 0, 1], "rug": [0, 1.0, 1, 0], "sofa": [0, 0, 1.0, 1], "desk": [1.0, 1, 0, 0]}
    of = repair(Concept("old", {"clip_l": torch.ones(1, 4)}, "mat"), backbone=FakeBackbone(words))
    assert "attention was not measured" in of.report(run(of, tmp_path), 0.1)


def many_words() -> FakeBackbone:
    """Things and other words, 96 wide."""
    generator = torch.Generator().manual_seed(5)
    things = [thing for thing in COCO_CATEGORIES if " " not in thing]
    names = [*things, *(f"word{i}" for i in range(100))]
    return FakeBackbone({name: torch.randn(96, generator=generator).tolist() for name in names})


def test_a_class_word_is_found_only_for_what_is_near_to_an_everyday_thing():
    """Half of a thing's direction is enough; random vectors have a thing nearby once in a hundred times."""
    backbone = many_words()
    words, generator = backbone.vocabularies["clip_l"], torch.Generator().manual_seed(1)

    def found(vectors: torch.Tensor) -> str | None:
        try:
            return likely_class(backbone, Concept("old", {"clip_l": vectors}))
        except ValueError:
            return None

    for count in (1, 3):
        noise = torch.randn(30, count, 96, generator=generator)
        assert [found(vectors) for vectors in noise].count(None) >= 28
        for thing in ("cat", "chair"):
            towards = words.vector(thing) / words.vector(thing).norm() * 0.6 * noise.mean(1).norm(dim=1)[:, None]
            near = [found(vectors + one) for vectors, one in zip(noise[:10], towards, strict=False)]
            assert near.count(thing) >= 9


@pytest.mark.parametrize(
    ("concept", "changes", "sentence"),
    [
        (Concept("old", {"clip_g": torch.ones(1, 6)}), {}, "another family of models"),
        (Concept("old", {"clip_l": torch.zeros(2, 6)}), {"class_word": "cat"}, "is all zeros"),
        (Concept("old", {"clip_l": torch.ones(65, 6)}), {"class_word": "cat"}, "65 vectors; at most 64"),
        (old(), {"class_word": "xylophone"}, '"xylophone" is not a single token.*for "class_word".$'),
        (old(class_word="a cat"), {}, '"a cat" is not a single token.*comes with the concept "old"'),
        (old(), {"resolution": 100}, "multiple of 8"),
        (old(), {"pictures": 0}, "pictures is 0; 1 to 1000"),
        (old(), {"cfg": 0.5}, "cfg is 0.5; 1.0 to 30.0"),
    ],
)
def test_what_cannot_be_repaired_is_refused(concept: Concept, changes: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        repair(concept, **changes)


def test_what_no_everyday_thing_is_near_to_needs_its_class_word():
    backbone = many_words()
    astray = Concept("old", {"clip_l": torch.randn(3, 96, generator=torch.Generator().manual_seed(2))})
    with pytest.raises(ValueError, match=r'No COCO category is near the vectors of "old".*"class_word"'):
        repair(astray, backbone=backbone)
