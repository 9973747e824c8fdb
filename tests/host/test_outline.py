"""What is read off ComfyUI's UNets is what their published shapes say."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from outlines import MICROWORLD, SD15, SDXL

SHAPES = {
    "sd15": {
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2] * 4,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
    },
    "sdxl": {
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [2] * 3,
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3,
        "transformer_depth_middle": 10,
    },
}


@pytest.mark.parametrize(("name", "expected"), [("sd15", SD15), ("sdxl", SDXL)])
def test_the_outline_of_a_family(comfyui: Any, name: str, expected: Any):
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from compositional_inversion.compinv_core.host.attention import outline

    shared = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_heads": 4}
    shared |= {"use_spatial_transformer": True, "context_dim": 16, "legacy": False, "device": torch.device("meta")}
    unet = UNetModel(**shared, **SHAPES[name], operations=comfy.ops.disable_weight_init)
    assert outline(SimpleNamespace(model=SimpleNamespace(diffusion_model=unet))) == expected


def test_the_outline_of_the_micro_world(microworld: Any):
    from compositional_inversion.compinv_core.families.unet import Outline
    from compositional_inversion.compinv_core.host.attention import outline

    found = outline(microworld[0])
    assert isinstance(found, Outline) and found.deepest == MICROWORLD.deepest
    assert repr(found.places) == repr(MICROWORLD.places)  # the pack's own class, under another package's name
