"""How far an image goes from one prompt's to another's."""

from collections.abc import Sequence

import pytest
import torch
from compositional_inversion.compinv_core.report.cells import CellShares, cell_shares, change, deciding, share_of_way

START, END = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])


def test_the_share_of_the_way_is_0_at_the_start_and_1_at_the_end():
    assert share_of_way(START, START, END) == 0 and share_of_way(END, START, END) == 1
    assert share_of_way(END / 2, START, END) == 0.5


def test_what_changes_in_another_direction_is_a_change_and_no_part_of_the_way():
    aside = torch.tensor([[0.0, 2.0]])
    assert share_of_way(aside, START, END) == 0 and change(aside, START, END) == 1


def test_every_cell_is_measured_against_the_last():
    latents = {(0, 0): START, (0, 1): END / 2, (1, 0): END / 4, (1, 1): END}
    found = cell_shares(["fine", "all"], ["1000-500", "all"], latents, START)
    assert found.shares.tolist() == [[0, 0.5], [0.25, 1]] and torch.equal(found.shares, found.changes)
    assert found.described().splitlines()[3].split() == ["fine", "0.00", "(0.00)", "0.50", "(0.50)"]


@pytest.mark.parametrize(
    ("worth", "wanted"),
    [
        ({(1, 0): 1.0}, [(1, 0)]),
        ({(1, 0): 0.5, (1, 1): 0.45}, [(1, 0), (1, 1)]),
        ({(0, 1): 0.3, (1, 0): 0.4, (1, 1): 0.35}, [(1, 0), (1, 1), (0, 1)]),
        ({}, [(0, 0), (0, 1), (1, 0), (1, 1)]),
    ],
)
def test_the_fewest_cells_that_decide_together_are_found_with_few_samplings(
    worth: dict[tuple[int, int], float], wanted: list[tuple[int, int]]
):
    shares = torch.ones(3, 3)
    shares[:2, :2] = torch.tensor([[worth.get((row, column), 0.0) for column in range(2)] for row in range(2)])
    asked: list[int] = []

    def together(cells: Sequence[tuple[int, int]]) -> float:
        asked.append(len(cells))
        return sum(worth.get(cell, 0.0) for cell in cells)

    found = deciding(CellShares(["coarse", "fine", "all"], ["1", "2", "all"], shares, shares), together)
    assert sorted(found) == sorted(wanted) and found[: len(worth)] == wanted[: len(worth)]
    assert len(asked) <= 2


def test_without_stages_groups_are_found():
    shares = torch.tensor([[0.2], [0.85], [1.0]])
    found = deciding(CellShares(["coarse", "fine", "all"], ["1000-0"], shares, shares), lambda cells: 0.5 * len(cells))
    assert found == [(1, 0), (0, 0)]
