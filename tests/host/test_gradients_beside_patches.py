"""Gradients beside patches that write in place, bring tensors of inference mode, or answer without the model."""

from typing import Any

import pytest
import torch
from test_sampling import layout, sample
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def in_place(h: Tensor, skip: Tensor, _: Any) -> tuple[Tensor, Tensor]:
    """As FreeU writes."""
    half = h.shape[1] // 2
    h[:, :half] = h[:, :half] * (1 + 0.2 * h.mean(1, keepdim=True))
    skip *= 0.9
    return h, skip


def out_of_place(h: Tensor, skip: Tensor, _: Any) -> tuple[Tensor, Tensor]:
    half = h.shape[1] // 2
    return torch.cat([h[:, :half] * (1 + 0.2 * h.mean(1, keepdim=True)), h[:, half:]], dim=1), skip * 0.9


def hypernetwork(model: Any, under_inference: bool) -> Any:
    """As the stock loader makes it: modules that a patch of attention calls."""
    with torch.inference_mode(under_inference):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(96, 96), nn.ReLU(), nn.LayerNorm(96)).requires_grad_(False)
    patched = model.clone()
    patched.set_model_attn2_patch(lambda q, k, v, _: (q, k + 0.3 * layer(k), v + 0.3 * layer(v)))
    return patched


def bypass(model: Any, under_inference: bool) -> Any:
    """As newer stock loaders add a LoRA without changing weights: a forward of a module is another while the MODEL is loaded."""
    from comfy.patcher_extension import PatcherInjection

    with torch.inference_mode(under_inference):
        weight = 0.3 * torch.randn(128, 128, generator=torch.Generator().manual_seed(2))
    module = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_q
    plain = module.forward

    def inject(_: Any) -> None:
        module.forward = lambda x: plain(x) + nn.functional.linear(x, weight)

    def eject(_: Any) -> None:
        module.__dict__.pop("forward", None)

    other = model.clone()
    other.set_injections("bypass", [PatcherInjection(inject, eject)])
    return other


def patched(model: Any, patch: Any) -> Any:
    clone = model.clone()
    clone.set_model_output_block_patch(patch)
    return clone


def guided(pack: Any, microworld: Any, model: Any, **changes: Any) -> Tensor:
    inputs = {"layout": layout(pack, microworld)[0], "guidance_until": 1.0, **changes}
    return sample(pack, microworld, model=model, **inputs)[0]["samples"].clone()


def test_guidance_beside_a_patch_that_writes_in_place_is_as_beside_one_that_does_not(pack: Any, microworld: Any):
    found, right = (guided(pack, microworld, patched(microworld[0], one)) for one in (in_place, out_of_place))
    assert torch.allclose(found, right, atol=1e-3) and not torch.allclose(
        found, guided(pack, microworld, microworld[0]), atol=1e-2
    )


@pytest.mark.parametrize("made", [hypernetwork, bypass])
def test_guidance_beside_tensors_of_inference_mode_is_as_beside_normal_ones(pack: Any, microworld: Any, made: Any):
    found, right = (guided(pack, microworld, made(microworld[0], under)) for under in (True, False))
    assert torch.equal(found, right) and not torch.equal(found, guided(pack, microworld, microworld[0]))


def test_stock_free_u_and_easy_cache_take_part_in_guidance(pack: Any, microworld: Any):
    from comfy_extras.nodes_easycache import EasyCacheNode
    from comfy_extras.nodes_freelunch import FreeU_V2

    (free,) = FreeU_V2().patch(microworld[0], 1.3, 1.4, 0.9, 0.2)
    assert guided(pack, microworld, free).isfinite().all()
    (cached,) = EasyCacheNode.execute(microworld[0], 0.9, 0.15, 0.95, False).args
    assert guided(pack, microworld, cached, steps=12).isfinite().all()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["in place", "hypernetwork", "bypass"])
def test_the_gradient_of_training_is_as_beside_a_patch_out_of_place(
    pack: Any, microworld: Any, kind: str, checkpointing: bool
):
    from compositional_inversion.compinv_core.backbone import Encoded
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone

    model, clip, vae = microworld
    pair = {
        "in place": [patched(model, one) for one in (in_place, out_of_place)],
        "hypernetwork": [hypernetwork(model, under) for under in (True, False)],
        "bypass": [bypass(model, under) for under in (True, False)],
    }
    gradients: list[Tensor] = []
    for one in (*pair[kind], model):
        backbone = ComfyBackbone(one, clip, vae)
        with torch.inference_mode(False), torch.enable_grad(), backbone.trainable(checkpointing, 0):
            torch.manual_seed(1)
            context, noisy = torch.randn(1, 77, 96, requires_grad=True), torch.randn(1, 4, 8, 8)
            said = backbone.predict(noisy, torch.tensor([500]), Encoded(context, torch.zeros(1, 96)))
            gradients += torch.autograd.grad(said.square().sum(), context)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(gradients[0], gradients[2], rtol=1e-3, atol=1e-4)  # the patch is in force


def test_a_patch_without_a_gradient_is_named_and_steering_recommended(pack: Any, microworld: Any):
    def detached(h: Tensor, _: Any) -> Tensor:
        return h.detach()

    model = microworld[0].clone()
    model.set_model_input_block_patch(detached)
    with pytest.raises(
        RuntimeError, match=r"Guidance needs gradients, .*\(test_gradients_beside_patches\..*use steering"
    ) as raised:
        guided(pack, microworld, model)
    assert len(str(raised.value)) <= 300
