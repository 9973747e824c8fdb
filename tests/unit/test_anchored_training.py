"""What holds a word back: anchors, text features, a norm of the gradients."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compositional_inversion.compinv_core.training.recipe import (
    Recipe,
)
from fake_training import ANCHORS, WAYS, both, gradients_of, run, training


def test_text_features_cost_nothing_at_the_class_word_and_hold_the_word_to_it(tmp_path: Path):
    near: list[float] = []
    for weight in (0.0, 0.99):
        recipe = Recipe(
            steps=40, batch=3, anchor_loss="text features", anchor_weight=weight, reconstruction_weight=1 - weight
        )
        of = training(recipe=recipe, vectors=1, anchors=ANCHORS)
        start = of.way.start()
        penalty = of.way.penalty(start, recipe, [0, 5])
        assert penalty is not None and penalty.item() == pytest.approx(0, abs=1e-6)
        end = run(of, tmp_path)
        after = of.way.penalty(end.parameters, recipe, [0, 5])
        assert after is not None
        near.append(after.item())
    assert near[1] < near[0]


def test_text_features_of_two_words_are_each_words_own():
    of = both(anchors=ANCHORS)
    recipe = replace(of.recipe, anchor_loss="text features")
    start, count = of.way.start(), len(of.examples[0].prompts)
    start["two/clip_l"] = start["two/clip_l"] + 1
    for prompts, moved in (([0, 1], False), ([count], True), ([0, count], True)):
        penalty = of.way.penalty(start, recipe, prompts)
        assert penalty is not None and (penalty.item() > 1e-4) == moved


def test_a_run_that_is_held_to_text_features_is_named_by_the_class_word_of_these():
    recipe, settings = Recipe(anchor_loss="text features"), {"anchors": ANCHORS, "start_word": "dog"}
    cat, kitten = (training(recipe=recipe, class_word=word, **settings).name for word in ("cat", "kitten"))
    assert cat != kitten


@pytest.mark.parametrize("way", ["word", "keys and values"])
def test_gradients_are_scaled_down_to_a_norm(way: str):
    free, _ = gradients_of(training(fine_tune=WAYS[way]), 3)
    clipped, _ = gradients_of(training(fine_tune=WAYS[way], recipe=Recipe(steps=13, batch=3, max_grad_norm=1e-4)), 3)

    def norm(gradients: dict[str, torch.Tensor]) -> float:
        return torch.cat([g.flatten() for g in gradients.values()]).norm().item()

    assert norm(free) > 1e-3 and norm(clipped) == pytest.approx(1e-4, rel=1e-2)
    for name, gradient in clipped.items():
        assert torch.allclose(gradient, free[name] * (1e-4 / norm(free)), rtol=1e-2, atol=1e-9)


def test_the_anchors_that_pull_are_told_with_their_weights(tmp_path: Path):
    of = training(anchors=ANCHORS)
    end = run(of, tmp_path)
    (concept,) = of.concepts(end)
    assert concept.provenance["anchors"] == "cat 0.70, kitten 0.30" and concept.provenance["steps"] == "13"
    assert concept.provenance["pictures"] == "3" and concept.provenance["run"] == of.name
    assert "nearest words" in of.describe(concept.vectors)
