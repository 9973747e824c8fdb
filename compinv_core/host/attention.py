"""A UNet's cross-attention in ComfyUI: its outline, and patches that watch it or read by rules without disturbing others."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import comfy.model_patcher
import torch
from comfy.ldm.modules.attention import SpatialTransformer, attention_pytorch, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..attention.maps import attention_maps
from ..backbone import Encoded
from ..families.unet import Block, Group, Outline, Place
from ..reading.rules import BoundingRule, Look, Reading
from .model import predictor


def outline(model: Any) -> Outline:
    """What a MODEL's UNet has of cross-attention.

    Raises:
        ValueError: a model without cross-attention to text.
    """
    unet = _unet(model)
    places: list[Place] = []
    level = deepest = 0
    for part, modules in (
        ("input", unet.input_blocks),
        ("middle", [unet.middle_block]),
        ("output", unet.output_blocks),
    ):
        for index, module in enumerate(modules):
            depth = sum(len(m.transformer_blocks) for m in module.modules() if isinstance(m, SpatialTransformer))
            if depth:
                places.append(Place((part, index), depth, level))
            level += _has(module, Downsample) - _has(module, Upsample)  # which come last
        deepest = max(deepest, level)
    return Outline(tuple(places), deepest)


def guided_blocks(model: Any, height: int, width: int) -> list[Block]:
    """The blocks of a MODEL whose maps are used for a latent of this size, see `Outline`.

    Raises:
        ValueError: a model without cross-attention to text.
    """
    return outline(model).guided_blocks(height, width)


def _has(module: nn.Module, kind: type) -> bool:
    return any(isinstance(part, kind) for part in module.modules())


def _unet(model: Any) -> Any:
    unet = model.model.diffusion_model
    if not hasattr(unet, "output_blocks") or not _has(unet, SpatialTransformer):
        raise ValueError(
            f'The input "model" is a {type(model.model).__name__}, whose cross-attention cannot be read; '
            "SD 1.x, SD 2.x and SDXL checkpoints are supported."
        )
    return unet


class StopForward(Exception):
    """The last map is there; the rest of the forward pass is not needed."""


def until_last_map(run: Callable[[], Any]) -> None:
    """Run a forward pass that may end at its last map."""
    with suppress(StopForward):
        run()


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

    def see(self, block: Block, q: Tensor, k: Tensor, options: dict[str, Any], *, bias: Tensor | None = None) -> bool:
        """Whether the block's map is a new one. A block that is computed again for its backward shows the same once more."""
        prompts = options["uuids"]
        if self.prompt not in prompts or block not in self.blocks:
            return False
        which = prompts.index(self.prompt)
        q, k = q.chunk(len(prompts))[which], k.chunk(len(prompts))[which]
        height, width = options["activations_shape"][-2:]
        k = k[:, : self.length]  # prompts of unequal length are repeated, not padded
        shape = {"height": height, "width": width, "bias": bias}
        maps = checkpointed(attention_maps, q, k, heads=options["n_heads"], columns=self.columns, **shape)
        return self.maps.setdefault(block, maps) is maps

    @property
    def is_complete(self) -> bool:
        """Whether the last map is there."""
        return self.blocks[-1] in self.maps


def checkpointed(function: Callable[..., Tensor], *inputs: Tensor, **named: Any) -> Tensor:
    """What a function gives, of which a backward keeps the inputs alone and computes the rest again.

    The probabilities of SDXL's forty maps, in float32, would be a tenth of all that a guided pass keeps.
    """
    if not torch.is_grad_enabled():
        return function(*inputs, **named)
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **named))


def watch(model_options: dict[str, Any], captures: Sequence[Capture], stop: bool) -> dict[str, Any]:
    """A clone of model options under which blocks report their maps to `captures`, all of the same blocks.

    A replacement that another pack put on a block is called for the block's output. With `stop`, the pass ends by an
    exception right after the last map: see `until_last_map`.
    """

    def patch(block: Block, other: Replacement | None) -> Replacement:
        return _Watched(block, captures, stop, other)

    return _replaced(model_options, captures[0].blocks, patch)


