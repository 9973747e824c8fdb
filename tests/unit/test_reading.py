"""Contexts and rules: who reads what, whatever the model."""

import pytest
import torch
from compositional_inversion.compinv_core.attention.maps import attention_probabilities
from compositional_inversion.compinv_core.reading.contexts import Context, Contexts
from compositional_inversion.compinv_core.reading.rules import (
    HIDDEN,
    MAX_BOUNDED_CELLS,
    BalanceRule,
    BoundingRule,
    Look,
    Reading,
    SteeringRule,
    VisibilityRule,
    bounding_bias,
    steering_bias,
)
from torch import Tensor

HEADS, SIDE = 2, 4
LEFT = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(SIDE, SIDE)
ALONE = Contexts.one(5, [[1, 2], [4]])
TWO = Contexts((Context(5, ((1, 2), (4,))), Context(3, ((1,), ()))))


def look(contexts: Contexts, seed: int = 0, **changes: object) -> Look:
    torch.manual_seed(seed)
    q, k = torch.randn(2, SIDE * SIDE, 8), torch.randn(2, contexts.length, 8)
    return Look(q, k, **{"heads": HEADS, "height": SIDE, "width": SIDE, "group": "fine", **changes})


def halves(height: int, width: int) -> Tensor:
    """The left half of a map, and the right one."""
    left = LEFT[:height, :width]
    return torch.stack([left, 1 - left])


def amounts(at: Look, bias: Tensor | None, columns: list[int]) -> Tensor:
    """(B, heads, P, N), the attention to columns under a bias."""
    return attention_probabilities(at.q, at.k, at.heads, columns, bias=bias)


def test_columns_of_later_contexts_are_offset_by_the_lengths_of_those_before():
    assert TWO.length == 8 and TWO.offsets == [0, 5]
    assert TWO.columns == [[1, 2, 6], [4]]
    assert TWO.subject_columns == [1, 2, 6, 4] and TWO.owners == [0, 0, 0, 1]
    three = Contexts((*TWO.parts, Context(7, ((), (2, 3)))))
    assert three.columns == [[1, 2, 6], [4, 10, 11]]


def test_one_context_is_the_prompt_as_it_is():
    assert ALONE.columns == [[1, 2], [4]] and ALONE.subject_columns == [1, 2, 4] and ALONE.length == 5


def test_contexts_of_other_subjects_are_refused():
    with pytest.raises(ValueError, match="name 2, 1 subjects"):
        Contexts((Context(5, ((1,), (2,))), Context(5, ((1,),))))


def test_no_rule_adds_nothing():
    assert Reading(ALONE, []).bias(look(ALONE)) is None
    off = [SteeringRule(ALONE, halves, lambda _: 0.0), BalanceRule(ALONE, lambda _: 0.0)]
    assert Reading(ALONE, off).bias(look(ALONE)) is None


def test_a_context_that_all_cells_see_changes_nothing():
    bias = Reading(ALONE, [VisibilityRule(ALONE, lambda h, w: torch.ones(1, h, w))]).bias(look(ALONE))
    assert bias is not None and bias.eq(0).all()


def test_two_contexts_of_which_each_cell_sees_one_are_plain_attention_over_that_one():
    at = look(TWO)
    together = amounts(at, Reading(TWO, [VisibilityRule(TWO, halves)]).bias(at), list(range(8)))
    first = attention_probabilities(at.q, at.k[:, :5], HEADS, list(range(5)))
    second = attention_probabilities(at.q, at.k[:, 5:], HEADS, list(range(3)))
    left = LEFT.flatten() == 1
    assert torch.allclose(together[..., :5, left], first[..., left], atol=1e-6)  # float32, summed over other columns
    assert torch.allclose(together[..., 5:, ~left], second[..., ~left], atol=1e-6)
    assert together[..., 5:, left].eq(0).all() and together[..., :5, ~left].eq(0).all()


def test_a_cell_that_half_belongs_to_a_context_reads_it_half_as_loud():
    at = look(TWO)
    half = VisibilityRule(TWO, lambda h, w: torch.stack([torch.ones(h, w), torch.full((h, w), 0.5)]))
    plain, halved = (amounts(at, bias, list(range(8))) for bias in (None, half(at)))
    odds = [p[..., 5:, :].sum(2) / p[..., :5, :].sum(2) for p in (plain, halved)]
    assert torch.allclose(odds[1], 0.5 * odds[0], rtol=1e-4)


