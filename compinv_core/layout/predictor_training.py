"""How a layout predictor is trained: the layouts of generated prompts are recovered, stored, and learnt from."""

import json
import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..anchors import COCO_CATEGORIES
from ..files import whole_file
from ..prompts.templates import prompts_about
from ..sentences import quoted
from .predictor import Example, LayoutPredictor, learn
from .regions import Box, Layout

MAX_RECOVERIES = 2**24  # bytes; those of ten thousand prompts take a tenth of it
log = logging.getLogger(__name__)
LIMITS = {
    "prompts": {"min": 20, "max": 100_000},
    "resolution": {"min": 64, "max": 2048},
    "steps": {"min": 2, "max": 100},
    "cfg": {"min": 1.0, "max": 30.0},
    "seed": {"min": 0, "max": 0xFFFFFFFFFFFFFFFF},
}
"""Of what a user sets, the same on the node and on the command line; the resolution is a multiple of 64, too."""

MIN_WORDS = 3  # of which prompts are generated
Recovered = tuple[Layout, Tensor, Tensor | None]
"""A layout, the subjects' maps (S, h, w) that it is read from, and a preview (h, w, 3) of the image, where it has one."""

OnRecovery = Callable[[int, Layout, Tensor, Tensor | None], None]
"""(how many prompts are done, and of the last: what was recovered)."""


@dataclass(frozen=True)
class PredictorTraining:
    """What a predictor learns from; numbers keep to LIMITS.

    Attributes:
        prompts: how many of them are sampled.
        resolution: pixels a side.
        steps, cfg: of the sampling, as Spatial Layout Recover has them.
        seed: of the first; each takes the next one.
    """

    prompts: int = 300
    resolution: int = 512
    steps: int = 8
    cfg: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            if not limit["min"] <= getattr(self, name) <= limit["max"]:
                raise ValueError(f"{name} is {getattr(self, name)}; {limit['min']} to {limit['max']} is allowed.")
        if self.resolution % 64:
            raise ValueError(f"resolution is {self.resolution}; a multiple of 64 is needed.")


class LayoutSource(Protocol):
    """A loaded model, as far as a layout predictor's training has to know it."""

    @property
    def model(self) -> str:
        """A short name of the base model."""
        ...

    @property
    def words(self) -> Sequence[str]:
        """Names of things that all of its text encoders know."""
        ...

    def recover(self, text: str, subjects: Sequence[str], seed: int) -> Recovered:
        """Where the model puts the subjects of a prompt."""
        ...

    def rows(self, text: str, subjects: Sequence[str]) -> Tensor:
        """(S, E), the mean of each subject's tokens in the encoded prompt."""
        ...


def known_categories(vocabularies: Sequence[Container[str]]) -> tuple[str, ...]:
    """COCO categories of which every vocabulary knows every word.

    Raises:
        ValueError: there are too few to make prompts of.
    """
    words = tuple(c for c in COCO_CATEGORIES if all(word in known for known in vocabularies for word in c.split()))
    if len(words) < MIN_WORDS:
        raise ValueError(
            f'The input "clip" knows fewer than {MIN_WORDS} of the COCO categories as words; no prompts can be made for it.'
        )
    return words


def train_predictor(
    source: LayoutSource,
    request: PredictorTraining,
    file: Path,
    *,
    stop_if_asked: Callable[[], None],
    on_recovery: OnRecovery,
) -> LayoutPredictor:
    """Recover the layouts of generated prompts, and learn from them.

    Args:
        file: where every recovery is stored: what was interrupted goes on from there, and so does a wish for more.
        stop_if_asked: called before every recovery; what it raises ends the training there.

    Raises:
        ValueError: too few layouts could be read.
    """
    prompts = prompts_about(source.words, request.prompts, request.seed)
    found = read_recoveries(file, prompts)
    for number in range(len(found), request.prompts):
        stop_if_asked()
        layout, maps, preview = source.recover(*prompts[number], (request.seed + number) % 2**64)
        boxes = [[r.box.left, r.box.top, r.box.right, r.box.bottom] for r in layout.regions]
        found.append(boxes if layout.source == "attention" else None)
        try:
            with whole_file(file) as new:
                new.write_text(json.dumps(found))
        except OSError as error:  # a full disk must not end the training
            log.warning("The recovered layouts cannot be cached: %s", error)
        on_recovery(number + 1, layout, maps, preview)
    pairs = zip(prompts, found, strict=False)
    read = [(subjects, source.rows(text, subjects), boxes) for (text, subjects), boxes in pairs if boxes is not None]
    with torch.inference_mode(False), torch.enable_grad():
        examples = [Example(tuple(subjects), rows.clone(), torch.tensor(boxes)) for subjects, rows, boxes in read]
        return learn(examples, source.model)


def read_recoveries(file: Path, prompts: Sequence[tuple[str, Sequence[str]]]) -> list[list[list[float]] | None]:
    """The recoveries of a training that was interrupted, None for those that could not be read; of as many prompts or fewer, or more."""
    if not file.exists():
        return []
    try:
        if (size := file.stat().st_size) > MAX_RECOVERIES:
            raise ValueError(f"it has {size} bytes")
        read: Any = json.loads(file.read_text())
        found = [boxes if boxes is None else [[float(edge) for edge in edges] for edges in boxes] for boxes in read]
        for (_, subjects), boxes in zip(prompts, found, strict=False):
            if boxes is not None and len([Box(*edges) for edges in boxes]) != len(subjects):
                raise ValueError(f"{len(boxes)} boxes for {len(subjects)} subjects")
        return found
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        log.warning("The layouts cached in %s cannot be read and are recovered anew: %s.", file, quoted(str(error)))
        return []
