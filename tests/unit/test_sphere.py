"""Directional Textual Inversion: vectors keep their length, their directions are learnt."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compositional_inversion.compinv_core.backbone import Encoded
from compositional_inversion.compinv_core.training.checkpoint import Progress
from compositional_inversion.compinv_core.training.concept_training import ConceptTraining
from compositional_inversion.compinv_core.training.recipe import Recipe
from compositional_inversion.compinv_core.training.request import as_paper
from compositional_inversion.compinv_core.training.sphere import Sphere
from fake_backbone import FakeBackbone
from fake_training import ANCHORS, WAYS, both, gradients_of_a_batch_of_the_first, request, run, same, task_of, training
from torch import Tensor

SPHERE = Recipe(steps=13, batch=3, optimizer="sphere")
MINE = "mine/clip_l"


def on_sphere(backbone: FakeBackbone | None = None, way: str = "word", **changes: Any) -> ConceptTraining:
    return training(backbone, **{"fine_tune": WAYS[way], "recipe": SPHERE, **changes})


def start_of(of: ConceptTraining) -> Tensor:
    return of.way.spheres(of.recipe)[MINE].project(of.way.start()[MINE])


def test_a_step_is_the_papers_formula():
    """At (2, 0, 0) the gradient at the direction is twice (5, 1e-4, 0); less 1e-4 of the prior's mean its tangent is (0, 2, -1)e-4."""
    sphere, step = Sphere(2.0, torch.tensor([0.0, 0.0, 1.0])), 0.1
    moved = sphere.step(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[5.0, 1e-4, 0.0]]), step)
    along = step / math.sqrt(5)
    by_hand = torch.tensor([[1.0, -2 * along, along]]) * 2 / math.sqrt(1 + step**2)
    assert torch.allclose(moved, by_hand, atol=1e-5)  # float32, where the projection takes 10 from 10


def test_the_class_words_prior_pulls_where_the_loss_says_little_and_not_where_it_says_nothing():
    mean = F.normalize(torch.tensor([1.0, 2.0, 3.0]), dim=0)
    sphere, vectors = Sphere(2.0, mean), torch.tensor([[2.0, 0.0, 0.0]])
    little = torch.tensor([[0.0, 1e-8, 1e-8]])
    near, far = sphere.step(vectors, little, 0.1), Sphere(2.0, -mean).step(vectors, little, 0.1)
    assert (near @ mean).item() > (vectors @ mean).item() > (far @ mean).item()
    assert torch.equal(sphere.step(vectors, torch.zeros_like(vectors), 0.1), vectors)


def test_the_sphere_is_the_vocabularys_mean_length_and_the_class_words_direction():
    of = on_sphere(start_word="dog")
    (sphere,) = of.way.spheres(of.recipe).values()
    known = of.backbone.vocabularies["clip_l"]
    assert sphere.radius == pytest.approx(known.vectors.norm(dim=1).mean().item())
    assert torch.allclose(sphere.mean * known.vector("cat").norm(), known.vector("cat"))
    assert not of.way.spheres(Recipe())
    assert of.name != on_sphere(start_word="dog", class_word="kitten").name


@pytest.mark.parametrize("anchors", [None, ANCHORS])
def test_vectors_keep_their_length_at_every_report(anchors: Any, tmp_path: Path):
    of, seen = on_sphere(recipe=replace(SPHERE, steps=60), anchors=anchors), list[Progress]()
    end = run(of, tmp_path, reports=seen)
    radius = of.way.spheres(of.recipe)[MINE].radius
    for vectors in [p.checkpoint.parameters[MINE] for p in seen] + [end.best[MINE]]:
        assert vectors.norm(dim=1).tolist() == pytest.approx([radius] * 2, rel=1e-6)  # float32
    assert end.best_loss < end.initial_loss


@pytest.mark.parametrize("way", ["word", "keys and values"])
def test_a_step_turns_every_vector_by_the_learning_rate_and_the_rest_is_adamws(way: str, tmp_path: Path):
    of = on_sphere(way=way, anchors=replace(ANCHORS, learnt=True))
    end, start = run(of, tmp_path, stop_after=1), of.way.start()
    angles = torch.cosine_similarity(end.parameters[MINE], start_of(of), dim=1).acos()
    assert angles.tolist() == pytest.approx([math.atan(of.recipe.learning_rate)] * 2, rel=1e-3)  # acos of near 1
    for name, rate in of.way.learning_rates(of.recipe).items():
        if name != MINE:  # AdamW's first step is its rate
            assert (end.parameters[name] - start[name]).abs().max().item() == pytest.approx(rate, rel=1e-2), name


@pytest.mark.parametrize("way", ["word", "attention, low rank"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bit_for_bit(way: str, tmp_path: Path):
    def again() -> ConceptTraining:
        return on_sphere(way=way, anchors=replace(ANCHORS, learnt=True))

    undisturbed = run(again(), tmp_path / "undisturbed")
    for step in (1, 6, 12):
        assert run(again(), tmp_path / str(step), stop_after=step).step == step
        assert same(run(again(), tmp_path / str(step)), undisturbed)
    adamws = run(training(fine_tune=WAYS[way], anchors=replace(ANCHORS, learnt=True)), tmp_path / "adamw")
    assert not torch.equal(adamws.parameters[MINE], undisturbed.parameters[MINE])


class Overflowing(FakeBackbone):
    """A frozen model whose half precision is too small for the first gradient."""

    passes = 0

    def predict(self, noisy: Tensor, timesteps: Tensor, prompts: Encoded) -> Tensor:
        output = super().predict(noisy, timesteps, prompts)
        if output.requires_grad and len(noisy) == SPHERE.batch:  # not the one by which memory is measured
            self.passes += 1
            if self.passes == 1:
                output.register_hook(lambda gradient: gradient * torch.inf)
        return output


@pytest.mark.parametrize("anchors", [None, ANCHORS])
def test_a_gradient_that_is_not_finite_halves_the_loss_scale_and_leaves_the_direction(anchors: Any, tmp_path: Path):
    """The anchors' own gradient would be a whole step."""
    of = on_sphere(Overflowing(), anchors=anchors)
    first = run(of, tmp_path, stop_after=1)
    assert first.loss_scale == task_of(of).loss_scale / 2
    assert torch.equal(first.parameters[MINE], start_of(of))
    second = run(of, tmp_path, stop_after=1)
    assert second.step == 2 and second.loss_scale == first.loss_scale
    assert not torch.equal(second.parameters[MINE], first.parameters[MINE])


def test_anchors_alone_do_not_turn_a_word_that_no_image_of_a_batch_shows():
    of = both(anchors=ANCHORS)
    of.recipe = replace(of.recipe, optimizer="sphere")
    one, two = gradients_of_a_batch_of_the_first(of)
    assert one.any() and not two.any()


def test_the_papers_preset_ignores_it():
    _, recipe = as_paper(request(), SPHERE)
    assert recipe.optimizer == "AdamW"
