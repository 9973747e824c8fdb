"""Unfinished runs on disk: whole or not at all, and found again by what they learn from."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..files import whole_file
from .loop import Checkpoint, Losses

log = logging.getLogger(__name__)


def fingerprint(settings: object, tensors: Iterable[Tensor]) -> str:
    """A name for what a run learns from and how: equal for equal settings (by their repr) and equal bytes."""
    digest = hashlib.sha256(repr(settings).encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_run(checkpoint: Checkpoint, probe: Tensor, path: Path) -> None:
    """Write a checkpoint so that after a crash at any moment the file is the old one or the new one.

    `probe` is what the frozen model says to a fixed question, by which `load_run` knows it again.
    """
    with whole_file(path) as new:
        history = [astuple(losses) for losses in checkpoint.history]
        torch.save({**vars(checkpoint), "history": history, "probe": probe.detach().cpu()}, new)


def load_run(path: Path, probe: Tensor) -> Checkpoint | None:
    """The checkpoint of a run that stopped; None where there is none, it cannot be read, or it was another model's."""
    if not path.exists():
        return None
    try:
        state = cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))
        known: Tensor = state.pop("probe")
        state["history"] = tuple(Losses(*losses) for losses in state["history"])
        checkpoint = Checkpoint(**state)
    except Exception as error:  # whatever a damaged file, or one of another version, makes torch and us raise
        log.warning("The unfinished run in %s cannot be read, so training begins anew: %s.", path, error)
        return None
    # The same model on the same machine says the same but for the order of its sums; another says something else.
    if known.shape != probe.shape or not torch.allclose(known, probe.cpu(), rtol=1e-2, atol=1e-2):
        return None
    return checkpoint
