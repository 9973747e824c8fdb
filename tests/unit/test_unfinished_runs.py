"""What cancelled and killed runs leave in their folder: listed, removed when asked, and gone when it is nobody's."""

import os
import time
from pathlib import Path

import pytest
from compositional_inversion.compinv_core.training.unfinished import (
    DAY,
    NOBODYS,
    remove_named,
    remove_nobodys,
    unfinished_runs,
)
from fake_training import run, training


def cancelled(folder: Path, **changes: object) -> str:
    """A run that was cancelled after ten of its thirteen steps; its name."""
    one = training(**changes)
    run(one, folder, stop_after=10)
    return one.name


def aged(folder: Path, name: str, days: float) -> None:
    for file in folder.glob(f"{name}.*"):
        os.utime(file, (time.time() - days * DAY,) * 2)


def test_each_is_told_with_its_class_word_and_how_far_it_came(tmp_path: Path):
    name = cancelled(tmp_path)
    (tmp_path / "other-1.damaged").write_bytes(b"half a file")
    aged(tmp_path, name, 5.2)
    aged(tmp_path, "other-1", 0.5)
    (first, second) = unfinished_runs(tmp_path)
    size = (tmp_path / f"{name}.pt").stat().st_size
    assert first.row() == (name, "cat", "10 of 13", "5 days", f"{size / 2**20:.1f} MB")
    assert second.row()[:4] == ("other-1", "", "nothing to resume", "12 hours")


def test_a_run_removes_what_is_nobodys_and_leaves_the_rest(tmp_path: Path):
    """Those that ended well, and those that nobody has gone on with; its own is gone on with, however old."""
    runs, finished = tmp_path / "runs", tmp_path / "finished"
    names = {what: cancelled(runs, name=what) for what in ("old", "young", "ended", "own")}
    finished.mkdir()
    (finished / f"{names['ended']}.pt").touch()
    (runs / "old-2.material").touch()
    left = runs / ".old-3.pt.99999999.new"
    left.touch()
    os.utime(left, (0, 0))
    for name in (names["old"], names["own"], "old-2"):
        aged(runs, name, NOBODYS + 1)
    aged(runs, names["young"], NOBODYS - 1)
    remove_nobodys(runs, finished, but=names["own"])
    assert {one.name for one in unfinished_runs(runs)} == {names["young"], names["own"]}
    if left.exists():  # its own time is that of the last change, which no test can set back
        left.unlink()
    again = training(name="own")
    reports: list[object] = []
    again.run(runs, lambda: False, reports.append, finished=finished)
    assert len(reports) == 1  # of the three steps that were left
    again.forget(runs)
    assert [file.stem for file in runs.iterdir()] == [names["young"]]


def test_those_that_are_named_are_removed_or_none(tmp_path: Path):
    one, two = (cancelled(tmp_path, name=name) for name in ("one", "two"))
    with pytest.raises(ValueError, match=f'There is no unfinished run "three"; there are {one}, {two}'):
        remove_named(tmp_path, [one, "three"])
    remove_named(tmp_path, [one])
    assert [run.name for run in unfinished_runs(tmp_path)] == [two]
