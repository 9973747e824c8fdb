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


def test_guidance_beside_a_hypernetwork_is_as_beside_one_of_normal_tensors(pack: Any, microworld: Any):
    found, right = (guided(pack, microworld, hypernetwork(microworld[0], under)) for under in (True, False))
    assert torch.equal(found, right)


def test_stock_free_u_and_easy_cache_take_part_in_guidance(pack: Any, microworld: Any):
    from comfy_extras.nodes_easycache import EasyCacheNode
    from comfy_extras.nodes_freelunch import FreeU_V2

    (free,) = FreeU_V2().patch(microworld[0], 1.3, 1.4, 0.9, 0.2)
    assert guided(pack, microworld, free).isfinite().all()
    (cached,) = EasyCacheNode.execute(microworld[0], 0.9, 0.15, 0.95, False).args
    assert guided(pack, microworld, cached, steps=12).isfinite().all()


@pytest.mark.parametrize("kind", ["in place", "hypernetwork"])
def test_the_gradient_of_training_is_as_beside_a_patch_out_of_place(pack: Any, microworld: Any, kind: str):
    from compositional_inversion.compinv_core.backbone import Encoded
    from compositional_inversion.compinv_core.host.model import frozen_weights, predictor

    pair = (
        [patched(microworld[0], one) for one in (in_place, out_of_place)]
        if kind == "in place"
        else [hypernetwork(microworld[0], under) for under in (True, False)]
    )
    gradients: list[Tensor] = []
    for model in pair:
        with torch.inference_mode(False), torch.enable_grad(), frozen_weights(model.model.diffusion_model):
            torch.manual_seed(1)
            context, noisy = torch.randn(1, 77, 96, requires_grad=True), torch.randn(1, 4, 8, 8)
            said = predictor(model)(noisy, torch.tensor([500]), Encoded(context, torch.zeros(1, 96)))
            gradients += torch.autograd.grad(said.square().sum(), context)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


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
