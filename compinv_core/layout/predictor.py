"""Spatial inversion in milliseconds: a small network from the encoded prompt to each subject's box, and its file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from ..files import whole_file
from ..sentences import quoted
from ..tensor_files import dense, read_tensors
from .regions import Box, Layout, Region, default_layout

FORMAT = "compositional inversion, layout predictor 1"
HIDDEN = 64  # as in the reference implementation
DROPOUT = 0.3  # of what each layer reads, while it learns: places are noisy and words few
STEPS, LEARNING_RATE, DECAY = 300, 1e-3, 0.1
MOST = 2**53  # of what is counted
HOLD_OUT_EVERY = 5  # one in so many sets of words is not learnt from


@dataclass(frozen=True)
class Example:
    """A layout that was read from attention.

    Attributes:
        words: its S subjects, in the order of the prompt.
        rows: (S, E), the mean of each subject's tokens in the encoded prompt.
        boxes: (S, 4), left, top, right, bottom.
    """

    words: tuple[str, ...]
    rows: Tensor
    boxes: Tensor


class BoxPredictor(nn.Module):
    """The MLP of Zhang et al. (2024), spatial inversion, but shared over subjects, so that it serves any number of them.

    It cuts the canvas from left to right into a slot for each subject and puts a box into each slot, by numbers that went
    through sigmoids: whatever comes in, boxes are valid and none overlaps another.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.word = nn.Linear(width, HIDDEN)
        self.mixed = nn.Linear(2 * HIDDEN + 2, HIDDEN)
        self.numbers = nn.Linear(HIDDEN, 5)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, rows: Tensor) -> Tensor:
        """Subjects (B, S, E) in the prompt's order -> boxes (B, S, 4), left, top, right, bottom."""
        batch, count, _ = rows.shape
        own = self.drop(nn.functional.gelu(self.word(self.drop((rows - self.mean) / self.scale))))
        others = (own.sum(dim=1, keepdim=True) - own) / max(1, count - 1)
        place = (torch.arange(count, device=rows.device) + 0.5) / count
        where = torch.stack([place, torch.full_like(place, 1 / count)], dim=-1).expand(batch, -1, -1)
        mixed = self.drop(nn.functional.gelu(self.mixed(torch.cat([own, others, where], dim=-1))))
        share, wide, along, tall, down = self.numbers(mixed).sigmoid().unbind(dim=-1)
        slot = (0.5 + share) / (0.5 + share).sum(dim=1, keepdim=True)
        width, height = slot * (0.3 + 0.7 * wide), 0.15 + 0.85 * tall
        left = slot.cumsum(dim=1) - slot + (slot - width) * along
        top = (1 - height) * down
        return torch.stack([left, top, left + width, top + height], dim=-1).clamp(0, 1)


@dataclass(frozen=True)
class Provenance:
    """What a predictor was made of, and what it is worth.

    Attributes:
        model: the fingerprint of the base model whose layouts it predicts.
        recoveries: how many layouts it learnt from.
        held_out: of how many more the next two numbers are means.
        iou: how well its boxes meet the held-out layouts', 0..1; `default_iou` is how well the default boxes do.
    """

    model: str
    recoveries: int
    held_out: int
    iou: float
    default_iou: float

    def __post_init__(self) -> None:
        counts, shares = (self.recoveries, self.held_out), (self.iou, self.default_iou)
        known = all(type(count) is int and 0 <= count < MOST for count in counts)
        known = known and all(type(share) in (int, float) and 0 <= share <= 1 for share in shares)
        if not known or not isinstance(cast(object, self.model), str):
            raise TypeError("The provenance of a layout predictor needs the name of a model and numbers.")

    def describe(self) -> str:
        """What it is worth, in a line."""
        verdict = "" if self.iou > self.default_iou else "; that is no better: train with more prompts"
        return (
            f"Trained on {self.recoveries} layouts. On {self.held_out} held-out ones its mean IoU is {self.iou:.0%}, that of "
            f"the default boxes {self.default_iou:.0%}{verdict}."
        )


@dataclass(frozen=True, eq=False)
class LayoutPredictor:
    network: BoxPredictor
    provenance: Provenance

    def layout(self, phrases: Sequence[str], rows: Tensor, places: Sequence[Any]) -> Layout:
        """A box for each subject.

        Args:
            phrases: S subjects, in any order.
            rows: (S, E), the mean of each one's tokens in the encoded prompt.
            places: where each stands in the prompt: anything that sorts.

        Raises:
            ValueError: weights that give no numbers.
        """
        order = sorted(range(len(phrases)), key=lambda i: places[i])
        with torch.no_grad():
            predicted = self.network(rows[order][None].float())[0]
        if not predicted.isfinite().all():
            raise ValueError(
                "The layout predictor gives no boxes, for numbers in its file are too large; train it again with Train Layout Predictor."
            )
        boxes = dict(zip(order, cast("list[list[float]]", predicted.tolist()), strict=True))
        sure = self.provenance.iou
        return Layout(tuple(Region(p, Box(*boxes[i]), None, sure) for i, p in enumerate(phrases)), "predicted")


