"""What we know of a UNet's cross-attention: its blocks, and patches that watch it without disturbing others."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import torch
from comfy.ldm.modules.attention import SpatialTransformer, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample
from torch import Tensor

from ..attention import attention_maps

FINE_ENOUGH = 8  # cells along the shorter side of a map


@dataclass(frozen=True)
class Block:
    """One cross-attention: `place` is ComfyUI's name of the block, `depth` the index within its transformer."""

    place: tuple[str, int]
    depth: int


def guided_blocks(model: Any, height: int, width: int) -> list[Block]:
    """The blocks whose maps are used: the middle and the first decoder level with attention, as in the paper.

    Further decoder levels are added until a map has 8 cells along its shorter side, as the paper's have at 512 px;
    on a small canvas the coarse levels alone could not tell two subjects apart.

    Args:
        height, width: of the latent.

    Raises:
        ValueError: a model without cross-attention to text.
    """
    unet = model.model.diffusion_model
    if not hasattr(unet, "output_blocks") or not any(isinstance(m, SpatialTransformer) for m in unet.modules()):
        raise ValueError(
            f'The input "model" is a {type(model.model).__name__}, whose cross-attention cannot be read; '
            "SD 1.x, SD 2.x and SDXL checkpoints are supported."
        )

    def blocks(name: str, index: int, module: Any) -> list[Block]:
        depth = sum(len(m.transformer_blocks) for m in module.modules() if isinstance(m, SpatialTransformer))
        return [Block((name, index), d) for d in range(depth)]

    used = blocks("middle", 0, unet.middle_block)
    levels: list[list[Block]] = [[]]
    for index, module in enumerate(unet.output_blocks):
        levels[-1] += blocks("output", index, module)
        if any(isinstance(m, Upsample) for m in module.modules()):
            levels.append([])
    side = min(height, width) // 2 ** (len(levels) - 1)
    for level in levels:
        used += level
        if level and side >= FINE_ENOUGH:
            break
        side *= 2
    return used


class _Enough(Exception):
    """The last map is there; the rest of the forward pass is not needed."""


@dataclass
class Capture:
    """Maps seen in one forward pass: block -> (B, P, h, w), conditional branch only."""

    columns: Sequence[int]
    length: int  # of the prompt, in tokens
    maps: dict[Block, Tensor]

    def see(self, block: Block, q: Tensor, k: Tensor, options: dict[str, Any]) -> None:
        branches = options.get("cond_or_uncond") or [0]
        if 0 not in branches:
            return
        which = branches.index(0)
        q, k = q.chunk(len(branches))[which], k.chunk(len(branches))[which]
        height, width = options["activations_shape"][-2:]
        copies = max(1, k.shape[1] // self.length)  # prompts of unequal length are repeated, not padded
        columns = [copy * self.length + column for column in self.columns for copy in range(copies)]
        maps = attention_maps(q, k, options["n_heads"], columns, height, width)
        self.maps[block] = maps.unflatten(1, (len(self.columns), copies)).sum(dim=2)


def watch(model_options: dict[str, Any], blocks: Sequence[Block], capture: Capture, stop: bool) -> dict[str, Any]:
    """A clone of model options under which `blocks` report their maps to `capture`.

    A replacement that another pack put on a block is called for the block's output. With `stop`, the pass ends by an
    exception right after the last map: see `until_last_map`.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    present = options.get("transformer_options", {}).get("patches_replace", {}).get("attn2", {})
    last = blocks[-1]

    def patch(block: Block) -> Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]:
        other = present.get((*block.place, block.depth)) or present.get(block.place)

        def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            capture.see(block, q, k, extra)
            if stop and block == last:
                raise _Enough
            return other(q, k, v, extra) if other else attention_pytorch(q, k, v, extra["n_heads"])

        return attend

    for block in blocks:
        name, number = block.place
        options = comfy.model_patcher.set_model_options_patch_replace(
            options, patch(block), "attn2", name, number, block.depth
        )
    return options


def until_last_map(run: Callable[[], Any]) -> None:
    """Run a forward pass that may end at its last map."""
    with suppress(_Enough):
        run()


def resized_mean(maps: Sequence[Tensor], height: int, width: int) -> Tensor:
    """The mean of maps (B, P, h, w) of several sizes: (B, P, height, width)."""
    sized = [torch.nn.functional.interpolate(m.float(), size=(height, width), mode="bilinear") for m in maps]
    return torch.stack(sized).mean(dim=0)
