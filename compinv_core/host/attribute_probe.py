"""Which blocks and stages of a MODEL decide what differs between two prompts, by sampling it."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ..reading.by_cell import ByCell
from ..reading.regional import Variant, Variants
from ..reading.table import ALL, TIMESTEPS, Clause, clauses_of
from ..report.cells import CellShares, cell_shares, deciding, share_of_way
from ..sampling.guidance import Guidance
from ..sampling.schedules import Balance, Steering
from ..sentences import quoted
from .attention import outline
from .contexts import BY_CELL
from .recovery import check_fit, without_layout
from .sampler import with_layout
from .text_encoder import check_embeddings, encode


def probe_cells(
    model: Any,
    clip: Any,
    a: str,
    b: str,
    latent: Tensor,
    *,
    cuts: Sequence[float],
    every_block: bool,
    seed: int,
    steps: int,
    cfg: float,
    on_step: Callable[..., None] | None = None,
) -> tuple[CellShares, tuple[Clause, ...]]:
    """A is read in one cell and B everywhere else; what changes of the images is measured.

    Then A is read in the cells that went farthest, together, to find how few of them decide.

    Args:
        latent: (B, C, h, w), an empty latent, of as many images as are sampled of each cell.
        cuts: timesteps of 1000, falling, at which the next stage begins.
        every_block: whether a row is a block; else it is a group of them.
        on_step: called at every step of each of at most `runs_of` runs.

    Returns:
        What was measured, and the cells that decide.

    Raises:
        ValueError: two prompts that the text encoder reads alike, or a model that cannot be read.
    """
    unet = outline(model)
    groups = {str(group): places for group, places in unet.places_by_group.items()}
    rows = {name: [name] for name in unet.place_names} if every_block else groups
    rows = {**rows, ALL: unet.place_names}
    ends = [float(TIMESTEPS), *cuts, 0.0]
    columns = [f"{start:g}-{end:g}" for start, end in pairwise(ends)]
    stages = [[stage] for stage in range(1, len(columns) + 1)]
    if len(stages) > 1:
        columns, stages = [*columns, ALL], [*stages, [stage for own in stages for stage in own]]
    conditionings: list[list[Any]] = []
    for text in (b, a):
        check_embeddings(clip, text)
        conditionings.append(encode(clip, text))
    check_fit(model, conditionings[0])
    if torch.equal(conditionings[0][0][0], conditionings[1][0][0]):
        raise ValueError(
            f'The prompts A and B, "{quoted(a, 60)}" and "{quoted(b, 60)}", mean the same to the text encoder; let them differ in one attribute.'
        )
    ((start, rest), *_), ((end, _), *_) = conditionings
    prompts = [Variants(Variant(own, ()), Variant(own, ()), {}) for own in (start, end)]
    reading = with_layout(without_layout(model), None, Steering(0), Guidance(0), balance=Balance(0))
    negative, latent = encode(clip, ""), comfy.sample.fix_empty_latent_channels(model, latent)
    noise = comfy.sample.prepare_noise(latent, seed)

    def sampled(cells: Sequence[tuple[str, int]]) -> Tensor:
        by_cell = ByCell(tuple(cuts), prompts, dict.fromkeys(cells, 1), unet.place_names, [b, a])
        return comfy.sample.sample(
            reading, noise, steps, cfg, "euler", "normal", [[start, {**rest, BY_CELL: by_cell}]], negative, latent,
            disable_pbar=True, callback=on_step, seed=seed,
        ).float().cpu()  # fmt: skip

    def places_in(row: int, column: int) -> list[tuple[str, int]]:
        return [(place, stage) for place in list(rows.values())[row] for stage in stages[column]]

    latents = {
        (row, column): sampled(places_in(row, column)) for row in range(len(rows)) for column in range(len(columns))
    }
    begin, finish = sampled([]), latents[len(rows) - 1, len(columns) - 1]
    found = cell_shares(list(rows), columns, latents, begin)

    def together(cells: Sequence[tuple[int, int]]) -> float:
        own = [place for cell in cells for place in places_in(*cell)]
        return share_of_way(sampled(own), begin, finish).mean().item()

    cells = deciding(found, together)
    return found, clauses_of([(found.rows[row], column + 1) for row, column in cells], found.rows[:-1], len(ends) - 1)


def runs_of(model: Any, cuts: Sequence[float], every_block: bool) -> int:
    """How often `probe_cells` samples, at most."""
    unet = outline(model)
    rows = len(unet.place_names if every_block else unet.places_by_group)
    return (rows + 1) * (len(cuts) + 1 + bool(cuts)) + 1 + math.ceil(math.log2(rows * (len(cuts) + 1)))
