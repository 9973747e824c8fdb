"""Newer hosts' LoRA in bypass mode, which acts in forwards and leaves weights alone, is to us what the same LoRA on weights is."""

from typing import Any

import pytest
import torch
from test_training import pictures_of, train


def lora_of(model: Any, clip: Any) -> dict[str, torch.Tensor]:
    """On cross-attention of the UNet and in all layers of the text encoder, as kohya's scripts name it."""
    import comfy.lora

    generator = torch.Generator().manual_seed(0)
    keys = comfy.lora.model_lora_keys_clip(
        clip.cond_stage_model, comfy.lora.model_lora_keys_unet(model.model, {})
    )  # fmt: skip
    weights = {**model.model.state_dict(), **clip.cond_stage_model.state_dict()}
    lora: dict[str, torch.Tensor] = {}
    for name, key in keys.items():
        in_text = name.startswith("lora_te_") and key.endswith(("q_proj.weight", "v_proj.weight", "fc1.weight"))
        if in_text or (name.startswith("lora_unet_") and "attn2" in key):
            out, into = weights[key].shape
            lora[f"{name}.lora_up.weight"] = 0.2 * torch.randn(out, 2, generator=generator)
            lora[f"{name}.lora_down.weight"] = 0.2 * torch.randn(2, into, generator=generator)
    return lora


@pytest.mark.parametrize(
    "strengths", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)], ids=["on the UNet", "on the text", "on both"]
)
def test_prompts_and_training_are_as_with_the_same_lora_on_weights(
    pack: Any, microworld: Any, strengths: tuple[float, float]
):
    import comfy.sd

    import nodes

    if not hasattr(comfy.sd, "load_bypass_lora_for_models"):
        pytest.skip("this ComfyUI has no LoRA in bypass mode")
    model, clip, vae = microworld

    def encoded(own: Any) -> torch.Tensor:
        return pack.run("CompInvPrompt", clip=own, text="a photo of a cat and a car", subjects="cat, car")[0][0][0]

    with torch.inference_mode():
        plain, lora = encoded(clip), lora_of(model, clip)
        on_weights = comfy.sd.load_lora_for_models(model, clip, lora, *strengths)
        bypass = comfy.sd.load_bypass_lora_for_models(model, clip, lora, *strengths)
        wanted, found = encoded(on_weights[1]), encoded(bypass[1])
        (stock,) = nodes.CLIPTextEncode().encode(bypass[1], "a photo of a cat and a car")
    assert torch.equal(found, stock[0][0])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-2)
    assert torch.equal(found, plain) == (strengths[1] == 0)
    without, right, learnt = (
        train(pack, (*own, vae), pictures_of("mittens")) for own in ((model, clip), on_weights, bypass)
    )
    assert learnt[4]["loss"] == pytest.approx(right[4]["loss"], rel=1e-4)
    assert learnt[4]["loss"] != pytest.approx(without[4]["loss"], rel=1e-4)  # the LoRA is in force
    for key, vectors in right[0].vectors.items():
        torch.testing.assert_close(learnt[0].vectors[key], vectors, rtol=1e-2, atol=1e-3)
    with torch.inference_mode():
        assert torch.equal(encoded(clip), plain)
