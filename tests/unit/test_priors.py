"""What keeps a fine-tuned model from forgetting its class."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.training.checkpoint import Checkpoint
from compositional_inversion.compinv_core.training.concept_training import ConceptTraining
from compositional_inversion.compinv_core.training.priors import DCO_BETA, ClassImages, DirectConsistency, NoPrior
from compositional_inversion.compinv_core.training.recipe import (
    Recipe,
)
from compositional_inversion.compinv_core.training.request import FineTuneRequest
from fake_backbone import OUT, FakeBackbone
from fake_training import gradients_of, pictures, request, run, same, task_of, training


def slope(losses: list[float], base: list[float]) -> list[float]:
    """Of DCO's loss along each image's."""
    learnt = torch.tensor(losses, requires_grad=True)
    DirectConsistency().balanced(learnt, torch.tensor(base)).sum().backward()
    assert learnt.grad is not None
    return learnt.grad.tolist()


def test_dco_is_the_reconstruction_loss_where_both_explain_an_image_alike():
    assert slope([0.2, 0.01], [0.2, 0.01]) == pytest.approx([1, 1])


def test_dco_learns_no_further_where_an_image_is_explained_much_better_than_by_the_frozen_model():
    better, worse = slope([0.1, 0.5], [0.3, 0.3])  # 20 units of 1 / beta
    assert 0 <= better < 1e-6 and worse == pytest.approx(2, abs=1e-6)
    slopes = slope([0.201, 0.2, 0.1995, 0.199, 0.195], [0.2] * 5)
    assert slopes == sorted(slopes, reverse=True) and len(set(slopes)) == 5


def test_other_priors_leave_the_losses_alone():
    losses = torch.tensor([0.3, 0.1])
    for prior in (NoPrior(), ClassImages(0.5)):
        assert prior.balanced(losses, None) is losses and not prior.needs_base_loss
    assert (NoPrior().weight, DirectConsistency().weight, ClassImages(0.5).weight) == (0, 0, 0.5)


def test_class_images_are_the_users_or_drawn_by_the_model():
    drawn = training(fine_tune=FineTuneRequest(prior="class images", prior_count=5)).material().class_data
    assert drawn is not None and len(drawn.latents) == 5 and drawn.prompts.shape == (5, 27)
    given = pictures(4, seed=3)
    users = training(fine_tune=FineTuneRequest(prior="class images", prior_images=given)).material().class_data
    assert users is not None and torch.equal(users.latents, FakeBackbone().encode_images(given[0]))
    for prior in ("none", "DCO"):
        assert training(fine_tune=FineTuneRequest(prior=prior)).material().class_data is None


def test_class_images_are_drawn_once_for_a_run_that_is_stopped_and_goes_on(tmp_path: Path):
    def stopped(after: int, folder: Path) -> tuple[ConceptTraining, Checkpoint, int]:
        fine_tune, drawn = FineTuneRequest(prior="class images", prior_count=5), list[int]()
        requests = [request(name="one"), request(name="two", class_word="dog")]
        of = ConceptTraining(backbone, requests, Recipe(steps=13, batch=3), fine_tune, on_drawing=drawn.append)
        return of, run(of, folder, stop_after=after), len(drawn)

    backbone = FakeBackbone()
    _, undisturbed, _ = stopped(0, tmp_path / "undisturbed")
    assert stopped(4, tmp_path / "runs")[2] == 4  # of each class four images, then one
    of, end, drawn = stopped(0, tmp_path / "runs")
    assert drawn == 0 and same(end, undisturbed)
    of.forget(tmp_path / "runs")
    assert not list((tmp_path / "runs").iterdir())

    stopped(4, tmp_path / "runs")
    backbone.weights[OUT] *= 2  # as a LoRA does, of which a model's fingerprint says nothing
    assert stopped(4, tmp_path / "runs")[2] == 4
    (file,) = (tmp_path / "runs").glob("*.material")
    file.write_bytes(b"half a file")
    assert stopped(4, tmp_path / "runs")[2] == 4


def test_class_images_of_two_concepts_come_with_their_own_class_word():
    requests = [request(name="one"), request(name="two", class_word="dog")]
    fine_tune = FineTuneRequest(prior="class images", prior_count=2)
    of = ConceptTraining(FakeBackbone(), requests, Recipe(), fine_tune)
    data = of.material().class_data
    assert data is not None and len(data.latents) == 4
    asked = [of.of_words.ordinary_prompts[i] for i in data.prompts[:, 0].tolist()]
    assert [text.split()[-1] for text in asked] == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"prior_images": []}, '"prior_images" holds no image'),
        ({"prior_images": [torch.zeros(0, 8, 8, 3)]}, '"prior_images" holds no image'),
        ({"prior_count": 0}, "prior_count is 0; 1 or more"),
    ],
)
def test_no_class_images_are_refused(wrong: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        FineTuneRequest(prior="class images", **wrong)


def test_images_of_the_class_that_cannot_be_used_are_refused_at_once():
    with pytest.raises(ValueError, match="4 x 4 pixels"):
        training(fine_tune=FineTuneRequest(prior="class images", prior_images=[torch.zeros(1, 4, 4, 3)]))


def test_ranks_that_fit_no_matrix_are_refused():
    with pytest.raises(ValueError, match='"rank" is 5, but the smallest matrix that is learnt is 4 x 6'):
        training(fine_tune=FineTuneRequest(rank=5))
    with pytest.raises(ValueError, match="the whole UNet is learnt in full"):
        training(fine_tune=FineTuneRequest(what="whole UNet", rank=2))


def test_at_the_start_dco_has_the_reconstruction_losss_gradient_and_the_prior_loss_is_the_frozen_models():
    """A word that starts as its class word, in prompts of ordinary words: both models explain the images alike."""
    plain, dco = (
        gradients_of(training(fine_tune=FineTuneRequest(prior=prior), vectors=1, recipe=Recipe(batch=3)), 3)[0]
        for prior in ("none", "DCO")
    )
    for name, gradient in plain.items():
        assert torch.allclose(dco[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())
    fine_tune = FineTuneRequest(prior="class images", prior_count=3, prior_weight=1e-9)
    weightless, losses = gradients_of(training(fine_tune=fine_tune, vectors=1, recipe=Recipe(batch=3)), 3)
    for name, gradient in plain.items():
        assert losses[2] > 0 and weightless[name].isfinite().all() and gradient.any()


def test_under_dco_the_reconstruction_loss_is_reported_beside_its_objective(tmp_path: Path):
    """Which at the start is 2 / beta log 2, where both models explain the images alike."""
    plain, dco = (training(fine_tune=FineTuneRequest(prior=prior), vectors=1) for prior in ("none", "DCO"))
    own, balanced = (gradients_of(of, 3)[1].tolist() for of in (plain, dco))
    assert own[0] == own[3] == balanced[3] > 0
    assert balanced[0] == pytest.approx(2 / DCO_BETA * math.log(2), rel=1e-3)
    assert all(told.objective == told.reconstruction for told in run(plain, tmp_path).history)
    first = run(dco, tmp_path).history[0]
    assert first.objective < first.reconstruction


def test_a_prior_of_class_images_keeps_the_model_near_itself_on_the_class(tmp_path: Path):
    """What the changed model predicts for class images in ordinary words moves less."""
    moved: list[float] = []
    for weight in (1e-9, 10.0):
        fine_tune = FineTuneRequest(what="whole UNet", prior="class images", prior_count=8, prior_weight=weight)
        of = training(fine_tune=fine_tune, recipe=Recipe(steps=60, batch=4, weights_learning_rate=0.05))
        end, data = run(of, tmp_path), of.material().class_data
        assert data is not None
        task = task_of(of)
        drawn = task.draw(torch.Generator().manual_seed(3)).class_batch
        assert drawn is not None
        with torch.no_grad():
            before = task.of_class(drawn).mean().item()
            with of.backbone.changed(of.way.changes(end.parameters)):
                moved.append(task.of_class(drawn).mean().item() - before)
    assert moved[1] < moved[0]
