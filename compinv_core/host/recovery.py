"""Spatial inversion's first half in ComfyUI: where a model would put each subject on its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..families.unet import Block
from ..layout.recovery import layout_from_attention
from ..layout.regions import Layout, default_layout
from ..prompts.spans import Subject
from ..reading.contexts import Contexts
from ..sampling.conditioning import GuidedConditioning
from .attention import Capture, guided_blocks, watch
from .composition import probes_of, subjects_of
from .latents import context_width

KEY = "compositional_inversion"
"""Under which we attach wrappers to a MODEL, and keep what is known of a run in its model options."""


def check_fit(model: Any, conditioning: Sequence[Any]) -> None:
    """Raises ValueError when a conditioning is not as wide as the text that a MODEL reads."""
    expected, given = context_width(model), conditioning[0][0].shape[-1]
    if expected != given:
        raise ValueError(
            f"MODEL and CLIP do not match: the model expects {expected}-dimensional text embeddings, this CLIP gives {given}. "
            "Load both from the same checkpoint."
        )


def without_layout(model: Any) -> Any:
    """A clone of a MODEL without what `with_layout` attached."""
    clone = model.clone()
    for kind in (WrappersMP.PREDICT_NOISE, WrappersMP.SAMPLER_SAMPLE):
        clone.remove_wrappers_with_key(kind, KEY)
    return clone


def plain_layout(positive: Sequence[Any]) -> Layout:
    """The default boxes for a conditioning's subjects."""
    return default_layout([subject.phrase for subject in subjects_of(positive)])


def recover_layout(
    model: Any,
    positive: Sequence[Any],
    negative: Sequence[Any],
    latent: Tensor,
    *,
    seed: int,
    steps: int,
    cfg: float,
    images: int = 1,
) -> tuple[Layout, Tensor, Tensor | None]:
    """Where each subject would have been, from the model's own cross-attention.

    The prompt is sampled in ordinary words, class words in place of concepts, for a few steps; the maps of the later half
    say where things stand, for early ones do not tell them apart.

    Args:
        latent: (B, C, h, w), an empty latent of the size wanted.
        seed: the sampler's own, for the layout that this seed would naturally have.
        images: so many are sampled together, and their maps averaged: with several, where things would usually be.

    Returns:
        The layout, the subjects' maps (S, h, w), and a preview (h, w, 3) in 0..1 of the image that they are read from, or
        None where the model's latents have no known colours.
    """
    check_fit(model, positive)
    prompts = probes_of(positive)
    latent = comfy.sample.fix_empty_latent_channels(model, latent[:1]).repeat(images, 1, 1, 1)
    probe = _Probe([subjects for subjects, _ in prompts], guided_blocks(model, *latent.shape[-2:]))
    probing = without_layout(model)
    probing.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, probe.predict_noise)
    noise = comfy.sample.prepare_noise(latent, seed)
    ordinary = [part for _, written in prompts for part in written]
    conditioning = {"positive": ordinary, "negative": negative}
    how = {"steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "normal", "seed": seed}
    sampled = comfy.sample.sample(probing, noise, latent_image=latent, disable_pbar=True, **conditioning, **how)
    maps = torch.stack(probe.maps[len(probe.maps) // 2 :]).mean(0)
    phrases = [subject.phrase for subjects, _ in prompts for subject in subjects]
    return layout_from_attention(maps, phrases), maps, latent_preview(model, model.model.process_latent_in(sampled)[0])


@dataclass(frozen=True)
class _Probe:
    """Watches the subjects of prompts in ordinary words while these are sampled.

    Attributes:
        subjects: of each prompt.
        blocks: whose maps are read.
        maps: of each call of the model, (S, h, w).
    """

    subjects: Sequence[Sequence[Subject]]
    blocks: Sequence[Block]
    maps: list[Tensor] = field(default_factory=list[Tensor])

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None
    ) -> Tensor:
        conditionings = [
            _probed(cond, own, x) for cond, own in zip(executor.class_obj.conds["positive"], self.subjects, strict=True)
        ]
        captures = [
            Capture(self.blocks, one.name, one.contexts.subject_columns, one.contexts.length) for one in conditionings
        ]
        result = executor(x, timestep, watch(model_options, captures, stop=False), seed)
        if all(capture.maps for capture in captures):
            # In units of its own mean, a block counts by how much its map stands out: few of them tell subjects apart.
            maps = [[m / m.mean((-2, -1), keepdim=True).clamp_min(1e-8) for m in c.maps.values()] for c in captures]
            own = [one.mean_by_subject(of_one).mean(0) for of_one, one in zip(maps, conditionings, strict=True)]
            self.maps.append(torch.cat(own))
        return result


def _probed(cond: dict[str, Any], subjects: Sequence[Subject], x: Tensor) -> GuidedConditioning:
    contexts = Contexts.one(cond["cross_attn"].shape[1], [subject.probe_columns for subject in subjects])
    height, width = x.shape[-2:]
    return GuidedConditioning(cond["uuid"], [subject.phrase for subject in subjects], contexts, (height, width))


def latent_preview(model: Any, latent: Tensor) -> Tensor | None:
    """A latent (C, h, w), scaled as the model has it, in its approximate colours (h, w, 3) in 0..1, as ComfyUI's quickest
    previews show it."""
    known = model.model.latent_format
    if known.latent_rgb_factors is None:
        return None
    factors, bias = (
        torch.tensor(known.latent_rgb_factors),
        torch.tensor(known.latent_rgb_factors_bias or (0.0, 0.0, 0.0)),
    )
    colors = latent.float().cpu().permute(1, 2, 0) @ factors + bias
    return ((colors + 1) / 2).clamp(0, 1)