def test_a_cell_that_belongs_to_no_context_reads_the_prompt_itself():
    at = look(TWO)
    nowhere = VisibilityRule(TWO, lambda h, w: torch.zeros(2, h, w))(at)
    assert nowhere is not None and nowhere[..., :5].eq(0).all() and nowhere[..., 5:].eq(HIDDEN).all()


def test_visibility_holds_in_its_blocks_and_in_its_part_of_the_schedule():
    rule = VisibilityRule(TWO, halves, groups=frozenset({"coarse"}), during=(0.2, 0.6))
    for group, progress, holds in [
        ("coarse", 0.2, True), ("coarse", 0.1, False), ("coarse", 0.6, False), ("fine", 0.4, False), (None, 0.4, False),
    ]:  # fmt: skip
        assert (rule(look(TWO, group=group, progress=progress)) is not None) == holds
    assert VisibilityRule(TWO, halves)(look(TWO, group=None, progress=1.0)) is not None  # to the end, and everywhere


def test_rules_add_up():
    steering = SteeringRule(TWO, lambda h, w: halves(h, w), lambda progress: 6.0 * (1 - progress))
    visibility = VisibilityRule(TWO, halves)
    at = look(TWO, progress=0.5)
    both = Reading(TWO, [visibility, steering]).bias(at)
    one, other = visibility(at), steering(at)
    assert both is not None and one is not None and other is not None
    assert torch.equal(both, one + other) and other.abs().max() == 3


def test_steering_works_in_every_context():
    steered = SteeringRule(TWO, halves, lambda _: 2.0)(look(TWO))
    assert steered is not None
    assert steered[0, 0].tolist() == [0, 2, 2, 0, -2, 0, 2, 0]  # a cell on the left, where the first subject goes


def test_a_rule_that_fades_is_the_bias_of_its_strength_bit_for_bit():
    cells = torch.rand(2, SIDE, SIDE)
    rule = SteeringRule(ALONE, lambda h, w: cells, lambda progress: 6.0 * (1 - progress / 0.7))
    for progress in (0.0, 0.1, 0.35, 0.6):
        made = steering_bias(cells, ALONE.columns, ALONE.length, strength=6.0 * (1 - progress / 0.7))
        found = rule(look(ALONE, progress=progress))
        assert found is not None and torch.equal(found, made)


def test_what_was_made_for_a_run_serves_a_backward():
    rule = VisibilityRule(TWO, halves)
    with torch.inference_mode():
        rule(look(TWO))
    again = rule(look(TWO))
    assert again is not None and not again.is_inference()


def test_balance_counts_attention_under_what_is_visible():
    """The first subject is named in both contexts; of the second context only the left half reads."""

    def seen(height: int, width: int) -> Tensor:
        return torch.stack([torch.ones(height, width), halves(height, width)[0]])

    for seed in range(3):
        at = look(TWO, seed)
        visibility = VisibilityRule(TWO, seen)
        bias = Reading(TWO, [visibility, BalanceRule(TWO, lambda _: 1.0)]).bias(at)
        found = amounts(at, bias, TWO.subject_columns).sum((1, 3))
        assert torch.allclose(found[:, :3].sum(1), found[:, 3], rtol=0.02)  # balance comes as near as its rounds
        blind = Reading(TWO, [BalanceRule(TWO, lambda _: 1.0), visibility]).bias(at)
        assert not torch.allclose(amounts(at, blind, TWO.subject_columns).sum((1, 3)), found, rtol=0.02)


def test_cells_of_a_region_attend_less_to_those_of_another_and_to_no_others():
    regions = torch.tensor([[[1.0, 0.5, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]])
    expected = [[0.0, 0, 0, -1], [0, 0, 0, -0.5], [0, 0, 0, 0], [-1, -0.5, 0, 0]]
    assert bounding_bias(regions).tolist() == [expected]
    assert bounding_bias(torch.ones(2, 1, 4)).eq(0).all()  # where regions overlap, their cells are of both
    assert bounding_bias(torch.ones(1, 1, 4)).eq(0).all()


def test_bounding_fades_and_leaves_fine_maps_alone():
    rule = BoundingRule(halves, lambda progress: 6 * (1 - progress))
    full, half = rule(look(ALONE)), rule(look(ALONE, progress=0.5))
    assert full is not None and half is not None and full.min() == -6 and torch.equal(half, full / 2)
    assert rule(look(ALONE, progress=1.0)) is None
    assert rule(look(ALONE, height=MAX_BOUNDED_CELLS + 1, width=1)) is None
