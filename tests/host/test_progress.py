"""What a training node tells while it learns: how far it is, how long it will take, whether the loss falls; and its plot."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture
def learning(pack: Any) -> Any:
    return sys.modules["compositional_inversion.nodes.learning"]


@pytest.fixture
def losses(pack: Any) -> Any:
    return sys.modules["compositional_inversion.nodes.losses"]


def test_the_time_that_is_left_is_told_at_the_pace_of_this_machine(learning: Any):
    pace = learning.Pace(100)
    assert [pace.at(step, now) for step, now in ((30, 1000.0), (40, 1010.0), (90, 1120.0), (100, 1130.0))] == [
        "step 30/100",  # of a run that was resumed, of which the pace is not known yet
        "step 40/100, about 60 s left",
        "step 90/100, about 20 s left",
        "step 100/100",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "5 s"), (62, "60 s"), (89, "90 s"), (95, "2 min"), (3600, "60 min"), (5400, "1 h 30 min"), (9000, "2 h 30 min")],
)  # fmt: skip
def test_times_are_told_as_one_would_say_them(learning: Any, seconds: float, said: str):
    assert learning.in_words(seconds) == said


def test_a_loss_is_told_beside_the_initial_one(learning: Any):
    assert learning.compared(0.18, 0.2) == "validation loss 0.18, 10.0% below the initial 0.2"
    assert learning.compared(0.21, 0.2) == "validation loss 0.21, 5.0% above the initial 0.2"
    assert "above" in learning.compared(0.1, 0.0)


def test_the_plot_has_a_dot_for_each_evaluation_which_falls_with_its_loss(losses: Any):
    module = sys.modules["compositional_inversion.compinv_core.training.checkpoint"]
    history = [
        module.Losses(step, 0.3, 0.01 * step, 0.3 - 0.002 * step if step % 20 == 0 else None, 0.0, 0.3)
        for step in range(10, 101, 10)
    ]
    end = SimpleNamespace(history=tuple(history), initial_loss=0.3)
    (image,) = losses.loss_plot(end)
    assert image.shape == (2 * losses.HEIGHT, losses.WIDTH, 3)  # reconstruction and anchor
    colour = torch.tensor([int(losses.VALIDATION[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    dots = ((image[: losses.HEIGHT] - colour).abs().amax(dim=2) < 0.02) & (torch.arange(losses.HEIGHT) > losses.TOP)[
        :, None
    ]
    across = dots.any(dim=0)
    lefts = [x for x in range(1, len(across)) if across[x] and not across[x - 1]]
    tops = [int(dots[:, x : x + 9].any(dim=1).nonzero()[0]) for x in lefts]
    assert len(tops) == 6 and tops == sorted(tops) and len(set(tops)) == 6
    assert losses.loss_map(end)["loss"] == pytest.approx([0.3, 0.26, 0.22, 0.18, 0.14, 0.1])


@pytest.mark.parametrize(("low", "high"), [(0.2377, 0.2846), (0, 400), (0, 7), (1e-5, 3e-5), (-2.0, 3.0)])
def test_an_axis_has_a_few_round_numbers(losses: Any, low: float, high: float):
    found = losses.ticks(low, high)
    assert 3 <= len(found) <= 8 and low - 1e-12 <= found[0] < found[-1] <= high + 1e-12
    assert all(len(f"{one:.2e}".split("e")[0].strip("-0").replace(".", "")) <= 3 for one in found)