def bound(
    model_options: dict[str, Any], blocks: Mapping[Block, Group], rules: Mapping[Any, BoundingRule], *, progress: float
) -> dict[str, Any]:
    """A clone of model options under which the self-attention of some conditionings is bounded by rules.

    Args:
        blocks: those that are bounded, each with its group.
        rules: ComfyUI's name for a conditioning -> its rule.
        progress: the fraction of the schedule that lies behind.
    """

    def patch(block: Block, other: Replacement | None) -> Replacement:
        return _Bounded(rules, progress, other)

    return _replaced(model_options, list(blocks), patch, name="attn1")


def steer(
    model_options: dict[str, Any],
    blocks: Mapping[Block, Group],
    readings: Mapping[Any, Reading],
    *,
    progress: float = 0.0,
    noise: float = 0.0,
    captures: Sequence[Capture] = (),
    stop: bool = False,
) -> dict[str, Any]:
    """A clone of model options under which cross-attention reads some conditionings by rules.

    Of a replacement that another pack put on a block, the output stays and what the rules change of plain attention is
    added: right for those that add something of their own to it, as IPAdapter does. Rules over rules add up in one bias.
    What is read without rules goes through ComfyUI's own choice of attention, bit for bit.

    Args:
        blocks: those that read by rules, each with its group.
        readings: ComfyUI's name for a conditioning -> how it is read.
        progress: the fraction of the schedule that lies behind.
        noise: the share of the model's own timesteps below this one.
        captures: see the maps of their blocks as they are read.
        stop: end the pass right after the last of these, see `until_last_map`.
    """

    def patch(block: Block, other: Replacement | None) -> Replacement:
        own = _Read(block, blocks[block], readings, progress, noise, captures=captures, stop=stop, other=other)
        return own.over(other) if isinstance(other, _Read) else own

    return _replaced(model_options, list(blocks), patch)


@dataclass(frozen=True)
class _Watched:
    """A block's cross-attention, whose map is looked at."""

    block: Block
    captures: Sequence[Capture]
    stop: bool
    other: Replacement | None

    has_backward: ClassVar[bool] = True

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        new = [capture.see(self.block, q, k, extra) for capture in self.captures]
        if self.stop and any(new) and all(capture.is_complete for capture in self.captures):
            raise StopForward
        return self.other(q, k, v, extra) if self.other else attention_pytorch(q, k, v, extra["n_heads"])


@dataclass(frozen=True)
class _Bounded:
    """A block's self-attention, of which some conditionings' is bounded.

    Where another pack has merged or tiled the cells it is left as it is, for nobody knows then which is where.
    """

    rules: Mapping[Any, BoundingRule]
    progress: float
    other: Replacement | None

    has_backward: ClassVar[bool] = True

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        prompts, (height, width), heads = extra["uuids"], extra["activations_shape"][-2:], extra["n_heads"]
        parts = [list(t.chunk(len(prompts))) for t in (q, k, v)]
        biases: list[Tensor | None] = [None] * len(prompts)
        if {q.shape[1], k.shape[1]} == {height * width}:
            looks = [
                Look(own, own, heads=heads, height=height, width=width, progress=self.progress) for own in parts[0]
            ]
            rules = [self.rules.get(prompt) for prompt in prompts]
            biases = [rule(look) if rule else None for rule, look in zip(rules, looks, strict=True)]
        if all(bias is None for bias in biases):
            return self.other(q, k, v, extra) if self.other else _plain(q, k, v, extra)
        theirs = self.other(q, k, v, extra).chunk(len(prompts)) if self.other else None
        found: list[Tensor] = []
        for i, (bias, *qkv) in enumerate(zip(biases, *parts, strict=True)):
            if bias is None:
                found.append(theirs[i] if theirs else _plain(qkv[0], qkv[1], qkv[2], extra))
            else:
                bounded = _biased(*qkv, bias=bias.to(q), heads=heads)
                found.append(theirs[i] + bounded - attention_pytorch(*qkv, heads) if theirs else bounded)
        return torch.cat(found)


