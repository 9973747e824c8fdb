"""Unfinished runs, listed and removed."""

from collections.abc import Sequence
from pathlib import Path

import folder_paths

from ..training.unfinished import remove_named, unfinished_runs


def runs_folder() -> Path:
    """Where runs are kept until what they learn is safe."""
    return Path(folder_paths.get_user_directory()) / "compositional_inversion" / "runs"


def runs(names: Sequence[str], every: bool) -> str:
    """Remove some runs or every one; with neither, list them.

    Raises:
        ValueError: see `remove_named`.
    """
    folder = runs_folder()
    found = unfinished_runs(folder)
    if names or every:
        removed = [run.name for run in found] if every else list(names)
        remove_named(folder, removed)
        return f"Removed: {', '.join(removed)}." if removed else "There are no unfinished runs."
    if not found:
        return f"There are no unfinished runs in {folder}."
    rows = [("name", "class word", "step", "age", "size"), *(run.row() for run in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
