"""Trainings on a fake backbone: small images, few steps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from compositional_inversion.compinv_core.anchors import AnchorSet
from compositional_inversion.compinv_core.backbone import Backbone
from compositional_inversion.compinv_core.training.checkpoint import Checkpoint, Progress
from compositional_inversion.compinv_core.training.concept_training import ConceptTraining
from compositional_inversion.compinv_core.training.loop import as_leaves
from compositional_inversion.compinv_core.training.recipe import (
    Recipe,
)
from compositional_inversion.compinv_core.training.request import FineTuneRequest, Request
from compositional_inversion.compinv_core.training.task import Drawn, Task, Workers
from fake_backbone import FakeBackbone
from torch import Tensor

SIDE = 32  # pixels; 4 x 4 cells
ANCHORS = AnchorSet("cat", ("cat", "kitten"), (0.7, 0.3))
WAYS = {
    "word": None,
    "keys and values": FineTuneRequest(),
    "keys and values, low rank": FineTuneRequest(rank=2, prior="none"),
    "attention, low rank": FineTuneRequest(what="attention", rank=1, prior="class images", prior_count=3),
    "whole UNet": FineTuneRequest(what="whole UNet", prior="class images", prior_count=3),
}


def pictures(count: int = 3, seed: int = 0) -> list[torch.Tensor]:
    """A thing of one colour on the left, something on the right."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, SIDE, SIDE, 3, generator=generator)
    images[:, :, : SIDE // 2] = torch.tensor([0.1, 0.9, 0.8])
    return [images]


def request(**changes: Any) -> Request:
    settings = {"name": "mine", "class_word": "cat", "images": pictures(), "vectors": 2, "resolution": SIDE, **changes}
    return Request(**settings)


def training(
    backbone: FakeBackbone | None = None, fine_tune: FineTuneRequest | None = None, recipe: Recipe | None = None, **changes: Any
) -> ConceptTraining:  # fmt: skip
    settings: Backbone = backbone or FakeBackbone()
    return ConceptTraining(settings, [request(**changes)], recipe or Recipe(steps=13, batch=3), fine_tune)


def run(of: ConceptTraining, folder: Path, stop_after: int = 0, reports: list[Progress] | None = None) -> Checkpoint:
    """Run it, or so many of its steps."""
    taken: list[None] = []

    def interrupted() -> bool:
        taken.append(None)
        return len(taken) == stop_after

    return of.run(folder, interrupted, ([] if reports is None else reports).append)


def task_of(of: ConceptTraining, workers: Workers = Workers()) -> Task:  # noqa: B008 - frozen
    """What a run of it minimises."""
    material = of.material().clone()
    return Task.on(
        of.backbone, material.data, of.way, of.recipe,
        prior=of.prior, class_data=material.class_data, teacher=material.teacher, workers=workers,
    )  # fmt: skip


def gradients_of(
    of: ConceptTraining, micro_batch: int, workers: Sequence[Workers] = (Workers(),)
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The first step's gradients and losses, summed over workers."""
    total, losses = dict[str, torch.Tensor](), torch.zeros(4)
    for worker in workers:
        task = task_of(of, worker)
        rates = task.way.learning_rates(of.recipe)
        leaves = as_leaves(task.way.start(), of.backbone.device, set(rates))
        drawn = task.draw(torch.Generator().manual_seed(1))
        with of.backbone.trainable(False, 0), of.backbone.changed(task.way.changes(leaves)):
            met, _ = task.backward(leaves, drawn, 1, torch.tensor(task.loss_scale), micro_batch)
        losses += met
        for name in rates:
            gradient = leaves[name].grad
            assert gradient is not None
            total[name] = total.get(name, torch.zeros_like(gradient)) + gradient
    return total, losses


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        one.step == other.step
        and one.best_loss == other.best_loss
        and all(torch.equal(value, other.parameters[name]) for name, value in one.parameters.items())
        and all(torch.equal(value, other.best[name]) for name, value in one.best.items())
    )


def both(**changes: Any) -> ConceptTraining:
    requests = [
        request(name="one", vectors=1), request(name="two", class_word="dog", images=pictures(2, seed=5), vectors=3)
    ]  # fmt: skip
    return ConceptTraining(FakeBackbone(), [replace(r, **changes) for r in requests], Recipe(steps=13, batch=4))


def gradients_of_a_batch_of_the_first(of: ConceptTraining) -> tuple[Tensor, Tensor]:
    """Of the words "one" and "two", learnt together, after a step whose images all show the first."""
    task = task_of(of)
    leaves = as_leaves(of.way.start(), of.backbone.device, set(of.way.learning_rates(of.recipe)))
    drawn = task.draw(torch.Generator().manual_seed(0))
    example = torch.zeros_like(drawn.batch.example)
    batch = replace(drawn.batch, example=example, prompt=task.data.prompts[example, 0])
    with of.backbone.trainable(False, 0):
        task.backward(leaves, Drawn(batch, None), 1, torch.tensor(1.0), 4)
    one, two = (leaves[f"{name}/clip_l"].grad for name in ("one", "two"))
    assert one is not None and two is not None
    return one, two
