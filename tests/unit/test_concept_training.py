"""Concepts learnt on a fake backbone, one or several: every way goes on bit for bit, and leaves the model as it was."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.training import checkpoint
from compositional_inversion.compinv_core.training.checkpoint import Checkpoint, Progress
from compositional_inversion.compinv_core.training.concept_training import ConceptTraining
from compositional_inversion.compinv_core.training.recipe import (
    Recipe,
)
from compositional_inversion.compinv_core.training.request import FineTuneRequest
from compositional_inversion.compinv_core.training.task import Task
from fake_backbone import BIAS, OUT, Cancelled, FakeBackbone, K, Q, V
from fake_training import (
    ANCHORS,
    SIDE,
    WAYS,
    both,
    gradients_of_a_batch_of_the_first,
    pictures,
    request,
    run,
    same,
    training,
)


@pytest.mark.parametrize("way", list(WAYS))
def test_stopped_at_any_step_a_run_goes_on_to_the_same_bit_for_bit(way: str, tmp_path: Path):
    def again() -> ConceptTraining:
        return training(fine_tune=WAYS[way], anchors=replace(ANCHORS, learnt=True))

    undisturbed = run(again(), tmp_path / "undisturbed")
    for step in range(1, 13):
        folder = tmp_path / str(step)
        assert run(again(), folder, stop_after=step).step == step
        end = run(again(), folder)
        assert same(end, undisturbed)
        evaluations = [[p.evaluation for p in e.history if p.evaluation is not None] for e in (end, undisturbed)]
        assert evaluations[0] == evaluations[1]
    assert len(undisturbed.parameters) == len(again().way.start())


@pytest.mark.parametrize("way", list(WAYS))
def test_what_is_learnt_moves_and_the_backbone_does_not(way: str, tmp_path: Path):
    backbone = FakeBackbone()
    before = {path: weight.clone() for path, weight in backbone.weights.items()}
    of = training(backbone, WAYS[way])
    end, start = run(of, tmp_path), of.way.start()
    for name in of.way.learning_rates(of.recipe):
        assert not torch.equal(end.parameters[name], start[name]), name
    assert all(torch.equal(weight, before[path]) for path, weight in backbone.weights.items())
    adapter = of.adapter(end)
    assert (adapter is None) == (WAYS[way] is None)
    if adapter is not None:
        assert adapter.family == "SD 1.x" and set(adapter.changes) <= set(backbone.weights)
        assert all(change.delta.any() for change in adapter.changes.values())


def test_weights_that_are_zero_learn_at_the_median_rate_of_their_kind(tmp_path: Path):
    """Of matrices for a matrix; the only bias has none of its kind, and takes the median of all."""
    backbone = FakeBackbone()
    for path in (OUT, BIAS):
        backbone.weights[path].zero_()
    of = training(backbone, FineTuneRequest(what="whole UNet", prior="none"))
    rates = of.way.learning_rates(of.recipe)
    others = sorted(rates[f"unet/{path}"] for path in (Q, K, V))
    assert rates[f"unet/{OUT}"] == rates[f"unet/{BIAS}"] == others[1] > 0
    end = run(of, tmp_path)
    assert end.step == 13 and all(end.parameters[f"unet/{path}"].any() for path in (OUT, BIAS))


def test_each_way_learns_the_images_better_than_the_one_with_less_to_learn(tmp_path: Path):
    """The same run, with the keys and values, then with all of the UNet beside the word."""
    losses = [
        run(training(fine_tune=fine_tune, recipe=Recipe(steps=60, batch=4)), tmp_path).best_loss
        for fine_tune in (None, FineTuneRequest(prior="none"), FineTuneRequest(what="whole UNet", prior="none"))
    ]
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("way", ["word", "whole UNet"])
def test_a_cancel_within_a_step_keeps_the_last_whole_one_and_goes_on_to_the_same(way: str, tmp_path: Path):
    undisturbed = run(training(fine_tune=WAYS[way]), tmp_path / "undisturbed")
    for step in (1, 4, 12):
        backbone, passes = FakeBackbone(), list[int]()

        def pressed(images: int, passes: list[int] = passes, step: int = step) -> None:
            passes.append(images)
            if sum(n == 3 for n in passes) == step:
                raise Cancelled

        backbone.on_forward = pressed
        of = training(backbone, WAYS[way])
        folder = tmp_path / str(step)
        assert run(of, folder).step == step - 1
        said = of.keep(folder / "embeddings", folder / "loras")
        assert said.startswith(f"after step {step - 1};" if step > 1 else "before anything was learnt")
        assert len(list(folder.glob("embeddings/mine-unfinished-*.safetensors"))) == (step > 1)
        assert len(list(folder.glob("loras/mine-unfinished-*.safetensors"))) == (step > 1 and way != "word")
        assert same(run(training(fine_tune=WAYS[way]), folder), undisturbed)


@pytest.mark.parametrize("way", ["word", "whole UNet"])
@pytest.mark.parametrize("step", [10, 20, 23])  # 23 is the last
def test_a_cancel_within_an_evaluation_or_a_preview_loses_no_step(
    step: int, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def again() -> ConceptTraining:
        return training(fine_tune=WAYS[way], recipe=Recipe(steps=23, batch=3))

    undisturbed, evaluate = run(again(), tmp_path / "undisturbed"), Task.evaluate
    assert [p.step for p in undisturbed.history if p.evaluation is not None] == [10, 20, 23]

    def cancelled_preview(progress: Progress) -> None:
        if progress.step == step:
            raise Cancelled

    def cancelled_evaluation(self: Task, *inputs: Any) -> Any:
        if len(evaluations) == [10, 20, 23].index(step) + 1:  # after the start's
            raise Cancelled
        evaluations.append(None)
        return evaluate(self, *inputs)

    evaluations = list[None]()
    for within in ("evaluation", "preview"):
        of, folder = again(), tmp_path / within
        with monkeypatch.context() as patched, pytest.raises(Cancelled):
            if within == "evaluation":
                patched.setattr(Task, "evaluate", cancelled_evaluation)
            of.run(folder, lambda: False, cancelled_preview)
        assert of.keep(folder / "embeddings", folder / "loras").startswith(f"after step {step};")
        seen: list[Progress] = []
        end = run(again(), folder, reports=seen)
        assert same(end, undisturbed) and end.history == undisturbed.history
        assert seen[-1].step == 23 and seen[-1].evaluation is not None  # of which a node shows a preview
        assert seen[0].step == (step if within == "evaluation" or step == 23 else min(step + 10, 23))


def test_what_is_forgotten_begins_anew(tmp_path: Path):
    of = training()
    run(of, tmp_path, stop_after=3)
    assert [file.stem for file in tmp_path.iterdir()] == [of.name]
    of.forget(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_is_named_by_all_that_it_learns_from():
    def name(backbone: FakeBackbone | None = None, **changes: Any) -> str:
        return training(backbone, **changes).name

    other = FakeBackbone()
    other.fingerprint = "another"
    names = [
        name(), name(other), name(images=pictures(seed=1)), name(vectors=1), name(anchors=ANCHORS), name(name="other"),
        name(anchors=replace(ANCHORS, learnt=True)), name(recipe=Recipe(steps=14, batch=3)), name(mirror=False),
        name(prompts=["a {}"]), name(class_word_too=True), name(masks=[torch.rand(3, SIDE, SIDE)]),
        *(name(fine_tune=way) for way in WAYS.values() if way is not None), name(start_word="dog"),
        name(fine_tune=FineTuneRequest(prior="class images")),
        name(fine_tune=FineTuneRequest(prior="class images", prior_weight=0.5)),
        name(fine_tune=FineTuneRequest(prior="class images", prior_images=pictures(seed=2))),
    ]  # fmt: skip
    assert len(set(names)) == len(names) and name() == names[0]


def test_of_two_concepts_each_prompt_holds_its_own_placeholder_and_both_are_learnt(tmp_path: Path):
    of = both()
    names = of.of_words.prepared.placeholders
    count = len(of.examples[0].prompts)
    assert names == ("one",) * count + ("two",) * count
    images = [len(examples.images) for examples in of.examples]
    assert (of.fitting[: images[0]] < count).all() and (of.fitting[images[0] :] >= count).all()
    end = run(of, tmp_path)
    one, two = of.concepts(end)
    assert (one.name, one.class_word, one.count) == ("one", "cat", 1)
    assert (two.name, two.class_word, two.count) == ("two", "dog", 3)
    for concept in (one, two):
        start = of.backbone.vocabularies["clip_l"].vector(concept.class_word)
        assert ((concept.vectors["clip_l"] - start).norm(dim=1) > 0).all()
    assert of.name.startswith("one+two-") and of.placeholders == "one and two"


def test_two_concepts_stopped_go_on_to_the_same(tmp_path: Path):
    undisturbed = run(both(), tmp_path / "undisturbed")
    run(both(), tmp_path, stop_after=7)
    assert same(run(both(), tmp_path), undisturbed)


def test_a_word_that_no_prompt_of_a_batch_holds_gets_no_gradient():
    of = both()
    one, two = gradients_of_a_batch_of_the_first(of)
    assert one.any() and not two.any()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"name": "same"}, '"same" is given twice'), ({}, "need one resolution")],
)
def test_concepts_that_cannot_be_learnt_together_are_refused(changes: dict[str, Any], sentence: str):
    requests = [request(**changes), request(**{"name": "other", "resolution": 2 * SIDE, **changes})]
    with pytest.raises(ValueError, match=sentence):
        ConceptTraining(FakeBackbone(), requests, Recipe())


def test_in_a_later_session_a_run_that_ended_well_is_answered_with_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    steps: list[None] = []

    def learnt(of: ConceptTraining) -> Checkpoint:
        steps.clear()
        reports: list[Progress] = []
        end = of.run(
            tmp_path / "runs", lambda: bool(steps.append(None)), reports.append, finished=tmp_path / "finished"
        )
        assert reports[-1].evaluation is not None  # from which a node makes its preview
        of.forget(tmp_path / "runs")
        return end

    first = learnt(training())
    assert (
        same(learnt(training()), first) and len(steps) == 12
    )  # asked between steps; the host answers for its own session
    monkeypatch.setattr(checkpoint, "SESSION", time.time() + 1)
    assert same(learnt(training()), first) and not steps
    learnt(training(recipe=Recipe(steps=13, batch=3, seed=1)))
    assert len(steps) == 12 and len(list((tmp_path / "finished").iterdir())) == 2
    monkeypatch.setattr(checkpoint, "FINISHED", 1)
    learnt(training(recipe=Recipe(steps=13, batch=3, seed=2)))
    assert len(list((tmp_path / "finished").iterdir())) == 1
    monkeypatch.setattr(checkpoint, "MAX_FINISHED", 1)
    learnt(training(recipe=Recipe(steps=13, batch=3, seed=3)))
    assert len(list((tmp_path / "finished").iterdir())) == 1 and not list((tmp_path / "runs").iterdir())