def learn(examples: Sequence[Example], model: str) -> LayoutPredictor:
    """Learn the places of subjects from layouts that were read from attention.

    Raises:
        ValueError: too few examples.
    """
    sets = list(dict.fromkeys(frozenset(example.words) for example in examples))
    unseen = set(sets[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY])
    if not unseen:
        raise ValueError(
            f"Only {len(sets)} different sets of words could be read from the model's attention, {HOLD_OUT_EVERY} are needed; "
            "ask for more prompts."
        )
    held_out = [example for example in examples if frozenset(example.words) in unseen]
    used = [example for example in examples if frozenset(example.words) not in unseen]
    network = _fitted(used)
    with torch.no_grad():
        ious = [_iou(network(e.rows[None])[0], in_order(e.boxes)).mean().item() for e in held_out]
    defaults = [_iou(_default(len(e.words)), in_order(e.boxes)).mean().item() for e in held_out]
    iou, default_iou = (sum(values) / len(held_out) for values in (ious, defaults))
    return LayoutPredictor(network, Provenance(model, len(used), len(held_out), iou=iou, default_iou=default_iou))


def _fitted(examples: Sequence[Example]) -> BoxPredictor:
    """The same for the same examples: all of them in every step, of AdamW, and randomness of its own.

    What rises is the mean overlap of boxes (intersection over union), not the nearness of edges: things stand elsewhere for
    every seed, and the mean of two places is where nothing stands.
    """
    ordered = sorted(examples, key=lambda e: len(e.words))
    groups = [list(group) for _, group in groupby(ordered, key=lambda e: len(e.words))]
    batches = [
        (torch.stack([e.rows for e in group]), torch.stack([in_order(e.boxes) for e in group])) for group in groups
    ]
    rows = torch.cat([e.rows for e in examples])
    spread = rows.std(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = BoxPredictor(rows.shape[1])
        network.mean.copy_(rows.mean(dim=0))
        network.scale.copy_(spread.clamp_min(0.1 * spread.mean()))  # some numbers of an encoder hardly change
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            losses = torch.stack([(1 - _iou(network(own), boxes)).sum() for own, boxes in batches])
            optimizer.zero_grad()
            (losses.sum() / len(rows)).backward()
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def in_order(boxes: Tensor) -> Tensor:
    """Boxes (S, 4) of subjects in the prompt's order, with the places from left to right handed out in that order.

    Which of two things stands on the left is the seed's choice, for a mirrored image is as natural. How large a thing is,
    how high it stands and how far apart they are is not, so a box keeps its size and height: boxes that run against the
    order are mirrored, and then each subject's centre is moved to the place that its turn gives it.
    """
    turns = torch.arange(len(boxes)) - (len(boxes) - 1) / 2
    left, top, right, bottom = boxes.unbind(dim=-1)
    if (turns * (left + right)).sum() < 0:
        left, right = 1 - right, 1 - left
    centres = (left + right) / 2
    moved = centres.sort().values - centres
    return torch.stack([left + moved, top, right + moved, bottom], dim=-1).clamp(0, 1)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Of boxes (..., 4): the area that two share, as a fraction of what they cover together."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (a, b)]
    return shared / (areas[0] + areas[1] - shared)


def _default(count: int) -> Tensor:
    boxes = [region.box for region in default_layout([str(i) for i in range(count)]).regions]
    return torch.tensor([[box.left, box.top, box.right, box.bottom] for box in boxes])


def write_predictor(predictor: LayoutPredictor, path: Path) -> None:
    """Write a `.safetensors` file, whole or not at all."""
    metadata = {FORMAT: json.dumps(asdict(predictor.provenance))}
    with whole_file(path) as new:
        save_file({name: value.contiguous() for name, value in predictor.network.state_dict().items()}, new, metadata)


def read_predictor(path: Path, model: str) -> LayoutPredictor:
    """Raises ValueError when the file is damaged, no layout predictor of ours, or another model's than `model`."""
    try:
        state, metadata = read_tensors(path)
    except ValueError as error:
        raise ValueError(
            f"The layout predictor {error} Remove it from {quoted(str(path.parent), 60)}, or train it anew."
        ) from error
    try:
        provenance = Provenance(**json.loads(metadata[FORMAT]))
        numbers = {name: value for name, own in state.items() if (value := dense(own)) is not None}
        if not all(value.isfinite().all() for value in numbers.values()):
            raise ValueError("numbers that are not finite")
        network = BoxPredictor(len(numbers["mean"]))
        network.load_state_dict(numbers)
    except (KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise ValueError(
            f'"{quoted(str(path), 150)}" is no layout predictor of this version of Compositional Inversion; remove it or train it anew.'
        ) from error
    if provenance.model != model:
        raise ValueError(
            f'The layout predictor "{quoted(str(path))}" was trained on another base model ({quoted(provenance.model, 20)}; this one is {model}); '
            "remove it or train one for this model."
        )
    return LayoutPredictor(network.eval().requires_grad_(False), provenance)
