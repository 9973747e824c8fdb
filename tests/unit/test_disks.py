"""Disks that are full or may not be written, two servers on one folder, and clocks that jump: a sentence, and nothing lost."""

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from compositional_inversion.compinv_core import files
from compositional_inversion.compinv_core.concept import Concept, read_concept, write_concept
from compositional_inversion.compinv_core.files import whole_file, write_tensors
from fake_training import run, training

CONCEPT = Concept("my-cat", {"clip_l": torch.ones(2, 768)}, "cat")  # 6 kB
LARGE = Concept("my-cat", {"clip_l": torch.ones(20, 768)}, "cat")  # 60 kB
ROOM = 16384


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 kB, with a concept on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk may be mounted here")
    write_concept(CONCEPT, folder / "my-cat.safetensors")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # whatever a traceback holds open there


@pytest.fixture(params=["full", "read-only"])
def unwritable(disk: Path, request: pytest.FixtureRequest) -> Path:
    """That disk with no room left, or set to read-only."""
    if request.param == "full":
        with pytest.raises(OSError), (disk / "others").open("wb") as other:
            other.write(bytes(2 * ROOM))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    return disk


def test_what_cannot_be_written_is_one_sentence_and_leaves_what_was_there(unwritable: Path):
    before = {path.name: path.stat().st_ino for path in unwritable.iterdir()}
    for path in (unwritable / "my-cat.safetensors", unwritable / "new" / "other.safetensors"):
        with pytest.raises(OSError) as raised:
            write_concept(LARGE, path, replace=True)
        said = str(raised.value)
        assert said.startswith(f'"{path}" cannot be written: ') and said.endswith("is writable and has room.")
        assert len(said) <= 300 and "\n" not in said and "Errno" not in said
    assert {path.name: path.stat().st_ino for path in unwritable.iterdir() if path.is_file()} == before
    assert torch.equal(read_concept(unwritable / "my-cat.safetensors").vectors["clip_l"], CONCEPT.vectors["clip_l"])


def test_of_two_files_neither_is_replaced_when_one_cannot_be_written(disk: Path, tmp_path: Path):
    here, there = tmp_path / "a.safetensors", disk / "my-cat.safetensors"
    write_concept(CONCEPT, here)
    before = here.read_bytes(), there.read_bytes()
    with pytest.raises(OSError, match=r'my-cat\.safetensors" cannot be written'):
        write_tensors(*(({"clip_l": torch.zeros(20, 768)}, path, {}) for path in (here, there)))
    assert (here.read_bytes(), there.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "disk"]


def test_a_run_whose_folder_cannot_be_written_learns_the_same(
    unwritable: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    undisturbed = run(training(), tmp_path / "runs").parameters
    one = training()
    with caplog.at_level(logging.WARNING):
        learnt = run(one, unwritable).parameters
        one.forget(unwritable)
    assert all(torch.equal(learnt[key], value) for key, value in undisturbed.items())
    assert "The run cannot be kept: " in caplog.text


def test_a_run_whose_disk_becomes_read_only_ends_with_what_it_learnt(disk: Path, caplog: pytest.LogCaptureFixture):
    one = training()
    (disk / f"{one.name}.pt").write_bytes(b"a run that cannot be removed")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    one.forget(disk)
    assert "cannot be removed" in caplog.text


def test_two_servers_on_one_folder_with_the_same_process_id_write_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As in two containers, whose first process has the same id in each."""
    path = tmp_path / "my-cat.safetensors"
    with whole_file(path) as mine:
        mine.write_text("mine, the first half")
        with monkeypatch.context() as other:
            other.setattr(files, "HERE", "0" * 8)
            with whole_file(path) as theirs:
                theirs.write_text("theirs")
        assert path.read_text() == "theirs"
        with mine.open("a") as file:
            file.write(", the second half")
    assert path.read_text() == "mine, the first half, the second half"
    assert os.listdir(tmp_path) == [path.name]


def no_links(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


@pytest.mark.parametrize("links", [True, False])
def test_what_another_server_saves_under_the_same_name_meanwhile_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
):
    """Both find the name free; the other one's file comes to be while ours is being written."""
    if not links:
        monkeypatch.setattr(files.os, "link", no_links)
    adapter, name, write = tmp_path / "adapter.safetensors", tmp_path / "my-cat.safetensors", files.save_file

    def meanwhile(tensors: dict[str, torch.Tensor], new: Path, metadata: dict[str, str]) -> None:
        write(tensors, new, metadata)
        if new.name.startswith(".my-cat.s"):
            name.write_bytes(b"theirs")

    monkeypatch.setattr(files, "save_file", meanwhile)
    one = {"clip_l": torch.zeros(2, 768)}
    with pytest.raises(files.Taken, match=r'my-cat\.safetensors" exists already'):
        files.write_tensors((one, adapter, {}), (one, name, {}), replace=False)
    assert os.listdir(tmp_path) == [name.name] and name.read_bytes() == b"theirs"
    free = files.first_free(files.numbered(tmp_path / "my-cat"), partial(write_concept, CONCEPT))
    assert free.name == "my-cat-1.safetensors" and read_concept(free) and name.read_bytes() == b"theirs"


def test_two_servers_that_train_the_same_at_once_learn_the_same(tmp_path: Path):
    """The second begins, ends and clears up while the first is in its middle."""
    alone = run(training(), tmp_path / "alone").parameters
    seconds = []

    def meanwhile(_: object) -> None:
        if not seconds:
            second = training()
            seconds.append(run(second, tmp_path / "runs").parameters)
            second.forget(tmp_path / "runs")

    first = training()
    end = first.run(tmp_path / "runs", lambda: False, meanwhile).parameters
    first.forget(tmp_path / "runs")
    assert seconds and not list((tmp_path / "runs").iterdir())
    for learnt in (end, seconds[0]):
        assert all(torch.equal(learnt[key], value) for key, value in alone.items())


def test_a_clock_that_jumps_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run is stopped under one clock and resumed under another, with files from both in the future and the past."""
    undisturbed = run(training(), tmp_path / "alone").parameters
    clocks = iter([0.0, 4e9, 1e9, 3e9] * 100)
    monkeypatch.setattr(files.time, "time", lambda: next(clocks))
    folder = tmp_path / "runs"
    run(training(), folder, stop_after=8)
    (kept,) = folder.glob("*.pt")
    os.utime(kept, (4e9, 4e9))
    reports: list[object] = []
    end = run(training(), folder, reports=reports).parameters
    assert reports and all(torch.equal(end[key], value) for key, value in undisturbed.items())
