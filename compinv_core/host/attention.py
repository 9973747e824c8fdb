"""What we know of a UNet's cross-attention: its blocks, and patches that watch or steer it without disturbing others."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import torch
from comfy.ldm.modules.attention import SpatialTransformer, attention_pytorch, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..attention import attention_maps
from ..backbone import Encoded
from .model import predictor

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
    unet = _unet(model)
    used = _blocks("middle", 0, unet.middle_block)
    levels: list[list[Block]] = [[]]
    for index, module in enumerate(unet.output_blocks):
        levels[-1] += _blocks("output", index, module)
        if any(isinstance(m, Upsample) for m in module.modules()):
            levels.append([])
    side = min(height, width) // 2 ** (len(levels) - 1)
    for level in levels:
        used += level
        if level and side >= FINE_ENOUGH:
            break
        side *= 2
    return used


def all_blocks(model: Any) -> list[Block]:
    """Every cross-attention of a model, in the order in which they run.

    Raises:
        ValueError: a model without cross-attention to text.
    """
    unet = _unet(model)
    parts = [("input", i, module) for i, module in enumerate(unet.input_blocks)]
    parts += [("middle", 0, unet.middle_block)]
    parts += [("output", i, module) for i, module in enumerate(unet.output_blocks)]
    return [block for part in parts for block in _blocks(*part)]


def _unet(model: Any) -> Any:
    unet = model.model.diffusion_model
    if not hasattr(unet, "output_blocks") or not any(isinstance(m, SpatialTransformer) for m in unet.modules()):
        raise ValueError(
            f'The input "model" is a {type(model.model).__name__}, whose cross-attention cannot be read; '
            "SD 1.x, SD 2.x and SDXL checkpoints are supported."
        )
    return unet


def _blocks(name: str, index: int, module: Any) -> list[Block]:
    depth = sum(len(m.transformer_blocks) for m in module.modules() if isinstance(m, SpatialTransformer))
    return [Block((name, index), d) for d in range(depth)]


class _Enough(Exception):
    """The last map is there; the rest of the forward pass is not needed."""


Replacement = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
"""(q, k, v, options) -> the output of one cross-attention; q, k, v are (B, tokens, heads*d), B over all prompts in a pass."""


@dataclass
class Capture:
    """Maps seen in one forward pass: block -> (B, P, h, w), of one conditioning.

    Attributes:
        blocks: those that are looked at.
        prompt: ComfyUI's name for the conditioning, which may come in any order and in several passes.
        columns: P token columns, of `length`.
    """

    blocks: Sequence[Block]
    prompt: Any
    columns: Sequence[int]
    length: int
    maps: dict[Block, Tensor] = field(default_factory=dict[Block, Tensor])

    def see(self, block: Block, q: Tensor, k: Tensor, options: dict[str, Any], bias: Tensor | None = None) -> bool:
        """Whether the block's map is a new one. A block that is computed again for its backward shows the same once more."""
        prompts = options["uuids"]
        if self.prompt not in prompts or block not in self.blocks:
            return False
        which = prompts.index(self.prompt)
        q, k = q.chunk(len(prompts))[which], k.chunk(len(prompts))[which]
        height, width = options["activations_shape"][-2:]
        k = k[:, : self.length]  # prompts of unequal length are repeated, not padded
        maps = _not_kept(attention_maps, q, k, options["n_heads"], self.columns, height, width, bias)
        return self.maps.setdefault(block, maps) is maps


