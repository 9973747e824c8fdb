"""How much of a batch goes through the model at once, and what becomes of it when memory runs out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.training.loop import as_leaves
from compositional_inversion.compinv_core.training.recipe import (
    Recipe,
)
from compositional_inversion.compinv_core.training.task import Workers
from fake_backbone import FakeBackbone, OutOfMemory
from fake_training import ANCHORS, WAYS, gradients_of, run, same, training


@pytest.mark.parametrize("way", list(WAYS))
def test_the_gradient_in_micro_batches_is_the_whole_batchs(way: str):
    of = training(fine_tune=WAYS[way], anchors=ANCHORS, recipe=Recipe(batch=4))
    whole, losses = gradients_of(of, 4)
    for size in (1, 3):
        parts, met = gradients_of(of, size)
        assert torch.allclose(met, losses, rtol=1e-5)
        for name, gradient in parts.items():  # sums in other parts
            assert torch.allclose(gradient, whole[name], rtol=1e-4, atol=1e-6 * whole[name].abs().max().item()), name


def test_workers_sum_to_the_whole_batch():
    """Each takes every third image; one image more than workers, and the last batch part is of one worker alone."""
    of = training(recipe=Recipe(batch=4))
    whole, losses = gradients_of(of, 4)
    parts, met = gradients_of(of, 4, [Workers(rank, 3) for rank in range(3)])
    assert met[0].item() == pytest.approx(losses[0].item(), rel=1e-5)
    assert torch.allclose(parts["mine/clip_l"], whole["mine/clip_l"], rtol=1e-4, atol=1e-7)


def test_where_memory_runs_out_micro_batches_are_halved_then_gradients_checkpointed(tmp_path: Path, caplog: Any):
    undisturbed = run(training(recipe=Recipe(steps=12, batch=4)), tmp_path / "plenty").parameters["mine/clip_l"]
    backbone, seen = FakeBackbone(), list[tuple[int, bool]]()

    def small(images: int) -> None:
        seen.append((images, backbone.readied[-1]))
        if len(seen) > 1 and not backbone.readied[-1]:  # the first is the estimate's
            raise OutOfMemory

    backbone.on_forward = small
    with caplog.at_level("INFO"):
        end = run(training(backbone, recipe=Recipe(steps=12, batch=4)), tmp_path)
    assert seen[:6] == [(1, False), (4, False), (2, False), (1, False), (1, True), (1, True)]
    assert torch.allclose(end.parameters["mine/clip_l"], undisturbed, atol=1e-5)  # sums in other parts
    assert "Out of memory: from now on" in caplog.text and "micro-batches of 2 (batch 4)" in caplog.text
    assert end.micro_batch == 1


def test_out_of_memory_says_what_to_lower_and_the_run_goes_on(tmp_path: Path):
    undisturbed = run(training(), tmp_path / "undisturbed")
    backbone, seen = FakeBackbone(), list[int]()

    def full(images: int) -> None:
        seen.append(images)
        if len(seen) > 1 + 10:
            raise OutOfMemory

    backbone.on_forward = full
    of = training(backbone)
    with pytest.raises(MemoryError, match=r"gradient checkpointing and micro-batches of 1\. Lower the resolution"):
        run(of, tmp_path)
    assert of.reached is not None and of.reached.step == 10
    assert same(run(training(), tmp_path), undisturbed)


def test_out_of_memory_says_what_ran_out(tmp_path: Path):
    """Before the first step, and beside the steps, gradient checkpointing was not tried."""

    def full(*_: object) -> torch.Tensor:
        raise OutOfMemory

    backbone = FakeBackbone()
    backbone.encode_images = full
    with pytest.raises(MemoryError, match="memory while its images and prompts were encoded, before the first step"):
        run(training(backbone), tmp_path)
    with pytest.raises(MemoryError, match="memory in an evaluation or a preview"):
        training().run(tmp_path, lambda: False, full)


def test_little_free_memory_is_planned_for(tmp_path: Path, caplog: Any):
    plenty, counted = FakeBackbone(), list[int]()
    with caplog.at_level("INFO"):
        undisturbed = run(training(plenty), tmp_path / "plenty").parameters["mine/clip_l"]
    assert "micro-batches of 3 (batch 3)" in caplog.text and not any(plenty.readied)
    per_image = measured(FakeBackbone())
    for images, size, checkpointing in ((3.5, 3, False), (1.1, 1, False), (0.6, 2, True)):
        backbone = FakeBackbone()
        state = 16 * 12  # of two vectors of six numbers
        backbone.free = state + 1.2 * (per_image[0] + images * per_image[1])
        backbone.on_forward = counted.append
        end = run(training(backbone), tmp_path / str(images))
        assert backbone.readied[-1] == checkpointing and end.micro_batch == size
        assert torch.allclose(end.parameters["mine/clip_l"], undisturbed, atol=1e-5)


def measured(backbone: FakeBackbone) -> tuple[int, int]:
    """Bytes that a forward of the word's training saves for its text, and for an image."""
    of = training(backbone)
    data, leaves = of.material().data.clone(), as_leaves(of.way.start(), backbone.device, {"mine/clip_l"})
    with backbone.trainable(False, 0), backbone.measuring_saved_activations() as saved:
        prompt = of.way.encode([0], leaves)
        text = saved()
        backbone.predict(data.latents[:1], torch.tensor([25]), prompt)
        return text, saved() - text


def test_more_than_memory_holds_is_refused_before_the_first_step(tmp_path: Path):
    backbone, passes = FakeBackbone(), list[int]()
    backbone.free, backbone.on_forward = 1000, passes.append
    of = training(backbone, WAYS["whole UNet"])
    with pytest.raises(MemoryError, match=r"are to be learnt; .* Choose keys and values, or LoRA"):
        run(of, tmp_path)
    assert passes == [1]  # the estimate's
    run(training(backbone), tmp_path)  # the word alone fits
