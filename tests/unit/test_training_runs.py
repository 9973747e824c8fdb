"""An unfinished run: killed at any moment, it goes on to the word that an undisturbed run learns."""

import multiprocessing
import os
import random
import time
from dataclasses import astuple, replace
from pathlib import Path

import package  # noqa: F401 - in a process of its own, too
import pytest
import torch
from compositional_inversion.compinv_core.backbone import Encoded, NoiseSchedule
from compositional_inversion.compinv_core.files import LEFT_BEHIND, whole_file
from compositional_inversion.compinv_core.memory import MemoryPlan
from compositional_inversion.compinv_core.tensor_files import write_sealed
from compositional_inversion.compinv_core.training.checkpoint import Checkpoint, Losses, RunFile, fingerprint
from compositional_inversion.compinv_core.training.loop import Surroundings, as_leaves, train
from compositional_inversion.compinv_core.training.recipe import Recipe
from compositional_inversion.compinv_core.training.task import Task, TrainingData
from compositional_inversion.compinv_core.training.ways.textual_inversion import TextualInversion, Word
from fake_backbone import FakeBackbone
from torch import Tensor

PROBE = torch.tensor([1.0, -2.0])


def learn(path: Path) -> Checkpoint:
    """A small UNet, so slow that a run of 400 steps can be killed in its middle."""
    mixed = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    backbone, file = FakeBackbone(width=4), RunFile(path, PROBE)

    def predict(noisy: Tensor, steps: Tensor, prompts: Encoded) -> Tensor:
        time.sleep(0.001)
        return (prompts.context.sum(dim=1) @ mixed).tanh()[:, :, None, None] + 0.1 * noisy

    backbone.predict = predict
    backbone.schedule = NoiseSchedule(torch.linspace(0.99, 0.01, 10), "epsilon")
    prompts = [(f"embedding:mine {word}".strip(), "mine") for word in ("cat", "dog", "car", "cup", "")]
    word = Word("mine", "cat", {"clip_l": torch.full((2, 4), 3.0)})
    way = TextualInversion(backbone, (word,), backbone.prepare(prompts, {"mine": 2}))
    latents = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(4))
    data, recipe = TrainingData(latents, torch.arange(5).expand(6, 5)), Recipe(400, 2, 0.1, 1, 0, seed=1)
    resume = file.load()
    leaves = as_leaves(resume.parameters if resume is not None else way.start(), latents.device, {"mine/clip_l"})
    around = Surroundings(MemoryPlan(0, 1, 2, 2), on_report=lambda progress: file.save(progress.checkpoint))
    return train(Task.on(backbone, data, way, recipe), around, leaves, resume)


def child(file: str, result: str) -> None:
    torch.set_num_threads(1)
    end = learn(Path(file))
    torch.save((end.parameters, end.best, end.best_loss, [astuple(report) for report in end.history]), result)


def test_killed_at_random_moments_it_loses_nothing(tmp_path: Path):
    undisturbed = learn(tmp_path / "undisturbed.pt")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["test_training_runs", "torch"])
    moments, kills = random.Random(0), 0
    for number in range(3):  # a run is over after a few kills; several make twenty
        file, result = tmp_path / f"{number}.pt", tmp_path / f"{number}.result"
        while not result.exists():
            process = processes.Process(target=child, args=(str(file), str(result)))
            process.start()
            process.join(moments.uniform(0.05, 0.2) if kills < 7 * (number + 1) else None)
            if process.is_alive():
                process.kill()  # SIGKILL
                process.join()
                kills += 1
        parameters, best, best_loss, losses = torch.load(result)
        assert [Losses(*report) for report in losses] == list(undisturbed.history)
        assert torch.equal(parameters["mine/clip_l"], undisturbed.parameters["mine/clip_l"])
        assert torch.equal(best["mine/clip_l"], undisturbed.best["mine/clip_l"]) and best_loss == undisturbed.best_loss
    assert kills >= 20


def test_another_models_run_is_not_gone_on_with(tmp_path: Path):
    learn(tmp_path / "run.pt")
    kept = RunFile(tmp_path / "run.pt", PROBE * 1.0001).load()
    assert kept is not None  # not always of the last step: on a busy machine a save that took long is made seldom
    assert RunFile(tmp_path / "run.pt", PROBE + 1).load() is None
    assert RunFile(tmp_path / "run.pt", torch.ones(3)).load() is None
    assert RunFile(tmp_path / "none.pt", PROBE).load() is None


