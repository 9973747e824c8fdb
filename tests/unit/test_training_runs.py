"""An unfinished run: killed at any moment, it goes on to the word that an undisturbed run learns."""

import multiprocessing
import random
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from compinv_core.training.runs import fingerprint, load_run, save_run

from compinv_core.backbone import Encoded, NoiseSchedule
from compinv_core.training.loop import Checkpoint, Losses, Progress, Recipe, Task, train

PROBE = torch.tensor([1.0, -2.0])


def learn(file: Path) -> Checkpoint:
    """A small UNet, so slow that a run of 400 steps can be killed in its middle."""
    mixed = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))

    def predict(noisy: torch.Tensor, steps: torch.Tensor, prompts: Encoded) -> torch.Tensor:
        time.sleep(0.001)
        return (prompts.context[:, -1] @ mixed).tanh()[:, :, None, None] + 0.1 * noisy

    def encode(indices: list[int], vectors: Mapping[str, torch.Tensor]) -> Encoded:
        context = vectors["clip_l"] * torch.tensor(indices)[:, None, None]
        return Encoded(context, context[:, -1])

    def keep(progress: Progress) -> None:
        save_run(progress.checkpoint, PROBE, file)

    return train(
        {"clip_l": torch.full((2, 4), 3.0)},
        {"clip_l": 1.0},
        Task(
            torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(4)),
            prompts=torch.arange(5).expand(6, 5),
            encode=encode,
            predict=predict,
            schedule=NoiseSchedule(torch.linspace(0.99, 0.01, 10), "epsilon"),
            recipe=Recipe(400, 2, 0.1, 1, 0, seed=1),
        ),
        resume=load_run(file, PROBE),
        on_report=keep,
    )


def child(file: str, result: str) -> None:
    torch.set_num_threads(1)
    end = learn(Path(file))
    losses = [(report.step, report.reconstruction, report.anchor, report.check) for report in end.history]
    torch.save((end.vectors, end.best, end.lowest, losses), result)


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
        vectors, best, lowest, losses = torch.load(result)
        assert [Losses(*report) for report in losses] == list(undisturbed.history)
        assert torch.equal(vectors["clip_l"], undisturbed.vectors["clip_l"])
        assert torch.equal(best["clip_l"], undisturbed.best["clip_l"]) and lowest == undisturbed.lowest
    assert kills >= 20


def test_another_models_run_is_not_gone_on_with(tmp_path: Path):
    learn(tmp_path / "run.pt")
    kept = load_run(tmp_path / "run.pt", PROBE * 1.0001)
    assert kept is not None and kept.step == 400
    assert load_run(tmp_path / "run.pt", PROBE + 1) is None
    assert load_run(tmp_path / "none.pt", PROBE) is None


def test_a_damaged_run_is_begun_anew_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "run.pt").write_bytes(b"half a file")
    assert load_run(tmp_path / "run.pt", PROBE) is None
    assert "training begins anew" in caplog.text


def test_a_run_of_another_version_is_begun_anew_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    learn(tmp_path / "run.pt")
    state = torch.load(tmp_path / "run.pt")
    del state["history"]
    torch.save(state, tmp_path / "run.pt")
    assert load_run(tmp_path / "run.pt", PROBE) is None
    assert "training begins anew" in caplog.text


def test_a_run_is_named_by_what_it_learns_from():
    pictures = torch.rand(2, 8, 8, 3)
    name = fingerprint(Recipe(10), [pictures])
    assert name == fingerprint(Recipe(10), [pictures.clone()])
    assert name != fingerprint(Recipe(11), [pictures])
    assert name != fingerprint(Recipe(10), [pictures.flip(0)])
