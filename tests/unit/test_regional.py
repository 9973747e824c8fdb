"""Regional reading: which contexts a prompt is read in, and how much of each cell belongs to which."""

import pytest
import torch
from compositional_inversion.compinv_core.reading.regional import (
    WHOLE_PROMPT,
    Regional,
    Variant,
    Variants,
    context_shares,
    read_contexts,
)
from compositional_inversion.compinv_core.reading.rules import HIDDEN, Look, Reading


def variant(mark: float, length: int = 3) -> Variant:
    """Of two subjects, the tokens 1 and 2."""
    return Variant(torch.full((1, length, 4), mark), [(1,), (2,)])


OWN, CLASS_WORDS, FIRST, SECOND = (variant(mark) for mark in (0.0, 1.0, 2.0, 3.0))
BOTH = Variants(OWN, CLASS_WORDS, {0: FIRST, 1: SECOND})
ONE = Variants(OWN, CLASS_WORDS, {0: OWN})
COARSE = Regional("whole prompt", "coarse blocks")


@pytest.mark.parametrize(
    ("variants", "how", "placed", "expected"),
    [
        (BOTH, Regional(), [0, 1], ([CLASS_WORDS, FIRST, SECOND], [1, 2], None)),
        (BOTH, Regional(), [1, 0], ([CLASS_WORDS, SECOND, FIRST], [1, 2], None)),
        (BOTH, Regional(), [1], ([OWN, SECOND], [1], None)),
        (ONE, Regional(), [0, 1], ([CLASS_WORDS, OWN], [1, 0], None)),
        (ONE, Regional(), [1, 0], ([CLASS_WORDS, OWN], [0, 1], None)),
        (BOTH, Regional(class_words="coarse blocks"), [0, 1], ([CLASS_WORDS, FIRST, SECOND], [1, 2], 0)),
        (BOTH, Regional(class_words="coarse blocks"), [0], ([OWN, FIRST, CLASS_WORDS], [1], 2)),
        (BOTH, COARSE, [0, 1], ([OWN, CLASS_WORDS], [], 1)),
        (ONE, COARSE, [], ([OWN, CLASS_WORDS], [], 1)),
    ],
)
def test_what_is_read(variants: Variants, how: Regional, placed: list[int], expected: tuple[object, ...]):
    read = read_contexts(variants, how, placed)
    assert read is not None and (list(read.variants), list(read.of_regions), read.of_coarse) == expected


def test_where_there_is_one_context_nothing_is_put_in_its_place():
    none = Variants(OWN, OWN, {})
    assert read_contexts(none, Regional("regional", "coarse blocks"), [0, 1]) is None
    assert read_contexts(BOTH, WHOLE_PROMPT, [0, 1]) is None
    assert read_contexts(BOTH, Regional(), []) is None
    assert read_contexts(ONE, Regional(), [1]) is None  # the car's region alone, and the concept has none


def test_cells_of_no_region_read_the_first_context_and_overlapping_regions_share():
    left, all_ = torch.tensor([[1.0, 0.5, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.5, 0.0]])
    shares = context_shares(torch.stack([left, all_]), [1, 2], 3)
    assert torch.allclose(shares.sum(0), torch.ones(1, 4))
    assert torch.allclose(shares[1], torch.tensor([[0.5, 1 / 3, 0.0, 0.0]]))
    assert torch.allclose(shares[2], torch.tensor([[0.5, 2 / 3, 0.5, 0.0]]))
    of_ordinary = context_shares(torch.stack([left, all_]), [1, 0], 2)  # an ordinary thing's region reads class words
    assert torch.allclose(of_ordinary[0], 1 - of_ordinary[1]) and torch.allclose(of_ordinary[1], shares[1])


def test_a_region_hides_what_others_read_and_coarse_blocks_read_class_words():
    left = torch.zeros(1, 2, 2)
    left[..., 0] = 1
    regions = torch.cat([left, 1 - left])
    read = read_contexts(BOTH, Regional(class_words="coarse blocks"), [0, 1])
    assert read is not None
    contexts = read.contexts([0, 1])
    assert contexts.columns == [[1, 4, 7], [2, 5, 8]] and contexts.length == read.encoded.shape[1] == 9
    rules = read.rules(contexts, lambda h, w: regions)
    at = Look(torch.randn(1, 4, 4), torch.randn(1, 9, 4), 1, 2, 2)
    found = {
        group: Reading(contexts, rules).bias(Look(at.q, at.k, 1, 2, 2, group=group)) for group in ("fine", "coarse")
    }
    assert found["fine"] is not None and found["coarse"] is not None
    seen = found["fine"].view(2, 2, 3, 3)[0, :, :, 0]  # the upper left cell and the upper right one, by context
    assert seen.tolist() == [[HIDDEN, 0, HIDDEN], [HIDDEN, HIDDEN, 0]]
    assert found["coarse"].view(4, 3, 3)[..., 0].tolist() == [[0, HIDDEN, HIDDEN]] * 4


def test_a_subject_that_is_not_guided_has_no_columns():
    read = read_contexts(BOTH, Regional(), [1])
    assert read is not None and read.contexts([1]).columns == [[2, 5]]
