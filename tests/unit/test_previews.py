"""What is shown and said while something is learnt."""

import re
from pathlib import Path

import pytest
import torch
from compositional_inversion.compinv_core.training.checkpoint import Progress
from compositional_inversion.compinv_core.training.recipe import (
    Recipe,
)
from fake_backbone import FakeBackbone
from fake_training import SIDE, WAYS, both, run, same, training


@pytest.mark.parametrize("count", [1, 3])
def test_a_previews_dominance_is_1_for_the_class_word_itself_and_more_for_it_thrice(count: int):
    of = training(vectors=count)
    preview = of.preview(of.way.start())
    assert preview.images.shape == (2, SIDE, SIDE, 3) and preview.images.std() > 0.01
    assert preview.dominance is not None
    assert preview.dominance == pytest.approx(1) if count == 1 else preview.dominance > 1.05


def test_a_preview_is_the_same_image_by_image():
    images: list[torch.Tensor] = []
    for most in (1, 8):
        backbone = FakeBackbone()
        backbone.most = most
        of = training(backbone)
        images.append(of.preview(of.way.start()).images)
    assert torch.allclose(*images, atol=1e-5)


def test_a_preview_is_of_the_changed_model_and_leaves_no_change():
    backbone = FakeBackbone()
    of = training(backbone, WAYS["whole UNet"])
    start = of.way.start()
    one = of.preview(start).images
    other = of.preview({n: v + 0.3 if n.startswith("unet/") else v for n, v in start.items()}).images
    assert not torch.equal(one, other) and torch.equal(of.preview(start).images, one)


def test_a_placeholder_called_as_the_companion_would_be_gets_another():
    of = training(name="car")
    assert of.companion == "cup" and of.preview(of.way.start()).dominance is not None
    assert training().companion == "car"


def test_of_a_style_and_of_several_concepts_no_dominance_is_told():
    of = training(kind="style")
    assert of.preview(of.way.start()).dominance is None
    of = both()
    preview = of.preview(of.way.start())
    assert preview.dominance is None and preview.images.shape == (2, SIDE, SIDE, 3)


def test_a_users_prompts_are_looked_at_and_dominance_is_told_all_the_same():
    asked = ("a {} on a beach", "a {} at night", "two of {}")
    plain, of = training(), training(preview_prompts=asked)
    start = of.way.start()
    preview = of.preview(start)
    assert preview.images.shape == (3, SIDE, SIDE, 3)
    assert preview.dominance == pytest.approx(plain.preview(start).dominance, rel=0.2)
    assert of.identity()[0] == plain.identity()[0]  # a run goes on whatever is looked at
    assert training(kind="style", preview_prompts=asked[:1]).preview(start).images.shape == (1, SIDE, SIDE, 3)
    for name in ("cat-", "-cat"):  # which are allowed
        assert training(name=name, preview_prompts=asked).preview(training(name=name).way.start()).images.shape[0] == 3
    assert both(preview_prompts=asked[:2]).preview(both().way.start()).images.shape == (2, SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("a beach",), 'The prompt "a beach" has no place for the placeholder; write {} where it goes, once.'),
        (("a {}",) * 5, 'The input "preview_prompts" has 5 lines; 4 or fewer are allowed.'),
    ],
)
def test_a_users_prompts_that_cannot_be_looked_at_are_refused_before_the_first_step(asked: tuple[str, ...], said: str):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        training(preview_prompts=asked)


def test_reports_come_every_ten_steps_and_evaluations_with_some_of_them(tmp_path: Path):
    reports: list[Progress] = []
    end = run(training(recipe=Recipe(steps=25, batch=2)), tmp_path, reports=reports)
    assert [report.step for report in reports] == [10, 20, 25]
    assert all(report.evaluation is not None for report in reports) and len(end.history) == 3
    assert end.best_loss <= min(report.evaluation for report in reports if report.evaluation is not None)


def test_a_callback_that_fails_leaves_the_backbone_as_it_was_and_the_run_goes_on(tmp_path: Path):
    undisturbed = run(training(fine_tune=WAYS["whole UNet"]), tmp_path / "undisturbed")
    backbone = FakeBackbone()
    of = training(backbone, WAYS["whole UNet"])
    prompt, noisy = backbone.encode_text("a cat"), torch.ones(1, 4, 4, 4)
    before = backbone.predict(noisy, torch.zeros(1), prompt)

    def failing(progress: Progress) -> None:
        assert torch.equal(backbone.predict(noisy, torch.zeros(1), prompt), before)  # others may use the model now
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        of.run(tmp_path, lambda: False, failing)
    assert torch.equal(backbone.predict(noisy, torch.zeros(1), prompt), before)
    assert same(run(training(fine_tune=WAYS["whole UNet"]), tmp_path), undisturbed)
