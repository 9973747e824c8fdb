"""A change of a model's weights: what a rank loses, and its form as a LoRA file."""

from pathlib import Path

import pytest
import torch
from compositional_inversion.compinv_core.adapter import Adapter, Change
from compositional_inversion.compinv_core.custom_diffusion import read_custom_diffusion

NAME = "mid.attn2.to_k.weight"

NAMES = {
    "mid.to_k.weight": "lora_unet_mid_to_k",
    "conv.weight": "lora_unet_conv",
    "conv.bias": "lora_unet_conv",
    "mid.to_v.weight": "lora_unet_mid_to_v",
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low(rank: int, seed: int = 1) -> Change:
    return Change(noise(5, rank, seed=seed), noise(rank, 7, seed=seed + 1))


def test_a_rank_loses_what_eckart_and_young_say():
    """The singular values that are left out, of all."""
    delta = noise(5, 7)
    values = torch.linalg.svdvals(delta)
    for rank in range(1, 6):
        reduced, lost = Adapter({"mid.to_k.weight": Change(delta)}, "SD 1.x").reduced(rank)
        change = reduced.changes["mid.to_k.weight"]
        expected = (values[rank:].square().sum() / values.square().sum()).sqrt().item()
        assert change.rank == rank and reduced.family == "SD 1.x"
        assert lost == pytest.approx(expected, abs=1e-6)
        assert (change.delta - delta).norm() / delta.norm() == pytest.approx(lost, abs=1e-5)
        assert reduced.numbers == rank * (5 + 7)


def test_what_is_lost_is_of_all_weights_together():
    """One weight of rank 1, which loses nothing, and one of two equal singular values, which loses one of them."""
    one, two = torch.outer(noise(5), noise(7)), torch.diag(torch.tensor([3.0, 3.0]))
    _, lost = Adapter({"mid.to_k.weight": Change(one), "mid.to_v.weight": Change(two)}).reduced(1)
    assert lost == pytest.approx((9 / (one.square().sum().item() + 18)) ** 0.5, rel=1e-5)


def test_what_is_no_matrix_or_of_lower_rank_stays_as_it_is():
    changes = {"conv.weight": Change(noise(4, 3, 3, 3)), "conv.bias": Change(noise(4)), "mid.to_k.weight": low(2)}
    reduced, lost = Adapter(changes).reduced(3)
    assert lost == 0 and all(reduced.changes[path] is change for path, change in changes.items())
    halved, lost = Adapter(changes).reduced(1)
    assert halved.changes["mid.to_k.weight"].rank == 1 and 0 < lost < 1
    assert Adapter({"conv.bias": Change(torch.zeros(4))}).reduced(1)[1] == 0  # nothing of nothing


def test_a_matrix_smaller_than_the_rank_loses_nothing():
    small, large = noise(2, 7), torch.outer(noise(5), noise(7))
    reduced, lost = Adapter({"mid.to_k.weight": Change(small), "mid.to_v.weight": Change(large)}).reduced(3)
    assert (reduced.changes["mid.to_k.weight"].rank, reduced.changes["mid.to_v.weight"].rank) == (2, 3)
    assert torch.allclose(reduced.changes["mid.to_k.weight"].delta, small, atol=1e-6) and lost < 1e-6


def test_a_rank_above_that_of_every_matrix_is_refused():
    changes = {
        "mid.to_k.weight": Change(noise(2, 7)),
        "mid.to_v.weight": Change(noise(5, 7)),
        "conv.bias": Change(noise(9)),
    }
    with pytest.raises(
        ValueError, match="rank is 6, but no matrix of the change has a rank above 5; 1 to 5 is allowed"
    ):
        Adapter(changes).reduced(6)


def test_a_lora_file_holds_every_kind_of_change():
    changes = {
        "mid.to_k.weight": low(2), "conv.weight": Change(noise(4, 3, 3, 3)), "conv.bias": Change(noise(4)),
        "mid.to_v.weight": Change(noise(5, 7)),
    }  # fmt: skip
    lora = Adapter(changes, "SD 1.x").to_lora(NAMES)
    assert set(lora) == {
        "lora_unet_mid_to_k.lora_up.weight", "lora_unet_mid_to_k.lora_down.weight", "lora_unet_mid_to_k.alpha",
        "lora_unet_conv.diff", "lora_unet_conv.diff_b", "lora_unet_mid_to_v.diff",
    }  # fmt: skip
    assert lora["lora_unet_mid_to_k.alpha"] == 2
    assert all(
        tensor.dtype == torch.float16
        for name, tensor in Adapter(changes).to_lora(NAMES, torch.float16).items()
        if "alpha" not in name
    )


@pytest.mark.parametrize(
    ("unet", "said"),
    [
        ({None: torch.ones(16, 8), 7: torch.ones(16, 8)}, r"is no Custom Diffusion of this model \(it holds None, 7\)"),
        ({NAME: torch.ones((1,) * 65)}, r'its "mid\.attn2\.to_k\.weight" is no finite tensor'),
    ],
    ids=["names that are no text", "65 dimensions"],
)
def test_a_damaged_custom_diffusion_is_refused_in_a_sentence(
    tmp_path: Path, unet: dict[object, torch.Tensor], said: str
):
    torch.save({"unet": unet}, tmp_path / "delta.bin")
    with pytest.raises(ValueError, match=said):
        read_custom_diffusion(tmp_path / "delta.bin", {NAME: NAME}, lambda _: torch.ones(16, 8), "cat")
