"""Spatial inversion's first half in ComfyUI: where a model would put each subject on its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..attention.maps import resized_mean
from ..families.unet import Block
from ..layout.recovery import layout_from_attention
from ..layout.regions import Box, Layout, default_layout, layout_by_place
from ..prompts.spans import Subject
from ..reading.contexts import Contexts
from ..sampling.conditioning import GuidedConditioning
from .attention import Capture, guided_blocks, watch
from .composition import PROBED, placed_subjects, probe_of
from .contexts import name_apart
from .latents import context_width
from .places import Canvas, area_of, place_of

MOSTLY = 0.5  # of a region's area
PLACE = "compinv_place"
"""The key under which a probe's entry holds the part of the canvas that it is for."""

KEY = "compositional_inversion"
"""Under which we attach wrappers to a MODEL, and keep what is known of a run in its model options."""


def check_fit(model: Any, conditioning: Sequence[Any]) -> None:
    """Raises ValueError when a conditioning is empty, or not as wide as the text that a MODEL reads."""
    if not conditioning:
        raise ValueError('The input "positive" is an empty conditioning; connect Composition Prompt.')
    expected, given = context_width(model), conditioning[0][0].shape[-1]
    if expected != given:
        raise ValueError(
            f"MODEL and CLIP do not match: the model expects {expected}-dimensional text embeddings, this CLIP gives {given}. "
            "Load both from the same checkpoint."
        )


def check_latent(latent: Tensor) -> None:
    """Raises ValueError when a latent is not of one image or more."""
    if latent.ndim != 4 or not latent.numel():
        raise ValueError(
            f'The input "latent_image" has the shape {tuple(latent.shape)}; (batch, channels, height, width) with one image or more '
            "is allowed."
        )


def without_layout(model: Any) -> Any:
    """A clone of a MODEL without what `with_layout` attached."""
    clone = model.clone()
    for kind in (WrappersMP.PREDICT_NOISE, WrappersMP.SAMPLER_SAMPLE):
        clone.remove_wrappers_with_key(kind, KEY)
    return clone


def plain_layout(positive: Sequence[Any], canvas: Canvas) -> Layout:
    """The default boxes for a conditioning's subjects, of each prompt in its own part of the canvas."""
    subjects = placed_subjects(positive, canvas)
    return layout_by_place(
        [one.place for one in subjects], lambda own: default_layout([subjects[i].phrase for i in own])
    )


def outside_their_place(layout: Layout, positive: Sequence[Any], canvas: Canvas) -> str:
    """A sentence on the regions that lie, for the most part, outside the area or mask of their subject's prompt; "" for none."""
    subjects = placed_subjects(positive, canvas)
    found: list[str] = []
    for region in layout.regions:
        own = [one.place for one in subjects if region.phrase in (one.phrase, one.subject.name)]
        if own and max(region.box.shared(place) for place in own) < MOSTLY * region.box.area:
            found.append(region.name)
    if not found:
        return ""
    return f"The region of {' and '.join(found)} lies outside the area or mask of its prompt and has no effect there."


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
    latent = comfy.sample.fix_empty_latent_channels(model, latent[:1]).repeat(images, 1, 1, 1)
    canvas: Canvas = (latent.shape[-2], latent.shape[-1])
    subjects = placed_subjects(positive, canvas)
    probe = _Probe(guided_blocks(model, *canvas))
    probing = without_layout(model)
    probing.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, probe.predict_noise)
    noise = comfy.sample.prepare_noise(latent, seed)
    ordinary = [
        [encoded, {**rest, PLACE: place_of(rest, canvas)} if PROBED in rest else rest]
        for encoded, rest in probe_of(positive)
    ]
    conditioning = {"positive": ordinary, "negative": negative}
    how = {"steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "normal", "seed": seed}
    sampled = comfy.sample.sample(probing, noise, latent_image=latent, disable_pbar=True, **conditioning, **how)
    maps = probe.together([(one.phrase, one.place) for one in subjects])

    def read(own: Sequence[int]) -> Layout:
        cut = torch.stack([_cut(maps[i], subjects[i].place) for i in own])
        return layout_from_attention(cut, [subjects[i].phrase for i in own])

    preview = latent_preview(model, model.model.process_latent_in(sampled)[0])
    return layout_by_place([one.place for one in subjects], read), maps, preview


def _cut(own: Tensor, place: Box) -> Tensor:
    """What of a map (h, w) of the canvas lies in a place."""
    height, width = own.shape
    rows = slice(math.floor(place.top * height), math.ceil(place.bottom * height))
    return own[rows, math.floor(place.left * width) : math.ceil(place.right * width)]


@dataclass(frozen=True)
class _Probe:
    """Watches the subjects of prompts in ordinary words while these are sampled.

    Attributes:
        blocks: whose maps are read.
        maps: of each subject and the part of the canvas that its prompt is for, its map (h, w) in each call in which the prompt
            takes part.
    """

    blocks: Sequence[Block]
    maps: dict[tuple[str, Box], list[Tensor]] = field(default_factory=dict[tuple[str, Box], list[Tensor]])

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None
    ) -> Tensor:
        conds, canvas = executor.class_obj.conds, (x.shape[-2], x.shape[-1])
        name_apart(conds)
        probed = [cond for cond in conds["positive"] if PROBED in cond]
        conditionings = [_probed(cond, canvas) for cond in probed]
        captures = [
            Capture(self.blocks, one.name, one.contexts.subject_columns, one.contexts.length) for one in conditionings
        ]
        result = executor(x, timestep, watch(model_options, captures, stop=False), seed)
        for cond, one, capture in zip(probed, conditionings, captures, strict=True):
            if capture.maps:
                # In units of its own mean, a block counts by how much its map stands out: few of them tell subjects apart.
                maps = [m / m.mean((-2, -1), keepdim=True).clamp_min(1e-8) for m in capture.maps.values()]
                for phrase, own in zip(one.subjects, one.on_canvas(one.mean_by_subject(maps)).mean(0), strict=True):
                    self.maps.setdefault((phrase, cond[PLACE]), []).append(own)
        return result

    def together(self, subjects: Sequence[tuple[str, Box]]) -> Tensor:
        """(S, h, w): each one's maps in the later half of the calls; the same everywhere where there are none."""
        means = {key: torch.stack(own[len(own) // 2 :]).mean(0) for key, own in self.maps.items()}
        height, width = max((tuple(m.shape) for m in means.values()), default=(1, 1))
        of_subjects = [means.get(key, torch.ones(height, width)) for key in subjects]
        return torch.cat([resized_mean([m[None, None]], height, width)[0] for m in of_subjects])


def _probed(cond: dict[str, Any], canvas: Canvas) -> GuidedConditioning:
    subjects: Sequence[Subject] = cond[PROBED]
    contexts = Contexts.one(cond["cross_attn"].shape[1], [subject.probe_columns for subject in subjects])
    phrases = [subject.phrase for subject in subjects]
    return GuidedConditioning(cond["uuid"], phrases, contexts, canvas, area=area_of(cond, canvas))


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
