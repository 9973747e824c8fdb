"""Models in half precision, as ComfyUI loads them for a GPU: what is learnt through them is what float32 learns."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.training.concept_training import ConceptTraining
from compositional_inversion.compinv_core.training.loop import as_leaves
from compositional_inversion.compinv_core.training.recipe import Recipe
from compositional_inversion.compinv_core.training.request import Request
from compositional_inversion.compinv_core.training.task import Task
from test_training import pictures_of


def loaded(base: Path, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the micro world whose UNet has these weights and computes with them."""
    import comfy.sd

    file = base / "models" / "checkpoints" / "microworld.safetensors"
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(file), model_options={"dtype": dtype})
    model.model.manual_cast_dtype = None  # where the CPU would rather have float32
    assert model.model.get_dtype() == dtype
    return model, clip, vae


@dataclass(frozen=True, eq=False)
class Larger(Task):
    """Of larger latents, of which the model is shown a corner of 8 x 8 cells: of the others' error nothing is to be learnt."""

    def reconstruction(self, parameters: Any, batch: Any) -> torch.Tensor:
        latents = self.data.latents
        corner = Task(**{**vars(self), "data": replace(self.data, latents=latents[..., :8, :8])})
        share = 8 * 8 / latents[0, 0].numel()
        return share * corner.reconstruction(parameters, replace(batch, noise=batch.noise[..., :8, :8]))


def gradient(base: Path, dtype: torch.dtype, side: int) -> torch.Tensor:
    """Of the first step on latents of side x side cells, as the optimiser meets it."""
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone

    request = Request("mine", "cat", pictures_of("mittens"), resolution=64, vectors=2)
    run = ConceptTraining(ComfyBackbone(*loaded(base, dtype)), [request], Recipe(batch=4))
    with torch.inference_mode():
        data = run.material().data
    with torch.inference_mode(False), torch.enable_grad(), run.backbone.trainable(False, 0):
        larger = replace(data.clone(), latents=data.latents.clone().repeat(1, 1, side // 8, side // 8))
        task = Larger.on(run.backbone, larger, run.way, run.recipe)
        leaves = as_leaves(run.way.start(), run.backbone.device, {"mine/clip_l"})
        drawn = task.draw(torch.Generator().manual_seed(0))
        task.backward(leaves, drawn, 1, torch.tensor(task.loss_scale), 4)
    assert leaves["mine/clip_l"].grad is not None
    return leaves["mine/clip_l"].grad


@pytest.mark.parametrize(
    ("dtype", "side", "least_cosine"),
    [(torch.float16, 64, 0.99), (torch.float16, 128, 0.99), (torch.bfloat16, 64, 0.95)],  # 11 bits and 8 of precision
)
def test_the_gradient_is_float32s(pack: Any, base: Path, dtype: torch.dtype, side: int, least_cosine: float):
    """At the latents of SD 1.5 and SDXL, of whose values float16 would lose each one's gradient."""
    half, single = (gradient(base, kind, side) for kind in (dtype, torch.float32))
    assert torch.cosine_similarity(half.flatten(), single.flatten(), dim=0) > least_cosine
    assert half.norm() / single.norm() == pytest.approx(1, abs=0.1)
