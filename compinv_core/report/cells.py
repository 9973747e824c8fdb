"""Which part of a model decides what differs between two prompts: how far an image goes from the one to the other, cell by cell."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

DECIDING = 0.9  # of the way


@dataclass(frozen=True, eq=False)
class CellShares:
    """What was measured.

    Attributes:
        rows, columns: names of groups or blocks, and of stages; the last of each is all of them.
        shares: (R, S), means over the images of `share_of_way`.
        changes: (R, S), means of how much they change at all, in the same unit.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    shares: Tensor
    changes: Tensor

    def described(self) -> str:
        """As a table in plain text."""
        width = max(map(len, (*self.rows, "blocks")))
        pairs = [
            [f"{share:5.2f} ({change:4.2f})" for share, change in zip(*row, strict=True)]
            for row in zip(_numbers(self.shares), _numbers(self.changes), strict=True)
        ]
        wide = max(12, *map(len, self.columns))
        head = "  ".join(["blocks".ljust(width), *(name.rjust(wide) for name in self.columns)])
        lines = [
            "  ".join([row.ljust(width), *(one.rjust(wide) for one in own)])
            for row, own in zip(self.rows, pairs, strict=True)
        ]
        return "\n".join(
            [
                "How far the image goes from B to A when A is read in these cells alone: 0 not at all, 1 all the way.",
                "In brackets, how much it changes in any direction, in the same unit.",
                head,
                *lines,
            ]
        )


def _numbers(table: Tensor) -> list[list[float]]:
    return cast("list[list[float]]", table.tolist())


def share_of_way(found: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """How far images have gone from where they start to where they would end, (B,).

    The projection on the way between the two: 0 at the start, 1 at the end; what changes in another direction does not count.

    Args:
        found, start, end: (B, ...), of the same noise.
    """
    way, gone = (end - start).flatten(1), (found - start).flatten(1)
    return (way * gone).sum(dim=1) / way.square().sum(dim=1).clamp_min(1e-12)


def change(found: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """How much images differ from where they start, (B,), in units of the distance to where they would end."""
    gone, way = ((other - start).flatten(1).square().sum(dim=1).sqrt() for other in (found, end))
    return gone / way.clamp_min(1e-6)


def cell_shares(
    rows: Sequence[str], columns: Sequence[str], latents: dict[tuple[int, int], Tensor], start: Tensor
) -> CellShares:
    """From the images of every cell.

    Args:
        latents: (row, column) -> (B, C, h, w); the last row and column is the prompt read everywhere.
        start: (B, C, h, w), it is read nowhere.
    """
    end = latents[len(rows) - 1, len(columns) - 1]
    shares, changes = torch.zeros(2, len(rows), len(columns))
    for (row, column), found in latents.items():
        shares[row, column] = share_of_way(found, start, end).mean()
        changes[row, column] = change(found, start, end).mean()
    return CellShares(rows, columns, shares, changes)


def deciding(found: CellShares, together: Callable[[Sequence[tuple[int, int]]], float]) -> list[tuple[int, int]]:
    """The fewest cells that bring images `DECIDING` of the way, of those that go farthest by themselves.

    What cells do together is no sum of what each does alone, and is measured.

    Args:
        together: the share of the way of some cells (row, column) that are read together; asked for at most log2 of all cells.
    """
    stages = max(1, len(found.columns) - 1)  # the last is all of them, where there are several
    shares = found.shares[:-1, :stages]
    order = [divmod(i, stages) for i in cast("list[int]", shares.flatten().argsort(descending=True).tolist())]
    count = 1 + bisect_left(range(1, len(order)), True, key=lambda few: together(order[:few]) >= DECIDING)
    return order[:count]
