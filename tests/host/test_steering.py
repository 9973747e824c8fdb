"""Steering on the real host: attention goes where the layout says, whatever else takes part."""

from typing import Any

import pytest
import torch
from test_sampling import SETTINGS, STEERING, ksampler, layout, negative, prompt, sample

STEER = {"guidance": 0.0, **STEERING}


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def inside(report: str) -> list[float]:
    """The parts of attention that kept to their regions at the first step."""
    kept = report.splitlines()[1].split("in its region")[1]
    return [float(word.rstrip("%,;")) for word in kept.split() if "%" in word]


def shares(report: str) -> list[float]:
    """Of all the subjects' attention, at the first step."""
    return [float(word.rstrip("%,;")) for word in report.splitlines()[1].split(";")[0].split() if "%" in word]


def test_attention_keeps_to_its_regions(pack: Any, microworld: Any):
    regions = layout(pack, microworld)[0]
    weak = sample(pack, microworld, layout=regions, **STEER | {"steering": 0.001})[2]
    strong = sample(pack, microworld, layout=regions, **STEER)[2]
    for before, after in zip(inside(weak), inside(strong), strict=True):
        assert after > before + 10


def test_steering_leaves_the_model_as_it_was(pack: Any, microworld: Any):
    before = ksampler(pack, microworld)
    steered = sample(pack, microworld, layout=layout(pack, microworld)[0], **STEER)[0]["samples"]
    assert steered.isfinite().all() and not torch.equal(steered, before)
    assert torch.equal(ksampler(pack, microworld), before)


def test_steering_calls_the_model_no_more_often(pack: Any, microworld: Any):
    from comfy.patcher_extension import WrappersMP

    def calls(**changes: Any) -> int:
        count: list[int] = []

        def counted(executor: Any, *args: Any, **named: Any) -> Any:
            count.append(1)
            return executor(*args, **named)

        model = microworld[0].clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", counted)
        sample(pack, microworld, model=model, **changes)
        return len(count)

    assert calls(layout=layout(pack, microworld)[0], **STEER) == calls()


@pytest.mark.parametrize("text", ["", "bad " * 100, "bad " * 160])
@pytest.mark.parametrize("cfg", [1.0, 7.0])
def test_negative_prompts_of_any_length(pack: Any, microworld: Any, cfg: float, text: str):
    """Without an unconditional branch, and with prompts that are repeated to one length, the places are the same."""
    inputs = {"cfg": cfg, "negative": negative(microworld, text), "layout": layout(pack, microworld)[0], **STEER}
    first = inside(sample(pack, microworld, **inputs)[2])
    assert first == pytest.approx(
        inside(sample(pack, microworld, **inputs | {"negative": negative(microworld)})[2]), abs=2
    )


def test_each_of_two_prompts_is_steered_by_its_own_subjects(pack: Any, microworld: Any):
    """As with Conditioning (Combine): each prompt names one of the layout's things."""
    both = prompt(pack, microworld, "a cat", "cat") + prompt(pack, microworld, "a photo of a car", "car")
    regions = layout(pack, microworld)[0]
    steered = sample(pack, microworld, layout=regions, positive=both, **STEER)[0]["samples"]
    swapped = sample(pack, microworld, layout=regions, positive=both[::-1], **STEER)[0]["samples"]
    assert torch.allclose(steered, swapped, atol=1e-4)  # the order of a sum
    assert not torch.allclose(steered, ksampler(pack, microworld, positive=both), atol=1e-2)


def test_a_prompt_for_an_area_is_steered_within_it(pack: Any):
    """Half of the canvas, of which a region is the left quarter: the left half of the prompt's own maps."""
    from compositional_inversion.compinv_core.layout.regions import Box, Region
    from compositional_inversion.compinv_core.reading.contexts import Contexts
    from compositional_inversion.compinv_core.sampling.conditioning import GuidedConditioning

    def half(left: int) -> GuidedConditioning:
        regions = [Region("cat", Box(0, 0, 0.25, 1))]
        contexts = Contexts.one(77, [[2]])
        return GuidedConditioning(1, ["cat"], contexts, (8, 8), area=(8, 4, 0, left), regions=regions)

    assert half(0).cells(8, 4)[0, 0].tolist() == [1, 1, 0, 0]
    assert half(4).cells(4, 2).sum() == 0


