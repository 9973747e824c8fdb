"""Runs that were cancelled or killed, as they lie in their folder: what each is, and which of them are nobody's any more."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..files import clear_left_behind, remove
from ..sentences import quoted
from ..tensor_files import read_about

NOBODYS = 30  # days without a change, after which a run is nobody's; the word of one that was cancelled is in output/embeddings
DAY = 86_400.0
ENDINGS = (STATE, MATERIAL, ASIDE) = (".pt", ".material", ".damaged")


@dataclass(frozen=True)
class Unfinished:
    """Attributes:
    name: the run's.
    files: its state, what took long to make for it, a state that could not be read; any of them.
    """

    name: str
    files: tuple[Path, ...]

    @property
    def age(self) -> float:
        """Days since one of its files was written."""
        return max(0.0, time.time() - max(file.stat().st_mtime for file in self.files)) / DAY

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.stat().st_size for file in self.files)

    def row(self) -> tuple[str, str, str, str, str]:
        """Its name, class word, step of steps, age and size."""
        states = [file for file in self.files if file.suffix == STATE]
        about = read_about(states[0]) if states else {}
        steps = f"{about['step']} of {about['steps']}" if about else "nothing to resume"
        age = f"{self.age:.0f} days" if self.age >= 2 else f"{24 * self.age:.0f} hours"
        return self.name, quoted(str(about.get("class word", "")), 40), steps, age, f"{self.size / 2**20:.1f} MB"

    def remove(self) -> None:
        for file in self.files:
            remove(file)


def unfinished_runs(folder: Path) -> list[Unfinished]:
    """Those in a folder, by name."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*")):
        if file.suffix in ENDINGS:
            found.setdefault(file.stem, []).append(file)
    return [Unfinished(name, tuple(files)) for name, files in found.items()]


def remove_nobodys(folder: Path, finished: Path | None, but: str) -> None:
    """Remove runs that ended well, or that nobody has gone on with for NOBODYS days.

    Args:
        finished: where runs that ended well are kept; a kill right after that leaves their state behind.
        but: the name of a run that is to be gone on with, however old.
    """
    clear_left_behind(folder)
    for run in unfinished_runs(folder):
        with suppress(OSError):  # another process may remove it, too
            ended = finished is not None and (finished / f"{run.name}{STATE}").exists()
            if run.name != but and (ended or run.age > NOBODYS):
                run.remove()


def remove_named(folder: Path, names: Sequence[str]) -> None:
    """Remove some runs.

    Raises:
        ValueError: a name that is none of theirs; none is removed.
    """
    runs = {run.name: run for run in unfinished_runs(folder)}
    for name in names:
        if name not in runs:
            raise ValueError(
                f'There is no unfinished run "{quoted(name)}"; there are {quoted(", ".join(runs), 150) or "none"}.'
            )
    for name in names:
        runs[name].remove()
