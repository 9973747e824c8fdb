"""Models in half precision, as ComfyUI loads them for a GPU: what is learnt through them is what float32 learns."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import pictures_of, train

from compinv_core.training import loop


def loaded(base: Path, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the micro world whose UNet has these weights and computes with them."""
    import comfy.sd

    file = base / "models" / "checkpoints" / "microworld.safetensors"
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(file), model_options={"dtype": dtype})
    model.model.manual_cast_dtype = None  # where the CPU would rather have float32
    assert model.model.get_dtype() == dtype
    return model, clip, vae


@dataclass(frozen=True)
class Larger(loop.Task):
    """Of larger latents, of which the model is shown a corner of 8 x 8 cells: of the others' error nothing is to be learnt."""

    def reconstruction(self, vectors: Any, batch: Any) -> torch.Tensor:
        corner = loop.Task(**{**vars(self), "latents": self.latents[..., :8, :8]})
        share = 8 * 8 / self.latents[0, 0].numel()
        return share * corner.reconstruction(vectors, replace(batch, noise=batch.noise[..., :8, :8]))


def gradient(pack: Any, base: Path, monkeypatch: Any, dtype: torch.dtype, side: int) -> torch.Tensor:
    """Of the first step on latents of side x side cells, as the optimiser meets it."""
    module, found = sys.modules["compositional_inversion.compinv_core.host.training"], list[torch.Tensor]()

    def first_step(start: Any, scale: Any, task: Any, *rest: Any) -> Any:
        larger = Larger(**{**vars(task), "latents": task.latents.repeat(1, 1, side // 8, side // 8)})
        end = loop.train(start, scale, larger, *rest)
        found.append(end.optimizer["state"][0]["exp_avg"])
        return end

    monkeypatch.setattr(module, "train", first_step)
    train(pack, loaded(base, dtype), pictures_of("mittens"), steps=1, batch=4)
    return found[0]


@pytest.mark.parametrize(
    ("dtype", "side", "alike"),
    [(torch.float16, 64, 0.99), (torch.float16, 128, 0.99), (torch.bfloat16, 64, 0.95)],  # 11 bits and 8 of precision
)
def test_the_gradient_is_float32s(pack: Any, base: Path, monkeypatch: Any, dtype: torch.dtype, side: int, alike: float):
    """At the latents of SD 1.5 and SDXL, of whose values float16 would lose each one's gradient."""
    half, single = (gradient(pack, base, monkeypatch, kind, side) for kind in (dtype, torch.float32))
    assert torch.cosine_similarity(half.flatten(), single.flatten(), dim=0) > alike
    assert half.norm() / single.norm() == pytest.approx(1, abs=0.1)


def test_float32_does_not_notice_the_scale(pack: Any, base: Path, monkeypatch: Any):
    words = [train(pack, loaded(base, torch.float32), pictures_of("mittens"))[0].vectors["clip_l"]]
    monkeypatch.setattr(sys.modules["compositional_inversion.compinv_core.training.loop"].Task, "scale", 1.0)
    words.append(train(pack, loaded(base, torch.float32), pictures_of("mittens"))[0].vectors["clip_l"])
    assert torch.equal(*words)