def test_what_another_pack_adds_to_attention_stays(pack: Any, microworld: Any):
    """As IPAdapter does: its replacement is plain attention and something more."""
    from comfy.ldm.modules.attention import attention_pytorch
    from compositional_inversion.compinv_core.families.unet import Block
    from compositional_inversion.compinv_core.host.attention import steer
    from compositional_inversion.compinv_core.reading.contexts import Contexts
    from compositional_inversion.compinv_core.reading.rules import Reading

    q, k, v = (torch.randn(2, length, 8) for length in (16, 6, 6))
    extra = {
        "n_heads": 2, "attn_precision": None, "uuids": ["negative", "mine"], "activations_shape": [2, 8, 4, 4],
    }  # fmt: skip
    more = torch.randn(2, 16, 8)
    bias = torch.randn(16, 6)

    def ipadapter(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        return attention_pytorch(q, k, v, extra["n_heads"]) + more

    def attend(present: dict[Any, Any]) -> torch.Tensor:
        options = {"transformer_options": {"patches_replace": {"attn2": present}}}
        block = Block(("middle", 0), 0)
        readings = {"mine": Reading(Contexts.one(6), [lambda look: bias[None]])}
        steered = steer(options, {block: "coarse"}, readings)
        return steered["transformer_options"]["patches_replace"]["attn2"]["middle", 0, 0](q, k, v, extra)

    alone, together = attend({}), attend({("middle", 0): ipadapter})
    assert torch.allclose(together, alone + more, atol=1e-5)
    assert torch.equal(together[:1], (attention_pytorch(q, k, v, 2) + more)[:1])
    assert torch.allclose(alone[1:], attention_pytorch(q[1:], k[1:], v[1:], 2, mask=bias[None, None]))


def test_balance_evens_out_the_subjects_attention_without_a_layout(pack: Any, microworld: Any):
    """A weight of 1.5 gives the cat more of it than the car; whatever is repeated to whatever length."""
    positive = prompt(pack, microworld, "a photo of a (cat:1.5) and a car", "cat, car")
    for text in ("", "bad " * 100):
        inputs = {"positive": positive, "negative": negative(microworld, text), **STEER, "steering": 0.0}
        before = shares(sample(pack, microworld, **inputs, balance=0.001)[2])
        after = shares(sample(pack, microworld, **inputs, balance=1.0)[2])
        assert abs(before[0] - before[1]) > 10
        assert abs(after[0] - after[1]) < 0.3 * abs(before[0] - before[1])


def test_balance_of_nothing_is_ksampler(pack: Any, microworld: Any):
    """Switched off, or with a subject alone, which gets all there is."""
    alone = prompt(pack, microworld, subjects="cat")
    for inputs in ({"balance": 0.0}, {"balance": 1.0, "positive": alone}):
        sampled = sample(pack, microworld, **STEER | inputs)[0]["samples"]
        assert torch.allclose(sampled, ksampler(pack, microworld), atol=1e-4)
    assert torch.equal(sample(pack, microworld, **STEER)[0]["samples"], ksampler(pack, microworld))


def test_each_picture_of_a_batch_is_balanced_by_itself(pack: Any, microworld: Any):
    def sampled(*indices: int) -> torch.Tensor:
        latent = {"samples": torch.zeros(len(indices), 4, 8, 8), "batch_index": list(indices)}
        return sample(pack, microworld, latent_image=latent, **STEER | {"balance": 1.0})[0]["samples"].clone()

    assert torch.allclose(sampled(0, 1), torch.cat([sampled(0), sampled(1)]), atol=1e-4)


def test_seeing_why(pack: Any, microworld: Any):
    """A picture of each step, of the subjects side by side, and over a glimpse of what came into being."""
    regions = layout(pack, microworld)[0]
    heat_maps, overlay = sample(pack, microworld, layout=regions, **STEER)[1::2]
    assert len(heat_maps) == len(overlay) == 4
    assert heat_maps.shape[2] == 2 * overlay.shape[2]
    assert (overlay[0] - overlay[-1]).abs().mean() > 0.01


def test_a_sampler_of_two_calls_a_step_and_many_steps(pack: Any, microworld: Any):
    """The report counts steps of the schedule, and the pictures are no more than a memory holds."""
    inputs = {"layout": layout(pack, microworld)[0], "sampler_name": "heun", "steps": 30, **STEER}
    _, heat_maps, report, overlay = sample(pack, microworld, **inputs)
    steps = [int(line.split(":")[0].split()[1]) for line in report.splitlines()[1:]]
    assert steps == sorted(steps) and steps[-1] == 30 and len(steps) > 50
    assert len(heat_maps) == len(overlay) == 24


def test_prompts_for_areas_are_shown_in_their_places(pack: Any, microworld: Any):
    """Two halves of the canvas: what is reported of a prompt lies in its own."""
    import nodes

    areas = nodes.ConditioningSetArea()
    left = areas.append(prompt(pack, microworld, "a cat", "cat"), 32, 64, 0, 0, 1.0)[0]
    right = areas.append(prompt(pack, microworld, "a car", "car"), 32, 64, 32, 0, 1.0)[0]
    from compositional_inversion.compinv_core.host.sampler import with_layout
    from compositional_inversion.compinv_core.sampling.guidance import Guidance
    from compositional_inversion.compinv_core.sampling.schedules import Balance, Steering

    reports: list[Any] = []
    held = with_layout(
        microworld[0], layout(pack, microworld)[0], Steering(), Guidance(0), balance=Balance(), report=reports.append
    )
    ksampler(pack, microworld, held, positive=left + right)
    cat, car = reports[0].maps[0]
    half = cat.shape[1] // 2
    assert cat[:, half:].sum() == 0 and car[:, :half].sum() == 0 and cat.sum() > 0 and car.sum() > 0


@pytest.mark.parametrize("kind", ["basic", "cfg", "dual", "perpendicular"])
def test_any_guider_of_sampler_custom_advanced(pack: Any, microworld: Any, kind: str):
    import comfy_extras.nodes_custom_sampler as custom
    from comfy_extras.nodes_perpneg import PerpNegGuider

    regions = layout(pack, microworld)[0]
    positive, other = prompt(pack, microworld), negative(microworld)

    def sampled(**inputs: Any) -> torch.Tensor:
        (model,) = pack.run("CompInvRegularizeModel", model=microworld[0], **{**SETTINGS, **inputs})
        guider = {
            "basic": lambda: custom.BasicGuider.execute(model, positive),
            "cfg": lambda: custom.CFGGuider.execute(model, positive, other, 4.0),
            "dual": lambda: custom.DualCFGGuider.execute(model, other, positive, other, 4.0, 2.0, "regular"),
            "perpendicular": lambda: PerpNegGuider.execute(model, positive, other, other, 4.0, 1.0),
        }[kind]()[0]
        sigmas = custom.BasicScheduler.execute(model, "normal", 3, 1.0)[0]
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        noise, sampler = custom.RandomNoise.execute(5)[0], custom.KSamplerSelect.execute("euler")[0]
        return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent)[0]["samples"].clone()

    plain = sampled(layout=regions, guidance=0.0)
    ways: list[dict[str, Any]] = [
        {"layout": regions, "steering": 6.0, "guidance": 0.0},
        {"layout": regions, "guidance": 30.0},
        {"balance": 1.0, "guidance": 0.0},
    ]
    for way in ways:
        regularized = sampled(**way)
        assert regularized.isfinite().all() and not torch.equal(regularized, plain)


def test_a_model_that_predicts_v(pack: Any, microworld: Any):
    """As SD 2.x at 768 px does: steering, guidance and balance run on it."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    model = ModelSamplingDiscrete().patch(microworld[0], "v_prediction", False)[0]
    regions = layout(pack, microworld)[0]
    for way in ({"steering": 6.0}, {"guidance": 30.0}, {"balance": 1.0}):
        latent, _, report, _ = sample(
            pack, microworld, model=model, layout=regions, **{**SETTINGS, "guidance": 0.0, **way}
        )
        assert latent["samples"].isfinite().all() and "step 1" in report


def test_a_lora_takes_part(pack: Any, microworld: Any):
    model = microworld[0].clone()
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    weight = microworld[0].model.state_dict()[key]
    model.add_patches({key: (torch.randn_like(weight),)}, 0.5)
    regions = layout(pack, microworld)[0]
    changed = sample(pack, microworld, model=model, layout=regions, **STEER)[0]["samples"]
    assert not torch.equal(changed, sample(pack, microworld, layout=regions, **STEER)[0]["samples"])
    off = sample(pack, microworld, model=model, layout=regions, **STEER | {"steering": 0.0})[0]["samples"]
    assert torch.equal(off, ksampler(pack, microworld, model))
