"""The main job in a real server on checkpoints of other families: whole text encoders, a small UNet, random weights.

The stock loader knows SDXL by the depth of its UNet's encoder alone, so this one has all blocks of it; but every level is as
narrow as the first, and middle and decoder are shallow: 0.2 of 2.6 billion parameters. With both text encoders, which the loader
always builds whole, it is a file of 2.0 GB.
"""

import ctypes
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from test_server import inputs_of, short
from workflow import find

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [1, 1],
    "channel_mult": [1, 1], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip
FAMILIES = {
    "sd1": ("SD15", {"context_dim": 768, "use_linear_in_transformer": False, "num_heads": 8}),
    "sd2": ("SD20", {"context_dim": 1024, "use_linear_in_transformer": True}),
    "sdxl": (
        "SDXL",
        {
            "context_dim": 2048, "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 2816,
            "num_res_blocks": [2, 2, 2], "channel_mult": [1, 1, 1], "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 2, 2, 2], "transformer_depth_middle": 2,
        },
    ),
}  # fmt: skip
ENCODERS = {"sd1": {"clip_l"}, "sd2": {"clip_h"}, "sdxl": {"clip_l", "clip_g"}}
GIB = 2**30
ROOM = {"sdxl": (8 * GIB, 3 * GIB)}  # of memory and disk; the server takes 7 and the file 2


def filled(module: torch.nn.Module, generator: torch.Generator) -> None:
    pool = torch.randn(16_777_213, generator=generator)  # a prime number: where it begins anew, no row is one of before
    for name, weight in module.named_parameters():
        begin = int(torch.randint(len(pool), (), generator=generator))
        end = begin + weight.numel()
        noise = pool.expand(-(-end // len(pool)), -1).flatten()[begin:end].view(weight.shape)
        scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.02
        weight.copy_(noise * scale + (1 if "norm" in name and name.endswith("weight") else 0))


def write(file: Path, family: str, vae: Any) -> None:
    """A checkpoint in half precision, as most are."""
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models

    kind, unet = FAMILIES[family]
    config, generator = getattr(comfy.supported_models, kind)({**UNET, **unet}), torch.Generator().manual_seed(0)
    config.set_inference_dtype(torch.float16, None)
    with torch.inference_mode():
        model = config.get_model({}, device="cpu")
        filled(model.diffusion_model, generator)
        clip = comfy.sd.CLIP(config.clip_target({}))
        filled(clip.cond_stage_model, generator)
        patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
        comfy.sd.save_checkpoint(str(file), patcher, clip, vae)


def need_room(family: str, folder: Path) -> None:
    memory, disk = ROOM.get(family, (0, 0))
    free = psutil.virtual_memory().available, shutil.disk_usage(folder).free
    if free[0] < memory or free[1] < disk:
        pytest.skip(
            f"{family} needs {memory / GIB:.0f} GiB of memory and {disk / GIB:.0f} of disk; "
            f"{free[0] / GIB:.1f} and {free[1] / GIB:.1f} are free."
        )


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One of their own, whose memory ends with these tests."""
    from comfy_server import ComfyServer

    folder = tmp_path_factory.mktemp("families")
    (folder / "input" / "two").mkdir(parents=True)
    for picture in sorted((base / "input" / "zippy").iterdir())[:2]:
        shutil.copy(picture, folder / "input" / "two")
    with ComfyServer(folder) as running:
        yield running


@pytest.fixture
def checkpoint(server: Any, microworld: Any, request: pytest.FixtureRequest) -> Any:
    """Its name for the stock loader."""
    need_room(request.param, server.base)
    file = server.base / "models" / "checkpoints" / f"{request.param}.safetensors"
    try:
        write(file, request.param, microworld[2])
        with suppress(OSError, AttributeError):  # else glibc keeps the memory of freed weights, 1.8 GiB for SDXL
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        yield file.name
    finally:
        file.unlink(missing_ok=True)


@pytest.mark.parametrize("checkpoint", ["sdxl", "sd2", "sd1"], indirect=True)  # what a large one frees serves the next
def test_the_main_job_runs_on_the_family(server: Any, checkpoint: str):
    family = checkpoint.split(".")[0]
    prompt = short(server, steps=2)
    inputs_of(prompt, "CompInvTrain")["batch"] = 2
    inputs_of(prompt, "CompInvLayoutRecover")["steps"] = 4
    inputs_of(prompt, "CheckpointLoaderSimple")["ckpt_name"] = checkpoint
    prompt = json.loads(json.dumps(prompt).replace("zippy", f"{family}-car"))
    inputs_of(prompt, "CompInvLoadPictures")["folder"] = "two"
    outputs = server.run(prompt)
    assert len(outputs[find(prompt, "Composition")]["images"]) == 4
    assert set(load_file(server.base / "models" / "embeddings" / f"{family}-car.safetensors")) == ENCODERS[family]