def _not_kept(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """What a function gives, of which a backward keeps the inputs alone and computes the rest again.

    The probabilities of SDXL's forty maps, in float32, would be a tenth of all that a guided pass keeps.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def watch(model_options: dict[str, Any], captures: Sequence[Capture], stop: bool) -> dict[str, Any]:
    """A clone of model options under which blocks report their maps to `captures`, all of the same blocks.

    A replacement that another pack put on a block is called for the block's output. With `stop`, the pass ends by an
    exception right after the last map: see `until_last_map`.
    """
    blocks = captures[0].blocks

    def patch(block: Block, other: Replacement | None) -> Replacement:
        def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            new = [capture.see(block, q, k, extra) for capture in captures]
            if stop and any(new) and all(blocks[-1] in capture.maps for capture in captures):
                raise _Enough
            return other(q, k, v, extra) if other else attention_pytorch(q, k, v, extra["n_heads"])

        return attend

    return _replaced(model_options, blocks, patch)


Bias = Callable[[Tensor, Tensor, int, int, int], Tensor]
"""(q, k, heads, h, w) -> (B, h*w, L) or of size 1 along the first two, what is added to the logits of a map's cells."""


def steer(
    model_options: dict[str, Any], blocks: Sequence[Block], biases: Mapping[Any, Bias], captures: Sequence[Capture] = ()
) -> dict[str, Any]:
    """A clone of model options under which cross-attention to some conditionings is steered.

    Of a replacement that another pack put on a block, the output is kept and what steering changes of plain attention is
    added: right for those that add something of their own to it, as IPAdapter does. Whatever is not steered goes
    through ComfyUI's own choice of attention, bit for bit.

    Args:
        blocks: those that are steered.
        biases: ComfyUI's name for a conditioning -> its bias.
        captures: see the maps of their blocks as they are steered.
    """

    def patch(block: Block, other: Replacement | None) -> Replacement:
        def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
            heads, prompts = extra["n_heads"], extra["uuids"]

            def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                precision = extra["attn_precision"]
                return optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=extra)

            if not any(prompt in biases for prompt in prompts):
                return other(q, k, v, extra) if other else plain(q, k, v)
            theirs = other(q, k, v, extra).chunk(len(prompts)) if other else None
            height, width = extra["activations_shape"][-2:]
            parts: list[Tensor] = []
            for i, (prompt, *qkv) in enumerate(zip(prompts, *(t.chunk(len(prompts)) for t in (q, k, v)), strict=True)):
                if prompt not in biases:
                    parts.append(theirs[i] if theirs else plain(*qkv))
                    continue
                bias = biases[prompt](*qkv[:2], heads, height, width).to(q)
                copies = k.shape[1] // bias.shape[2]
                steered = attention_pytorch(*qkv, heads, mask=bias.repeat(1, 1, copies)[:, None])
                parts.append(theirs[i] + steered - attention_pytorch(*qkv, heads) if theirs else steered)
                for capture in (c for c in captures if c.prompt == prompt):
                    capture.see(block, q, k, extra, bias)
            return torch.cat(parts)

        return attend

    return _replaced(model_options, blocks, patch)


def _replaced(
    model_options: dict[str, Any],
    blocks: Sequence[Block],
    patch: Callable[[Block, Replacement | None], Replacement],
) -> dict[str, Any]:
    """A clone of model options in which `patch` makes the blocks' cross-attention, of what replaced it before."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    present = options.get("transformer_options", {}).get("patches_replace", {}).get("attn2", {})
    made = {
        block: patch(block, present.get((*block.place, block.depth)) or present.get(block.place)) for block in blocks
    }
    for block, attend in made.items():
        options = comfy.model_patcher.set_model_options_patch_replace(
            options, attend, "attn2", *block.place, block.depth
        )
    return options


def skips_apart(model_options: dict[str, Any]) -> dict[str, Any]:
    """A clone of model options under which the encoder's outputs go on as copies: a ControlNet adds to the kept ones in
    place, when autograd already needs what went on.

    torch has `allow_mutation_on_saved_tensors` for it, which takes one tensor for another when an address is used again.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    patches = options.setdefault("transformer_options", {}).setdefault("patches", {})
    patches.setdefault("input_block_patch_after_skip", []).append(lambda h, _: h.clone())
    return options


def until_last_map(run: Callable[[], Any]) -> None:
    """Run a forward pass that may end at its last map."""
    with suppress(_Enough):
        run()


def attention_to(model: Any, prompt: Encoded, columns: Sequence[int], noisy: Tensor, timesteps: Tensor) -> list[Tensor]:
    """The attention of each of the blocks that are guided to P token columns of one prompt: (B, P, h, w) each.

    Args:
        noisy, timesteps: (B, C, h, w) and (B,), what the UNet is shown, as far as the last of these blocks.
    """
    context, pooled = prompt.context, prompt.pooled
    capture = Capture(guided_blocks(model, *noisy.shape[-2:]), "asked", columns, context.shape[1])
    seeing = model.clone()
    seeing.model_options = watch(seeing.model_options, [capture], stop=True)
    seeing.model_options["transformer_options"]["uuids"] = ["asked"]
    asked = Encoded(context.expand(len(noisy), -1, -1), pooled.expand(len(noisy), -1))
    until_last_map(lambda: predictor(seeing)(noisy, timesteps, asked))
    return list(capture.maps.values())
