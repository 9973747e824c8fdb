"""Several contexts of one prompt on the real host: each cell of the picture reads those that it may, and no other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_sampling import GUIDANCE, ksampler, layout, negative, prompt
from test_sampling_with_others import controlnet  # noqa: F401 - a fixture
from torch import Tensor

LONG = "very " * 90  # with a few words more, 154 tokens
OFF = {"steering": 0.0, "guidance": 0.0, "balance": 0.0}
Cells = Callable[[int, int], Tensor]


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def own_alone(height: int, width: int) -> Tensor:
    return torch.stack([torch.ones(height, width), torch.zeros(height, width)])


def other_alone(height: int, width: int) -> Tensor:
    return own_alone(height, width).flip(0)


def halves(height: int, width: int) -> Tensor:
    """The left half reads the first context, the right half the second."""
    left = (torch.arange(width) < width // 2).float().expand(height, width)
    return torch.stack([left, 1 - left])


def with_context(microworld: Any, positive: Any, text: str, cells: Cells, columns: Any = None) -> Any:
    """A conditioning that brings along one further context."""
    from compositional_inversion.compinv_core.host.contexts import CONTEXTS
    from compositional_inversion.compinv_core.reading.rules import VisibilityRule
    from compositional_inversion.compinv_core.sampling.conditioning import FurtherContexts

    (((own, entry),), ((encoded, _),)) = positive, negative(microworld, text)
    columns = columns or [() for _ in entry.get("compinv_subjects", ())]
    further = FurtherContexts([encoded], [columns], lambda one: [VisibilityRule(one.contexts, cells)])
    return [[own, {**entry, CONTEXTS: further}]]


def regularized(
    microworld: Any, regions: Any = None, *, reports: list[Any] | None = None, model: Any = None, **changes: Any
) -> Any:
    """The MODEL as the nodes patch it."""
    from compositional_inversion.compinv_core.host.sampler import with_layout
    from compositional_inversion.compinv_core.sampling.guidance import Guidance
    from compositional_inversion.compinv_core.sampling.schedules import Balance, Steering

    how = {**OFF, **changes}
    guidance = Guidance(how["guidance"], GUIDANCE["corrections"], GUIDANCE["guidance_until"], GUIDANCE["threshold"])
    report = None if reports is None else reports.append
    balance = Balance(how["balance"])
    model = model or microworld[0]
    return with_layout(model, regions, Steering(how["steering"]), guidance, balance=balance, report=report)


def test_without_rules_a_stock_sampler_reads_the_prompt_alone(pack: Any, microworld: Any):
    positive = with_context(microworld, prompt(pack, microworld), "a photo of a kite", other_alone)
    assert torch.equal(ksampler(pack, microworld, positive=positive), ksampler(pack, microworld))


@pytest.mark.parametrize(
    ("own", "other", "unwanted"),
    [("", "", ""), ("", LONG, ""), (LONG, "", ""), ("", "", "bad " * 100), (LONG, LONG, "bad " * 160)],
)
def test_what_is_read_everywhere_is_the_picture(pack: Any, microworld: Any, own: str, other: str, unwanted: str):
    """A context that no cell may read changes nothing, and one that all cells read in the prompt's place is the prompt.

    Prompts of 77 and 154 tokens, negative ones that ComfyUI repeats to the same length or runs by themselves, a batch of two.
    The latents, of size 1, are those of another kernel of attention, float32 in another order of its sums: 3e-5 was seen.
    """
    first = prompt(pack, microworld, f"a photo of a cat and a {own}car", "cat, car")
    second = f"a photo of a {other}kite"
    rest = {"negative": negative(microworld, unwanted), "steps": 3}
    plain = [ksampler(pack, microworld, positive=p, **rest) for p in (first, negative(microworld, second))]
    assert not torch.allclose(*plain, atol=0.1)
    model = regularized(microworld)
    for cells, expected in zip((own_alone, other_alone), plain, strict=True):
        positive = with_context(microworld, first, second, cells)
        found = ksampler(pack, microworld, model, positive=positive, **rest)
        assert torch.allclose(found, expected, atol=2e-4)
    assert torch.equal(ksampler(pack, microworld, positive=first, **rest), plain[0])


@pytest.mark.parametrize("unwanted", ["", "bad " * 100])
def test_each_half_of_the_canvas_reads_its_own_context(pack: Any, microworld: Any, unwanted: str):
    """The cat is named in the first alone, the car in the second alone."""
    from compositional_inversion.compinv_core.host.text_encoder import columns_in_turn
    from compositional_inversion.compinv_core.prompts.spans import Subject

    clip, text = microworld[1], "a photo of a car"
    ((own, entry),) = prompt(pack, microworld, "a photo of a cat", "cat")
    subjects = (*entry["compinv_subjects"], Subject("car", "car", (), ()))
    columns = [(), *columns_in_turn(clip, text, ["car"])]
    positive = with_context(microworld, [[own, {**entry, "compinv_subjects": subjects}]], text, halves, columns)
    reports: list[Any] = []
    model = regularized(microworld, reports=reports)
    rest = {"negative": negative(microworld, unwanted), "steps": 3}
    both = ksampler(pack, microworld, model, positive=positive, **rest)
    assert len(reports) == 3 and reports[0].subjects == ("cat", "car")
    for report in reports:
        cat, car = report.maps.unbind(dim=1)
        half = cat.shape[-1] // 2
        # Finer maps are the mean with coarser ones, which blur by a cell over the middle.
        assert cat[..., half + 1 :].eq(0).all() and car[..., : half - 1].eq(0).all()
        assert cat[..., :half].sum() > 0 and car[..., half:].sum() > 0
    for text in ("a photo of a cat", "a photo of a car"):
        assert not torch.allclose(
            both, ksampler(pack, microworld, positive=negative(microworld, text), **rest), atol=0.1
        )


@pytest.mark.parametrize(
    "how", [{"steering": 6.0}, {"balance": 1.0}, {"steering": 6.0, "balance": 1.0}, {"guidance": 5.0, "steering": 6.0}]
)
def test_beside_steering_balance_and_guidance_a_hidden_context_changes_nothing(
    pack: Any, microworld: Any, how: dict[str, float]
):
    """Its tokens are the subjects', too, and would be steered, balanced and guided. Tolerance as above."""
    own = prompt(pack, microworld)
    columns = [subject.columns for subject in own[0][1]["compinv_subjects"]]
    hidden = with_context(microworld, own, "a photo of a cat and a car", own_alone, columns)
    model = regularized(microworld, layout(pack, microworld)[0], **how)
    found, expected = (ksampler(pack, microworld, model, positive=p, steps=3) for p in (hidden, own))
    assert torch.allclose(found, expected, atol=2e-4)
    assert not torch.allclose(found, ksampler(pack, microworld, steps=3), atol=1e-2)