@dataclass(frozen=True)
class _Read:
    """A block's cross-attention, which reads some conditionings by rules; see `steer`."""

    block: Block
    group: Group
    readings: Mapping[Any, Reading]
    progress: float
    noise: float
    captures: Sequence[Capture]
    stop: bool
    other: Replacement | None

    has_backward: ClassVar[bool] = True

    def over(self, before: "_Read") -> "_Read":
        """This and what another layout does, as one."""
        readings = dict(before.readings)
        for prompt, reading in self.readings.items():
            readings[prompt] = readings[prompt].then(reading) if prompt in readings else reading
        captures, stop = [*before.captures, *self.captures], before.stop or self.stop
        return replace(self, readings=readings, captures=captures, stop=stop, other=before.other)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        prompts = extra["uuids"]
        if not any(prompt in self.readings for prompt in prompts):
            return self.other(q, k, v, extra) if self.other else _plain(q, k, v, extra)
        theirs = self.other(q, k, v, extra).chunk(len(prompts)) if self.other else None
        parts: list[Tensor] = []
        new: list[bool] = []
        for i, (prompt, *qkv) in enumerate(zip(prompts, *(t.chunk(len(prompts)) for t in (q, k, v)), strict=True)):
            reading = self.readings.get(prompt)
            look = reading and self._look(reading, qkv[0], qkv[1], extra)
            bias = reading.bias(look) if reading and look else None
            if reading is None or look is None or bias is None:
                parts.append(theirs[i] if theirs else _plain(qkv[0], qkv[1], qkv[2], extra))
            else:
                bias = bias.to(qkv[0])
                read = _read(*qkv, bias=bias, window=reading.window(look), plain=reading.is_window, extra=extra)
                parts.append(theirs[i] + read - attention_pytorch(*qkv, extra["n_heads"]) if theirs else read)
            new += [c.see(self.block, q, k, extra, bias=bias) for c in self.captures if c.prompt == prompt]
        if self.stop and any(new) and all(capture.is_complete for capture in self.captures):
            raise StopForward
        return torch.cat(parts)

    def _look(self, reading: Reading, q: Tensor, k: Tensor, extra: dict[str, Any]) -> Look:
        height, width = extra["activations_shape"][-2:]
        k = k[:, : reading.contexts.length]  # prompts of unequal length are repeated, not padded
        return Look(
            q, k, heads=extra["n_heads"], height=height, width=width, group=self.group, place=self.block.place_name,
            progress=self.progress, noise=self.noise,
        )  # fmt: skip


def _read(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor, window: slice | None, plain: bool, extra: dict[str, Any]
) -> Tensor:
    """Attention by rules.

    Args:
        bias: (B or 1, N or 1, L), what they add.
        window: the columns that are read at all, the same for all cells; None for all.
        plain: whether a window's columns are read as they are, as if no others were there.
    """
    if window is None:
        return _biased(q, k, v, bias=bias, heads=extra["n_heads"])
    k, v = k[:, window], v[:, window]
    return _plain(q, k, v, extra) if plain else _biased(q, k, v, bias=bias[..., window], heads=extra["n_heads"])


def _plain(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
    """As the host would have it."""
    precision = extra["attn_precision"]
    return optimized_attention(q, k, v, extra["n_heads"], attn_precision=precision, transformer_options=extra)


def _biased(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor, heads: int) -> Tensor:
    """Attention with a bias (B or 1, N or 1, L), to each of the copies of L tokens."""
    copies = k.shape[1] // bias.shape[2]
    return attention_pytorch(q, k, v, heads, mask=bias.repeat(1, 1, copies)[:, None])


def _replaced(
    model_options: dict[str, Any],
    blocks: Sequence[Block],
    patch: Callable[[Block, Replacement | None], Replacement],
    name: str = "attn2",
) -> dict[str, Any]:
    """A clone of model options in which `patch` makes the blocks' cross-attention, of what replaced it before; "attn1" is their
    self-attention."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    present = options.get("transformer_options", {}).get("patches_replace", {}).get(name, {})
    made = {
        block: patch(block, present.get((*block.place, block.depth)) or present.get(block.place)) for block in blocks
    }
    for block, attend in made.items():
        part, number = block.place
        options = comfy.model_patcher.set_model_options_patch_replace(
            options, attend, name=name, block_name=part, number=number, transformer_index=block.depth
        )
    return options


def with_cloned_skips(model_options: dict[str, Any]) -> dict[str, Any]:
    """A clone of model options under which the encoder's outputs go on as copies: a ControlNet adds to the stored ones in
    place, when autograd already needs what went on.

    torch has `allow_mutation_on_saved_tensors` for it, which takes one tensor for another when an address is used again.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    patches = options.setdefault("transformer_options", {}).setdefault("patches", {})
    patches.setdefault("input_block_patch_after_skip", []).append(lambda h, _: h.clone())
    return options


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
