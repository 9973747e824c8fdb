"""What one guided pass costs, in forward passes of the UNet: FLOPs on meta tensors, for SD 1.5 at 512 and SDXL at 1024 px.

    COMFYUI_PATH=... python benchmarks/sampling.py

A pass runs the UNet for one picture up to the last map that the energy needs, and back to the latent. The limits for the
maps of the paper are 1.047 (SD 1.5) and 1.601 (SDXL).
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.path.append(str(Path(__file__).parent.parent))

from comfy.cli_args import args

args.cpu = args.use_pytorch_cross_attention = True  # before anything of ComfyUI looks for a device

import comfy.ops  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

from compinv_core.attention import layout_energy  # noqa: E402
from compinv_core.host.attention import Capture, guided_blocks, until_last_map, watch  # noqa: E402
from compinv_core.layout import default_layout  # noqa: E402

SHARED = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True}
ARCHITECTURES: dict[str, tuple[int, dict[str, Any]]] = {
    "SD 1.5, 512 px": (
        64,
        {
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": (1, 2, 4, 4),
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
            "num_heads": 8,
            "context_dim": 768,
        },
    ),
    "SDXL, 1024 px": (
        128,
        {
            "num_res_blocks": [2, 2, 2],
            "channel_mult": (1, 2, 4),
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
            "num_head_channels": 64,
            "context_dim": 2048,
            "use_linear_in_transformer": True,
            "num_classes": "sequential",
            "adm_in_channels": 2816,
        },
    ),
}


def costs(side: int, config: dict[str, Any]) -> tuple[int, int]:
    """FLOPs of a forward pass and of a guided pass, for one picture of `side` x `side` latent cells."""
    unet = UNetModel(**SHARED, **config, device="meta", operations=comfy.ops.disable_weight_init).requires_grad_(False)
    latents = torch.zeros(1, 4, side, side, device="meta", requires_grad=True)
    text = torch.zeros(1, 77, config["context_dim"], device="meta")
    size = torch.zeros(1, config.get("adm_in_channels", 0), device="meta") if "adm_in_channels" in config else None
    blocks = guided_blocks(SimpleNamespace(model=SimpleNamespace(diffusion_model=unet)), side, side)
    regions = default_layout(["cat", "car"]).regions

    def forward(z: torch.Tensor, options: dict[str, Any]) -> None:
        unet(z, torch.zeros(1, device="meta"), text, y=size, transformer_options=options)

    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        forward(latents, {})
    with FlopCounterMode(display=False) as guided:
        z = latents.clone()  # the counter cannot differentiate with respect to what enters a module
        capture = Capture([4, 7], 77, {})
        options = watch({"transformer_options": {}}, blocks, capture, stop=True)["transformer_options"]
        until_last_map(lambda: forward(z, options))
        maps = [capture.maps[block] for block in blocks]
        cells = [torch.stack([region.cells(*m.shape[-2:]) for region in regions]) for m in maps]
        torch.autograd.grad(layout_energy(maps, [0, 1], cells).sum(), latents)
    return plain.get_total_flops(), guided.get_total_flops()


if __name__ == "__main__":
    for name, (side, config) in ARCHITECTURES.items():
        plain, guided = costs(side, config)
        maximum = 1 + 50 * guided / (100 * plain)
        print(f"{name}: forward {plain / 1e9:.0f} GFLOP; a guided pass {guided / plain:.3f} forwards;")
        print(f"  50 steps with CFG and the paper's maximum of 50 guided passes: {maximum:.3f} of plain sampling")
