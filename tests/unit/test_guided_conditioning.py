"""Regions on maps of a conditioning's own part of the canvas, and its energy with one context and with several."""

import torch
from compositional_inversion.compinv_core.attention.energy import layout_energy
from compositional_inversion.compinv_core.layout.regions import Box, Region
from compositional_inversion.compinv_core.reading.contexts import Context, Contexts
from compositional_inversion.compinv_core.sampling.conditioning import GuidedConditioning, energy_of, reported
from compositional_inversion.compinv_core.sampling.schedules import Balance, Steering
from torch import Tensor

LEFT = Region("cat", Box(0, 0, 0.5, 1))
RIGHT = Region("car", Box(0.5, 0, 1, 1))
ONE = Contexts.one(6, [[1, 2], [4]])


def guided(contexts: Contexts = ONE, **changes: object) -> GuidedConditioning:
    return GuidedConditioning("mine", ["cat", "car"], contexts, (8, 8), **{"regions": [LEFT, RIGHT], **changes})


def test_what_lies_on_an_area_is_put_back_in_its_place_on_the_canvas():
    right = guided(area=(8, 4, 0, 4))
    cells = right.cells(4, 2)
    assert cells[0].eq(0).all() and cells[1].eq(1).all()
    back = right.on_canvas(cells[None])
    assert back.shape == (1, 2, 4, 4) and torch.equal(back[0, 1], RIGHT.cells(4, 4))


def test_the_energy_of_one_context_is_the_papers_token_by_token():
    maps = torch.rand(2, 3, 8, 8)
    cells = torch.stack([LEFT.cells(8, 8), RIGHT.cells(8, 8)])
    assert torch.equal(energy_of([guided()], [[maps]]), 2 * layout_energy([maps], [0, 0, 1], [cells]) / 2)


def test_of_several_contexts_a_token_that_no_cell_reads_costs_nothing():
    single = torch.rand(1, 2, 8, 8)
    two = Contexts((Context(6, ((1,), (4,))), Context(3, ((1,), (2,)))))
    hidden = torch.stack([single[:, 0], 0 * single[:, 0], single[:, 1], 0 * single[:, 1]], dim=1)
    alone = guided(Contexts.one(6, [[1], [4]]))
    assert torch.allclose(energy_of([guided(two)], [[hidden]]), energy_of([alone], [[single]]))


def test_a_report_sums_a_subjects_tokens():
    maps = torch.ones(1, 3, 8, 8)
    report = reported([guided()], [[maps]], step=2, energies=None, preview=None)
    assert report.step == 2 and report.subjects == ("cat", "car")
    assert torch.allclose(report.shares, torch.tensor([2 / 3, 1 / 3]))
    assert report.inside is not None and torch.allclose(report.inside, torch.tensor([0.5, 0.5]))


def test_rules_that_a_conditioning_brings_along_come_first():
    def own(look: object) -> Tensor | None:
        return None

    one = guided(own_rules=[own])
    rules = one.reading(Steering(6.0), Balance(1.0)).rules
    assert [type(rule).__name__ for rule in rules] == ["function", "SteeringRule", "BalanceRule"]
    assert one.reading(Steering(0), Balance(0)).rules == [own]
    assert not guided(regions=[]).reading(Steering(6.0), Balance(0)).rules
