"""Steering on the real host: attention goes where the layout says, whatever else takes part."""

from typing import Any

import pytest
import torch
from test_sampling import STEERING, ksampler, layout, negative, prompt, sample

STEER = {"guidance": 0.0, **STEERING}


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def inside(report: str) -> list[float]:
    """The parts of attention that kept to their regions at the first step."""
    return [float(word.rstrip("%,;")) for word in report.splitlines()[1].split() if "%" in word]


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
    from compositional_inversion.compinv_core.host.sampler import Held
    from compositional_inversion.compinv_core.layout import Box, Region

    quarter = Region("cat", Box(0, 0, 0.25, 1))
    cond = {"area": (8, 4, 0, 0), "uuid": 1, "cross_attn": torch.zeros(1, 77, 8)}
    assert Held(cond, [quarter], [[2]], (8, 8)).cells(8, 4)[0, 0].tolist() == [1, 1, 0, 0]
    beyond = Held(cond | {"area": (8, 4, 0, 4)}, [quarter], [[2]], (8, 8))
    assert beyond.cells(4, 2).sum() == 0


def test_what_another_pack_adds_to_attention_stays(pack: Any, microworld: Any):
    """As IPAdapter does: its replacement is plain attention and something more."""
    from comfy.ldm.modules.attention import attention_pytorch
    from compositional_inversion.compinv_core.host.attention import Block, steer

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
        steered = steer(options, [block], {"mine": lambda height, width: bias})
        return steered["transformer_options"]["patches_replace"]["attn2"]["middle", 0, 0](q, k, v, extra)

    alone, together = attend({}), attend({("middle", 0): ipadapter})
    assert torch.allclose(together, alone + more, atol=1e-5)
    assert torch.equal(together[:1], (attention_pytorch(q, k, v, 2) + more)[:1])
    assert torch.allclose(alone[1:], attention_pytorch(q[1:], k[1:], v[1:], 2, mask=bias[None, None]))


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
