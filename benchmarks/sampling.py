"""What a guided pass costs, in forward passes of the UNet: FLOPs on meta tensors (PERFORMANCE: S1, S2).

A pass runs the UNet for one picture up to the last map that the energy needs, and back to the latent. The limits for the
maps of the paper are 1.047 (SD 1.5 at 512 px) and 1.601 (SDXL at 1024 px).
"""

from typing import Any

import torch
from host import SD15, SDXL, Architecture, goal
from torch.utils.flop_counter import FlopCounterMode

from compinv_core.attention import layout_energy
from compinv_core.host.attention import Capture, guided_blocks, until_last_map, watch
from compinv_core.layout import default_layout

GOALS = {"sd15": (1.10, 1.55, "1.553 official"), "sdxl": (1.65, 1.83, "1.833 official")}


def costs(architecture: Architecture) -> tuple[int, int]:
    """FLOPs of a forward pass and of a guided pass, for one picture."""
    model, config = architecture.model(), architecture.unet
    unet, side = model.model.diffusion_model, architecture.side
    latents = torch.zeros(1, 4, side, side, device="meta", requires_grad=True)
    text = torch.zeros(1, 77, config["context_dim"], device="meta")
    size = torch.zeros(1, config["adm_in_channels"], device="meta") if "adm_in_channels" in config else None
    blocks = guided_blocks(model, side, side)
    regions = default_layout(["cat", "car"]).regions

    def forward(z: torch.Tensor, options: dict[str, Any]) -> None:
        unet(z, torch.zeros(1, device="meta"), text, y=size, transformer_options=options)

    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        forward(latents, {})
    with FlopCounterMode(display=False) as guided:
        z = latents.clone()  # the counter cannot differentiate with respect to what enters a module
        capture = Capture(blocks, "mine", [4, 7], 77)
        options = watch({"transformer_options": {"uuids": ["mine"]}}, [capture], stop=True)["transformer_options"]
        until_last_map(lambda: forward(z, options))
        maps = [capture.maps[block] for block in blocks]
        cells = [torch.stack([region.cells(*m.shape[-2:]) for region in regions]) for m in maps]
        torch.autograd.grad(layout_energy(maps, [0, 1], cells).sum(), latents)
    return plain.get_total_flops(), guided.get_total_flops()


def main() -> None:
    for architecture in (SD15, SDXL):
        plain, guided = costs(architecture)
        one, whole, anchor = GOALS[architecture.name]
        goal("S1", architecture.name, guided / plain, one, anchor)
        # 50 steps with CFG and the paper's maximum of 50 guided passes
        goal("S2", architecture.name, 1 + 50 * guided / (100 * plain), whole)