def test_layouts_on_one_model_add_up_in_one_bias(pack: Any, microworld: Any):
    """3 nats twice are 6, also where another context is hidden; a sum of outputs would be something else."""
    regions = layout(pack, microworld)[0]
    once = regularized(microworld, regions, steering=6.0)
    half = regularized(microworld, regions, steering=3.0)
    twice = regularized(microworld, regions, model=half, steering=3.0)
    hidden = with_context(microworld, prompt(pack, microworld), "a photo of a kite", own_alone)
    expected = ksampler(pack, microworld, once, steps=3)
    assert torch.equal(ksampler(pack, microworld, twice, steps=3), expected)
    assert torch.allclose(ksampler(pack, microworld, twice, positive=hidden, steps=3), expected, atol=2e-4)


def test_a_controlnet_reads_the_prompt_alone(pack: Any, microworld: Any, controlnet: Any):  # noqa: F811
    import nodes

    lengths: list[int] = []
    seeing = controlnet.control_model.register_forward_pre_hook(
        lambda _, __, named: lengths.append(named["context"].shape[1]), with_kwargs=True
    )
    positive, other = nodes.ControlNetApplyAdvanced().apply_controlnet(
        prompt(pack, microworld), negative(microworld), controlnet, torch.rand(1, 64, 64, 3), 1.0, 0.0, 1.0
    )
    hidden = with_context(microworld, positive, "a photo of a kite", own_alone)
    rest = {"negative": other, "steps": 2}
    try:
        found = ksampler(pack, microworld, regularized(microworld), positive=hidden, **rest)
        assert lengths == [77, 77]  # both branches together
    finally:
        seeing.remove()
    assert torch.allclose(found, ksampler(pack, microworld, positive=positive, **rest), atol=2e-4)
