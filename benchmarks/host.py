"""ComfyUI for the benchmarks: full-size architectures on meta tensors, and what a goal's line looks like."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.path.append(str(ROOT))

from comfy.cli_args import args  # noqa: E402

args.cpu = args.use_pytorch_cross_attention = True  # before anything of ComfyUI looks for a device

import comfy.model_base  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402

comfy.utils.set_progress_bar_enabled(False)

SHARED = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True}


class _Sizes(torch.nn.Module):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def forward(self, sizes: torch.Tensor) -> torch.Tensor:
        return torch.empty(len(sizes), 256, device=self.device)


@dataclass(frozen=True)
class Architecture:
    """A family of checkpoints at the size it was made for. `side` is in latent cells."""

    name: str
    side: int
    config: str  # in comfy.supported_models
    unet: dict[str, Any]

    def model(self, device: str = "meta", dtype: torch.dtype = torch.float32) -> Any:
        """A MODEL with weights that hold nothing."""
        config = getattr(comfy.supported_models, self.config)({**SHARED, **self.unet})
        config.set_inference_dtype(dtype, None)
        kind = comfy.model_base.SDXL if self.config == "SDXL" else comfy.model_base.BaseModel
        base = kind(config, device=device)
        base.diffusion_model.requires_grad_(False)
        if self.config == "SDXL":  # its size embedding is made on the CPU, which a meta tensor cannot meet
            base.embedder = _Sizes(device)
        return comfy.model_patcher.ModelPatcher(base, torch.device(device), torch.device(device))

    def clip(self, device: str = "meta") -> Any:
        """A CLIP with weights that hold nothing, and its real tokenizer."""
        module = comfy.sdxl_clip if self.config == "SDXL" else comfy.sd1_clip
        prefix = "SDXL" if self.config == "SDXL" else "SD1"
        model = getattr(module, f"{prefix}ClipModel")(device=device, dtype=torch.float32)
        clip = comfy.sd.CLIP(no_init=True)
        clip.cond_stage_model, clip.tokenizer = model.requires_grad_(False), getattr(module, f"{prefix}Tokenizer")()
        clip.patcher = comfy.model_patcher.ModelPatcher(model, torch.device(device), torch.device(device))
        clip.layer_idx, clip.tokenizer_options, clip.use_clip_schedule, clip.apply_hooks_to_conds = (
            None,
            {},
            False,
            None,
        )
        return clip


SD15 = Architecture(
    "sd15",
    64,
    "SD15",
    {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": (1, 2, 4, 4),
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "context_dim": 768,
    },
)
SDXL = Architecture(
    "sdxl",
    128,
    "SDXL",
    {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": (1, 2, 4),
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "context_dim": 2048,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
)
missed: list[str] = []


def goal(number: str, name: str, value: float, bound: float, anchor: str = "") -> None:
    """One line for a goal of the project: what was measured, what it must not exceed, what peers pay."""
    good = value <= bound
    if not good:
        missed.append(f"{number} {name}")
    peers = f"  ({anchor})" if anchor else ""
    print(f"{number} {name} {value:.4g} goal<={bound:g} {'pass' if good else 'MISSED'}{peers}", flush=True)


def stated(number: str, name: str, value: float, why: str) -> None:
    """One line for what is measured beside a goal, and has none."""
    print(f"{number} {name} {value:.4g} no goal  ({why})", flush=True)