def test_a_damaged_run_is_begun_anew_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "run.pt").write_bytes(b"half a file")
    assert RunFile(tmp_path / "run.pt", PROBE).load() is None
    assert "training starts anew" in caplog.text


def test_a_run_with_a_damaged_byte_is_begun_anew_and_kept_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Torch reads most of them without a word, and another word would be learnt."""
    RunFile(tmp_path / "run.pt", PROBE).save(learn(tmp_path / "learnt.pt"), at_once=True)
    whole = (tmp_path / "run.pt").read_bytes()
    right = RunFile(tmp_path / "run.pt", PROBE).load()
    assert right is not None
    places, unread = random.Random(0), 0
    for place in places.sample(range(len(whole)), 60):
        (tmp_path / "run.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        found = RunFile(tmp_path / "run.pt", PROBE).load()
        assert (tmp_path / "run.pt").exists() is (found is not None)
        assert (tmp_path / "run.damaged").exists() or found is not None
        if found is None:
            unread += 1
            continue  # what pads a file may change
        assert all(torch.equal(value, found.parameters[name]) for name, value in right.parameters.items())
        assert found.history == right.history and torch.equal(found.random, right.random)
    assert unread > 10 and "training starts anew" in caplog.text


def test_what_is_no_state_of_this_run_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Neither another run's, nor what somebody else has written: of that nothing is read."""
    learn(tmp_path / "other.pt")
    (tmp_path / "other.pt").rename(tmp_path / "run.pt")
    assert RunFile(tmp_path / "run.pt", PROBE).load() is None and (tmp_path / "run.damaged").exists()
    state = torch.load(tmp_path / "run.damaged")
    torch.save({**state, "run": "run", "micro_batch": 0}, tmp_path / "run.pt")
    assert RunFile(tmp_path / "run.pt", PROBE).load() is None
    assert "it is of the run other" in caplog.text and "it is damaged, or no file of this version" in caplog.text


def test_what_a_kill_has_left_of_a_write_goes_with_the_next_in_its_folder(tmp_path: Path):
    left, old = tmp_path / ".cat.safetensors.99999999.new", tmp_path / ".cat.safetensors.99999999.old.new"
    living, others = tmp_path / ".dog.safetensors.99999998.new", tmp_path / ".notes.new"
    for file in (left, old, living, others):
        file.touch()
    for file in (left, old, others):
        os.utime(file, (0, 0))
    hours = time.time() + 2 * LEFT_BEHIND
    with pytest.MonkeyPatch.context() as later:
        later.setattr("compositional_inversion.compinv_core.files.time.time", lambda: hours)
        os.utime(living, (hours, hours))
        with whole_file(tmp_path / "bird.safetensors") as new:
            new.touch()
    assert {file.name for file in tmp_path.iterdir()} == {living.name, others.name, "bird.safetensors"}


def test_a_run_of_another_version_is_begun_anew_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    learn(tmp_path / "run.pt")
    state = torch.load(tmp_path / "run.pt")
    del state["history"]
    write_sealed(state, tmp_path / "run.pt", {})
    assert RunFile(tmp_path / "run.pt", PROBE).load() is None
    assert "training starts anew" in caplog.text


def test_a_save_that_takes_long_is_made_seldom_but_at_once_where_it_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A second a save: after it, twenty seconds of work come first."""
    checkpoint, now = learn(tmp_path / "run.pt"), [100.0]
    save, clock = torch.save, lambda: now[0]

    def slow(*inputs: object) -> None:
        now[0] += 1
        save(*inputs)

    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(torch, "save", slow)
    file = RunFile(tmp_path / "slow.pt", PROBE)

    def saved(step: int, at_once: bool = False) -> bool:
        before = now[0]
        file.save(replace(checkpoint, step=step), at_once)
        return now[0] > before

    assert saved(10) and not saved(10, at_once=True) and not saved(20)
    now[0] += 10
    assert not saved(30) and saved(40, at_once=True)
    now[0] += 21
    assert saved(50)


def test_a_run_is_named_by_what_it_learns_from():
    pictures = torch.rand(2, 8, 8, 3)
    name = fingerprint(Recipe(10), [pictures])
    assert name == fingerprint(Recipe(10), [pictures.clone()])
    assert name != fingerprint(Recipe(11), [pictures])
    assert name != fingerprint(Recipe(10), [pictures.flip(0)])
