"""Reading by cell: a block reads the prompt of its cell, and within that a region its own context."""

from collections.abc import Sequence

import pytest
import torch
from compositional_inversion.compinv_core.attention.maps import attention_probabilities
from compositional_inversion.compinv_core.reading.by_cell import ByCell, cell_contexts
from compositional_inversion.compinv_core.reading.regional import WHOLE_PROMPT, Regional, Variant, Variants
from compositional_inversion.compinv_core.reading.rules import HIDDEN, Look, Reading
from torch import Tensor

WIDTH, SIDE = 4, 4
CUTS = (500.0,)


def variant(length: int, seed: int, columns: Sequence[Sequence[int]] = ((1,), (2,))) -> Variant:
    return Variant(torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(seed)), columns)


def plain(length: int, seed: int) -> Variants:
    one = variant(length, seed)
    return Variants(one, one, {})


def regional(seed: int) -> Variants:
    """Two subjects, whose concepts are each learnt in a context of its own."""
    return Variants(variant(5, seed), variant(4, seed + 1), {0: variant(5, seed + 2), 1: variant(6, seed + 3)})


def halves(height: int, width: int) -> Tensor:
    left = torch.zeros(height, width)
    left[:, : width // 2] = 1
    return torch.stack([left, 1 - left])


def look(keys: Tensor, place: str = "output 2", noise: float = 0.9) -> Look:
    q = torch.randn(1, SIDE * SIDE, WIDTH, generator=torch.Generator().manual_seed(9))
    return Look(q, keys, 1, SIDE, SIDE, place=place, noise=noise)


def by_cell(*prompts: Variants, **of_cells: int) -> ByCell:
    """Cells as output_2_1="..." for the first stage of output 2."""
    named = {tuple(key.rsplit("_", 1)): index for key, index in of_cells.items()}
    cells = {(place.replace("_", " "), int(stage)): index for (place, stage), index in named.items()}
    texts = [f"prompt {i}" for i in range(len(prompts))]
    return ByCell(CUTS, prompts, cells, ("output 1", "output 2"), texts)


def test_a_cell_reads_its_own_prompt_and_nothing_else():
    first, second = plain(5, 0), plain(3, 1)
    read = cell_contexts(by_cell(first, second, output_2_1=1), WHOLE_PROMPT, [])
    contexts = read.contexts([0, 1])
    assert contexts.length == 8 and contexts.columns == [[1, 6], [2, 7]]
    reading = Reading(contexts, read.rules(contexts, halves))
    assert reading.is_window
    for place, noise, hidden in (
        ("output 2", 0.9, slice(0, 5)),
        ("output 2", 0.4, slice(5, 8)),
        ("output 1", 0.9, slice(5, 8)),
    ):
        at = look(read.encoded, place, noise)
        bias, window = reading.bias(at), reading.window(at)
        assert bias is not None and bias[..., hidden].eq(HIDDEN).all() and window is not None
        assert bias[..., window].eq(0).all() and window.stop - window.start == 8 - (hidden.stop - hidden.start)
        own = (second if hidden.start == 0 else first).own.encoded
        found = attention_probabilities(at.q, at.k, 1, range(8), bias=bias)
        alone = attention_probabilities(at.q, own, 1, range(own.shape[1]))
        assert torch.allclose(found[:, :, window], alone, atol=1e-6) and found[:, :, hidden].eq(0).all()


def test_cells_of_the_table_and_of_regions_multiply():
    """In the cell of an attribute, a region reads its own context of the prompt with that attribute."""
    prompts = regional(0), regional(10)
    read = cell_contexts(by_cell(*prompts, output_2_1=1), Regional(), [0, 1])
    contexts = read.contexts([0, 1])
    assert contexts.lengths == [4, 5, 6, 4, 5, 6] and list(read.of_regions) == [1, 2]
    reading = Reading(contexts, read.rules(contexts, halves))
    assert not reading.is_window
    for place, prompt, first in (("output 2", prompts[1], 15), ("output 1", prompts[0], 0)):
        at = look(read.encoded, place)
        found = attention_probabilities(at.q, at.k, 1, range(30), bias=reading.bias(at))[0, 0].view(30, SIDE, SIDE)
        starts = first + 4, first + 9
        for own, start, columns in (
            (prompt.learnt[0], starts[0], slice(0, 2)),
            (prompt.learnt[1], starts[1], slice(2, 4)),
        ):
            length = own.encoded.shape[1]
            alone = attention_probabilities(at.q, own.encoded, 1, range(length))[0, 0].view(length, SIDE, SIDE)
            assert torch.allclose(found[start : start + length, :, columns], alone[..., columns], atol=1e-6)
            others = [i for i in range(30) if not start <= i < start + length]
            assert found[others][..., columns].eq(0).all()


def test_what_a_run_does_not_meet_is_not_read():
    asked = by_cell(plain(5, 0), plain(5, 1), plain(5, 2), output_2_1=1, output_1_2=2)
    assert asked.during(0.9, 0.0) is not None and asked.during(0.9, 0.6) is not None
    late = asked.during(0.4, 0.1)
    assert (
        late is not None
        and late.prompts == [asked.prompts[0], asked.prompts[2]]
        and late.of_cells == {("output 1", 2): 1}
    )
    assert by_cell(plain(5, 0), plain(5, 1), output_2_1=1).during(0.4, 0.0) is None
    assert by_cell(plain(5, 0)).during(0.9, 0.1) is None


def test_who_reads_what_is_told_in_words():
    asked = by_cell(plain(5, 0), plain(5, 1), output_2_1=1)
    assert asked.described().splitlines() == [
        "stage 1, timesteps 1000 to 500:",
        '  output 1: "prompt 0"',
        '  output 2: "prompt 1"',
        "stage 2, timesteps 500 to 0:",
        '  all blocks: "prompt 0"',
    ]


@pytest.mark.parametrize("placed", [[], [0]])
def test_prompts_keep_their_columns_apart(placed: list[int]):
    read = cell_contexts(by_cell(regional(0), regional(10), output_2_1=1), Regional(), placed)
    contexts = read.contexts([0, 1])
    assert contexts.length == read.encoded.shape[1]
    assert all(len(own) == len(contexts.parts) for own in contexts.columns)
