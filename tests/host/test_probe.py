"""The probe of Spatial Layout Recover keeps what was set on the prompt: ControlNet, areas, masks, ranges of steps, text behind it."""

from typing import Any

import pytest
import torch
from test_sampling import ksampler, layout, negative, prompt
from test_sampling_with_others import controlnet, on_area  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def recovered(pack: Any, microworld: Any, positive: Any, method: str = "from attention", boxes: str = "") -> Any:
    return recover(pack, microworld, positive, negative(microworld), method, boxes)


def recover(
    pack: Any, microworld: Any, positive: Any, other: Any, method: str = "from attention", boxes: str = ""
) -> Any:
    return pack.run(
        "CompInvLayoutRecover", model=microworld[0], positive=positive, negative=other,
        latent_image={"samples": torch.zeros(1, 4, 8, 8)}, method=method, boxes=boxes, steps=3, cfg=4.0, seed=1,
    )[0]  # fmt: skip


def halves(pack: Any, microworld: Any, left: str, right: str) -> Any:
    """Two prompts, each for half of the canvas."""
    first, second = (prompt(pack, microworld, f"a photo of a {word}", word) for word in (left, right))
    return on_area(first, 32, 64, 0, 0) + on_area(second, 32, 64, 32, 0)


def test_what_stock_nodes_set_on_a_prompt_stays_on_its_probe(pack: Any, microworld: Any):
    import node_helpers
    from compositional_inversion.compinv_core.host.composition import PROBED, probe_of

    import nodes

    control, mask = object(), torch.ones(1, 64, 64)
    kept = {"control": control, "control_apply_to_uncond": False, "mask": mask, "mask_strength": 0.5, "strength": 0.7,
            "start_percent": 0.2, "area": (8, 4, 0, 4), "gligen": "position", "concat_latent_image": mask}  # fmt: skip
    positive = prompt(pack, microworld)
    (stock,) = nodes.CLIPTextEncode().encode(microworld[1], "on grass")
    found = probe_of(node_helpers.conditioning_set_values(positive, kept) + stock)
    assert {key: found[0][1][key] for key in kept} == kept
    assert [subject.phrase for subject in found[0][1][PROBED]] == ["cat", "car"]
    assert torch.equal(found[1][0], stock[0][0]) and PROBED not in found[1][1]
    (longer,) = nodes.ConditioningConcat().concat(positive, stock)
    assert torch.equal(probe_of(longer)[0][0][:, 77:], stock[0][0])


def test_the_probe_asks_a_controlnet_as_often_as_a_sampler_does(pack: Any, microworld: Any, controlnet: Any):  # noqa: F811
    """In each step, for the positive as for the negative; without it on the positive, for that alone it is not asked."""
    import nodes

    asked: list[int] = []
    counting = controlnet.control_model.register_forward_pre_hook(
        lambda _, inputs, named: asked.append(len(named["x"] if "x" in named else inputs[0])), with_kwargs=True
    )
    positive, other = nodes.ControlNetApplyAdvanced().apply_controlnet(
        prompt(pack, microworld), negative(microworld), controlnet, torch.rand(1, 64, 64, 3), 1.0, 0.0, 1.0
    )
    try:
        found: list[int] = []
        for own in (positive, prompt(pack, microworld)):
            asked.clear()
            recover(pack, microworld, own, other)
            found.append(sum(asked))
            asked.clear()
            latent = {"samples": torch.zeros(1, 4, 8, 8)}
            ksampler(pack, microworld, positive=own, negative=other, latent_image=latent, steps=3, seed=1)
            assert found[-1] == sum(asked)
        assert found == [2 * 3, 3]
    finally:
        counting.remove()


def test_hooks_on_a_prompt_hold_for_its_probe(pack: Any, microworld: Any):
    """A LoRA that hangs on both prompts is as one on the MODEL."""
    import comfy.hooks
    import comfy.sd

    model, clip, vae = microworld
    weights = model.model.diffusion_model.state_dict()
    name = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    change = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(3))
    lora = {f"diffusion_model.{name.removesuffix('.weight')}.diff": change}
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    hooked = [
        comfy.hooks.set_hooks_for_conditioning(own, hooks) for own in (prompt(pack, microworld), negative(microworld))
    ]
    found = recover(pack, microworld, *hooked)
    tuned, _ = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 0.0)
    right = recover(pack, (tuned, clip, vae), prompt(pack, microworld), negative(microworld))
    plain = recover(pack, microworld, prompt(pack, microworld), negative(microworld))
    assert found == right != plain


def test_an_area_over_the_canvas_edge_is_probed_as_the_one_that_is_cut_there(pack: Any, microworld: Any):
    text = prompt(pack, microworld)
    over, cut = (recovered(pack, microworld, on_area(text, *area)) for area in ((64, 64, 32, 0), (32, 64, 32, 0)))
    assert over == cut


@pytest.mark.parametrize("method", ["from attention", "default boxes", "predicted"])
def test_a_subject_is_put_into_its_prompts_area(pack: Any, microworld: Any, method: str):
    for left, right in (("cat", "car"), ("car", "cat")):
        found = recovered(pack, microworld, halves(pack, microworld, left, right), method)
        assert found.region(left).box.right <= 0.5 <= found.region(right).box.left


def test_a_subject_is_put_where_its_prompts_mask_is_white(pack: Any, microworld: Any):
    import nodes

    mask = torch.zeros(1, 64, 64)
    mask[:, 32:, :32] = 1
    masked = nodes.ConditioningSetMask().append(prompt(pack, microworld, "a cat", "cat"), mask, "default", 1.0)[0]
    box = recovered(pack, microworld, masked).region("cat").box
    assert box.right <= 0.5 <= box.top


def test_a_prompt_in_two_ranges_of_steps_has_each_subject_once(pack: Any, microworld: Any):
    import node_helpers

    both = prompt(pack, microworld)
    first = node_helpers.conditioning_set_values(both, {"start_percent": 0.0, "end_percent": 0.4})
    rest = node_helpers.conditioning_set_values(both, {"start_percent": 0.4, "end_percent": 1.0})
    assert recovered(pack, microworld, first + rest) == layout(pack, microworld, "from attention")[0]


def test_a_region_outside_its_prompts_area_is_said(pack: Any, microworld: Any):
    boxes = '{"cat": [0.5, 0, 1, 1], "car": [0.5, 0, 1, 1]}'
    positive = halves(pack, microworld, "cat", "car")
    assert (
        "The region of cat lies outside the area or mask of its prompt"
        in recovered(pack, microworld, positive, "my boxes", boxes).note
    )
    assert not recovered(pack, microworld, prompt(pack, microworld), "my boxes", boxes).note


def test_on_an_area_guidance_reads_the_prompt_and_not_what_the_negative_has_there(pack: Any, microworld: Any):
    """The first energy is of the same noise, whatever the negative prompt says."""
    from compositional_inversion.compinv_core.host.sampler import with_layout
    from compositional_inversion.compinv_core.sampling.guidance import Guidance
    from compositional_inversion.compinv_core.sampling.schedules import Balance, Steering

    reports: list[Any] = []
    held = with_layout(
        microworld[0], layout(pack, microworld)[0], Steering(0), Guidance(30.0, 1, 0.3, 0.0), balance=Balance(),
        report=reports.append,
    )  # fmt: skip
    found: list[Any] = []
    for text in ("", "a boat on water"):
        reports.clear()
        ksampler(pack, microworld, held, positive=halves(pack, microworld, "cat", "car"), negative=negative(microworld, text))  # fmt: skip
        found.append(reports[0].energies[0])
    assert torch.allclose(*found, rtol=1e-5)
