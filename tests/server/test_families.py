"""The main job in a real server on checkpoints of other families: whole text encoders, a shallow UNet, random weights.

SDXL is not among them: the stock loader knows it by its depth alone, so its smallest kin has 3 GB.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_server import inputs_of, short
from workflow import find

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip
FAMILIES = {
    "sd1": ("SD15", {"context_dim": 768, "use_linear_in_transformer": False, "num_heads": 8}),
    "sd2": ("SD20", {"context_dim": 1024, "use_linear_in_transformer": True}),
}


def filled(module: torch.nn.Module, generator: torch.Generator) -> None:
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.02
        weight.copy_(noise * scale + (1 if "norm" in name and name.endswith("weight") else 0))


@pytest.fixture
def checkpoint(base: Path, microworld: Any, request: pytest.FixtureRequest) -> Any:
    """Its name for the stock loader."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models

    kind, unet = FAMILIES[request.param]
    config, generator = getattr(comfy.supported_models, kind)({**UNET, **unet}), torch.Generator().manual_seed(0)
    config.set_inference_dtype(torch.float32, None)
    with torch.inference_mode():
        model = comfy.model_base.BaseModel(config, device="cpu")
        filled(model.diffusion_model, generator)
        clip = comfy.sd.CLIP(config.clip_target({}))
        filled(clip.cond_stage_model, generator)
        patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
        file = base / "models" / "checkpoints" / f"{request.param}.safetensors"
        comfy.sd.save_checkpoint(str(file), patcher, clip, microworld[2])
    yield file.name
    file.unlink()


@pytest.mark.parametrize("checkpoint", list(FAMILIES), indirect=True)
def test_the_main_job_runs_on_the_family(server: Any, checkpoint: str):
    prompt = short(server)
    inputs_of(prompt, "CheckpointLoaderSimple")["ckpt_name"] = checkpoint
    prompt = json.loads(json.dumps(prompt).replace("zippy", f"{checkpoint.split('.')[0]}-car"))
    inputs_of(prompt, "LoadImageDataSetFromFolder")["folder"] = "zippy"
    outputs = server.run(prompt)
    assert len(outputs[find(prompt, "Composition")]["images"]) == 4
