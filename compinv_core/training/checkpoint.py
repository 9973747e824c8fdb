"""A run's state: what a report says of it, and unfinished runs on disk, whole or not at all."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import whole_file
from ..sentences import quoted
from ..tensor_files import read_sealed, write_sealed
from .unfinished import ASIDE

SESSION = time.time()  # when this one began
FINISHED = 30  # runs that ended well are kept
MAX_FINISHED = 2**21  # bytes that such a run has learnt; with the optimiser's state its file is four times as large
log = logging.getLogger(__name__)
WORK_PER_SAVE = (
    20  # times as long as the last save took is worked before the next; a step of the whole UNet saves gigabytes
)
QUICK = 0.2  # seconds that no one minds at each report

Parameters = dict[str, Tensor]
"""All that a run learns, by name: float32, leaves of autograd while it runs."""


@dataclass(frozen=True)
class Losses:
    """Of a report.

    Attributes:
        reconstruction, anchor, prior: means over the steps since the last report.
        objective: the same of what is minimised of the images: the reconstruction loss, or what DCO makes of it.
        evaluation: at some reports, the reconstruction loss on images, noise and timesteps that are the same each time, so that a
            small difference between two of them means something; else None.
    """

    step: int
    reconstruction: float
    anchor: float
    evaluation: float | None
    prior: float = 0.0
    objective: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after `step` steps as if it had never stopped.

    Attributes:
        parameters: on the CPU.
        best: of the evaluation with the lowest loss so far, the start's among them: those parameters that the way remembers.
        best_loss: that loss.
        initial_loss: the reconstruction loss of the start's evaluation: what the class word alone explains of the images.
        optimizer: AdamW's state dict; a step on the sphere keeps nothing.
        random: state of the generator that images, prompts, timesteps and noise are drawn from.
        micro_batch: sums in other parts would round otherwise.
        history: of every report so far.
        loss_scale: of the next step; see `Task.loss_scale`.
    """

    step: int
    parameters: Parameters
    best: Parameters
    best_loss: float
    initial_loss: float
    optimizer: dict[str, Any]
    random: Tensor
    micro_batch: int
    history: tuple[Losses, ...]
    loss_scale: float


@dataclass(frozen=True)
class Progress(Losses):
    """A report. The optimizer's state is a live one."""

    checkpoint: Checkpoint = field(kw_only=True)


def fingerprint(settings: object, tensors: Iterable[Tensor]) -> str:
    """A name for what a run learns from and how: equal for equal settings (by their repr) and equal bytes."""
    digest = hashlib.sha256(repr(settings).encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass
class RunFile:
    """Where a run is kept until what it learns is safe.

    Attributes:
        path: of the file, which has the run's name.
        probe: what the frozen model says to a fixed question, by which it is known again.
        class_words, steps: what is told of the run in a list.
    """

    path: Path
    probe: Tensor
    class_words: str = ""
    steps: int = 0
    _took: float = 0.0
    _saved: float = 0.0
    _step: int = -1

    def save(self, checkpoint: Checkpoint, at_once: bool = False) -> None:
        """Write a checkpoint, so that after a crash at any moment the file is the old one or the new one.

        One that would take long compared with the work since the last is left out, unless it is wanted `at_once`.
        """
        begun = time.monotonic()
        if checkpoint.step == self._step or (not at_once and begun - self._saved < WORK_PER_SAVE * self._took):
            return
        with whole_file(self.path) as new:
            history = [astuple(losses) for losses in checkpoint.history]
            known = {"probe": self.probe.detach().cpu(), "run": self.path.stem}
            about = {"class word": self.class_words, "step": checkpoint.step, "steps": self.steps}
            write_sealed({**vars(checkpoint), "history": history, **known}, new, about)
        self._saved, self._step = time.monotonic(), checkpoint.step
        self._took = took if (took := self._saved - begun) > QUICK else 0.0

    def load(self) -> Checkpoint | None:
        """The checkpoint of a run that stopped; None where there is none, or it was another model's.

        One that is damaged, of another version, of another run or not ours at all is put aside, for whoever wants to look at it.
        """
        if not self.path.exists():
            return None
        try:
            state = read_sealed(self.path)
            known, run = state.pop("probe"), state.pop("run")
            if run != self.path.stem:
                raise ValueError(f"it is of the run {quoted(str(run))}")
            state["history"] = tuple(Losses(*losses) for losses in state["history"])
            checkpoint = Checkpoint(**state)
            if _same_model(known, self.probe):
                return checkpoint
        except Exception as error:  # whatever a damaged file, or one of another version, makes torch and us raise
            aside = self.path.with_suffix(ASIDE)
            with suppress(OSError):
                self.path.replace(aside)
            why = quoted(str(error), 120)
            log.warning("The unfinished run in %s cannot be read (%s): training starts anew.", aside, why)
            return None
        log.warning("The unfinished run in %s is of a model with other weights: training starts anew.", self.path)
        return None


@dataclass(frozen=True)
class Finished:
    """The last small runs that ended well: in a later session the same run is answered with its result, for a host forgets its own.

    Attributes:
        file: of one of them; the others lie beside it.
    """

    file: RunFile

    def load(self) -> Checkpoint | None:
        """The end of this run in an earlier session; this one's is the host's to remember."""
        try:
            return self.file.load() if self.file.path.stat().st_mtime < SESSION else None
        except FileNotFoundError:  # never there, or another server has just removed it
            return None

    def save(self, end: Checkpoint) -> None:
        """A file of megabytes is not kept: it is an adapter's, which its user saves."""
        if sum(value.nbytes for value in end.parameters.values()) > MAX_FINISHED:
            return
        self.file.save(end, at_once=True)
        others = sorted(self.file.path.parent.glob("*.pt"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in others[FINISHED:]:
            old.unlink(missing_ok=True)


def kept(path: Path, probe: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """A tensor that takes long to make: that in the file, where it is of the same model, else one that is made now and kept there.

    Args:
        probe: see `RunFile`.
    """
    try:
        state = read_sealed(path)
        if _same_model(state["probe"], probe):
            return state["made"]
    except FileNotFoundError:
        pass
    except Exception as error:  # see `RunFile.load`
        log.warning("%s cannot be read (%s) and is made anew.", path, quoted(str(error), 120))
    made = make()
    try:
        with whole_file(path) as new:
            write_sealed({"probe": probe.cpu(), "made": made.cpu()}, new, {})
    except OSError as error:  # a full disk must not end the run
        log.warning("The cache cannot be written: %s", error)
    return made


def _same_model(known: Tensor, probe: Tensor) -> bool:
    """The same model on the same machine says the same but for the order of its sums; another says something else."""
    return known.shape == probe.shape and torch.allclose(known, probe.cpu(), rtol=1e-2, atol=1e-2)
