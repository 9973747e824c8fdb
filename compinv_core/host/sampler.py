"""Spatial inversion inside ComfyUI's samplers: recover a layout, and hold attention to it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import torch
from comfy import model_management
from comfy.extra_samplers import uni_pc
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..attention import attention_probabilities, balancing_bias, layout_energy, resized_mean, steering_bias
from ..layout import Layout, Region, default_layout, layout_from_attention
from ..memory import HEADROOM
from ..prompts.spans import Subject
from ..sampling import Balance, Energy, Guidance, Report, Steering, correct, passed
from .attention import (
    Bias,
    Block,
    Capture,
    all_blocks,
    guided_blocks,
    skips_apart,
    steer,
    until_last_map,
    watch,
)
from .composition import SUBJECTS, probes_of, subjects_of
from .latents import context_width
from .model import checkpointed, frozen_weights, measuring_saved_activations, non_dynamic, with_backward

log = logging.getLogger(__name__)
KEY = "compositional_inversion"


def check_fit(model: Any, conditioning: Sequence[Any]) -> None:
    """Raises ValueError when a conditioning is not as wide as the text that a MODEL reads."""
    wide, written = context_width(model), conditioning[0][0].shape[-1]
    if wide != written:
        raise ValueError(
            f"MODEL and CLIP do not belong together: the model reads text {wide} numbers wide, the conditioning has "
            f"{written}; take both from the same checkpoint."
        )


def check_layout(layout: Layout, subjects: Sequence[Subject], prompt: str = "the prompt") -> None:
    """Raises ValueError when a layout names a subject that the prompt lacks."""
    known = {subject.phrase for subject in subjects} | {subject.name for subject in subjects}
    for region in layout.regions:
        if region.phrase not in known:
            raise ValueError(
                f'The layout names "{region.phrase}", which is no subject of {prompt} '
                f"({', '.join(subject.name for subject in subjects)}); name it there, or remove its region."
            )


@dataclass(frozen=True)
class Held:
    """A conditioning whose subjects are held.

    Attributes:
        cond: as the sampler keeps it, with ComfyUI's name for it.
        subjects: S phrases.
        columns: each subject's token columns, of `length`.
        canvas: height and width of the latent.
        regions: S of them, or none where there is no layout.
    """

    cond: dict[str, Any]
    subjects: Sequence[str]
    columns: Sequence[Sequence[int]]
    canvas: tuple[int, int]
    regions: Sequence[Region] = ()

    @property
    def length(self) -> int:
        return int(self.cond["cross_attn"].shape[1])

    @property
    def owners(self) -> list[int]:
        """For every column, whose it is."""
        return [i for i, own in enumerate(self.columns) for _ in own]

    @property
    def every_column(self) -> list[int]:
        return [column for own in self.columns for column in own]

    def capture(self, blocks: Sequence[Block]) -> Capture:
        return Capture(blocks, self.cond["uuid"], self.every_column, self.length)

    def cells(self, height: int, width: int) -> Tensor:
        """(S, height, width) in 0..1: the regions, on a map of the canvas or of the area that the conditioning is for."""
        rows, columns = self.canvas
        tall, wide, top, left = self.cond.get("area") or (rows, columns, 0, 0)
        whole = [region.cells(height * rows // tall, width * columns // wide) for region in self.regions]
        top, left = top * height // tall, left * width // wide
        return torch.stack(whole)[:, top : top + height, left : left + width]

    def on_canvas(self, maps: Tensor) -> Tensor:
        """Maps (B, S, h, w) of the area that the conditioning is for, in their place on maps of the canvas."""
        rows, columns = self.canvas
        tall, wide, top, left = self.cond.get("area") or (rows, columns, 0, 0)
        height, width = maps.shape[-2:]
        up, down = top * height // tall, (rows - top - tall) * height // tall
        before, after = left * width // wide, (columns - left - wide) * width // wide
        return torch.nn.functional.pad(maps, (before, after, up, down))


@dataclass
class _Run:
    """What is known of one run of a sampler, in its model options.

    Attributes:
        shown: whether the sampler's own latent is the one that the model is shown.
        twice: whether guided passes compute the model's blocks twice; None before the first.
        settled: of conditionings that take part together, by name: (B,), the pictures whose energy has been low enough.
    """

    shown: bool = True
    twice: bool | None = None
    settled: dict[tuple[Any, ...], Tensor] = field(default_factory=dict[tuple[Any, ...], Tensor])

    def done(self, held: Sequence[Held]) -> bool:
        settled = self.settled.get(_names(held))
        return settled is not None and bool(settled.all())


def check_shape(region: Region, canvas: tuple[int, int]) -> None:
    """Raises ValueError when a mask has another shape than the canvas (height, width of the latent); any size will do."""
    if region.mask is None:
        return
    (height, width), (rows, columns) = region.mask.shape, canvas
    if abs(height * columns - width * rows) > 0.05 * width * rows:
        raise ValueError(
            f'The mask for "{region.phrase}" has {width} x {height} pixels and the canvas {8 * columns} x {8 * rows}; '
            "a mask of the canvas's shape is needed, of any size."
        )


def with_layout(
    model: Any,
    layout: Layout | None,
    steering: Steering,
    guidance: Guidance,
    balance: Balance,
    report: Callable[[Report], None] | None = None,
) -> Any:
    """A clone of a MODEL that holds attention to a layout, with any sampler. Without a layout there is balance alone, of
    all subjects.

    Where nothing has anything to do, nothing is attached, and sampling is bit-identical to the MODEL's own.
    """
    if layout is None or not layout.regions:
        layout, steering, guidance = None, Steering(0), Guidance(0)
    model = model if guidance.idle else non_dynamic(model)
    clone = model.clone()
    if steering.idle and guidance.idle and balance.idle:
        return clone
    everywhere, mine = all_blocks(model), object()  # of several layouts on one model, each has a run of its own

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None) -> Tensor:
        sigma = timestep.flatten()[0].item()
        options = model_options.get("transformer_options", {})
        sigmas = options.get("sample_sigmas")
        if sigmas is None:
            return executor(x, timestep, model_options, seed)
        run = options.get(KEY, {}).get(mine) or _Run()
        steered, balanced = steering.at(sigma, sigmas), balance.at(sigma, sigmas)
        turning = bool(steered or balanced)
        guiding = not guidance.idle and guidance.covers(sigma, sigmas)
        held = _held(executor.class_obj, layout, sigma, x.shape[-2:]) if turning or guiding else []
        guiding = guiding and not run.done(held)
        if not held or not (turning or guiding):
            return executor(x, timestep, model_options, seed)
        energies = None
        watched = guided_blocks(model, *x.shape[-2:])
        captures = [one.capture(watched) for one in held]
        if guiding:
            moved, energies = _guided(executor.class_obj, x, timestep, model_options, held, captures, guidance, run)
            # In place: a sampler that goes on from its own x goes on from the corrected one.
            x = x.copy_(moved) if run.shown else moved
        if turning:
            captures = [one.capture(watched) for one in held]
            biases = {one.cond["uuid"]: _bias(one, steered, balanced) for one in held}
            model_options = steer(model_options, everywhere, biases, captures if report else [])
        result = executor(x, timestep, model_options, seed)
        if report and all(capture.maps for capture in captures):  # packs that save time leave blocks out of some steps
            step = 1 + round(passed(sigma, sigmas) * (len(sigmas) - 1))
            report(_report(step, held, captures, energies, _glimpse(model, result[0])))
        return result

    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, partial(_begun, mine))
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, wrapper)
    return clone


def unheld(model: Any) -> Any:
    """A clone of a MODEL without what `with_layout` attached."""
    clone = model.clone()
    for kind in (WrappersMP.PREDICT_NOISE, WrappersMP.SAMPLER_SAMPLE):
        clone.remove_wrappers_with_key(kind, KEY)
    return clone


def _held(guider: Any, layout: Layout | None, sigma: float, canvas: tuple[int, int]) -> list[Held]:
    """The conditionings that take part at a noise level and have subjects: those with regions, without a layout all.

    Raises:
        ValueError: none knows its subjects, the layout names one that none has, or a mask is of another shape.
    """
    wanted = [cond for kind, conds in guider.conds.items() if "negative" not in kind for cond in conds]
    conds = [cond for cond in wanted if SUBJECTS in cond]
    if not conds:
        raise ValueError(
            'The input "positive" does not say where its subjects are; make it with the node Composition Prompt.'
        )
    if layout is not None:
        check_layout(layout, [subject for cond in conds for subject in cond[SUBJECTS]])
        for region in layout.regions:
            check_shape(region, canvas)
    found: list[Held] = []
    for cond in conds:
        subjects: Sequence[Subject] = cond[SUBJECTS]
        regions: list[Region] = []
        if layout is not None:
            chosen = [(r, s) for r in layout.regions for s in subjects if r.phrase in (s.phrase, s.name)]
            regions, subjects = [r for r, _ in chosen], [s for _, s in chosen]
        if subjects and cond.get("timestep_end", 0.0) <= sigma <= cond.get("timestep_start", float("inf")):
            found.append(Held(cond, [s.phrase for s in subjects], [s.columns for s in subjects], canvas, regions))
    return found


def _names(held: Sequence[Held]) -> tuple[Any, ...]:
    return tuple(one.cond["uuid"] for one in held)


def _bias(held: Held, steering: float, balance: float) -> Bias:
    """What steering and balance add for a conditioning; steering's part is made once for each size of map."""

    @cache
    def towards_regions(height: int, width: int) -> Tensor:
        if not held.regions:
            return torch.zeros(1, 1, held.length)
        return steering_bias(held.cells(height, width), held.columns, held.length, steering)

    def bias(q: Tensor, k: Tensor, heads: int, height: int, width: int) -> Tensor:
        steered = towards_regions(height, width).to(q.device)
        if balance == 0:
            return steered
        seen = attention_probabilities(q, k[:, : held.length], heads, held.every_column, steered)
        return steered + balancing_bias(seen, held.owners, held.every_column, held.length, balance)

    return bias


def _report(
    step: int, held: Sequence[Held], captures: Sequence[Capture], energies: Tensor | None, glimpse: Tensor | None
) -> Report:
    own = [one.on_canvas(_by_subject(list(c.maps.values()), one)) for one, c in zip(held, captures, strict=True)]
    maps = torch.cat([resized_mean([m], *own[0].shape[-2:]) for m in own], dim=1)
    regions = [region.cells(*maps.shape[-2:]) for one in held for region in one.regions]
    inside = None
    if regions:
        inside = ((maps * torch.stack(regions)).sum((2, 3)) / maps.sum((2, 3)).clamp_min(1e-8)).mean(0)
    return Report(step, tuple(name for one in held for name in one.subjects), maps, inside, energies, glimpse)


def _begun(mine: object, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *rest: Any) -> Tensor:
    """A run begins: its model options get a `_Run`, which says whether the sampler's own latent is the model's.

    UniPC shows the model a scaled copy, from which it takes the prediction away: a correction of the copy would come
    back with the opposite sign. There, the correction acts through the prediction alone.
    """
    function = getattr(executor.class_obj, "sampler_function", None)
    options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
    shown = function not in (uni_pc.sample_unipc, uni_pc.sample_unipc_bh2)
    own = options.setdefault("transformer_options", {})
    own[KEY] = {**own.get(KEY, {}), mine: _Run(shown)}
    return executor(guider, sigmas, {**extra_args, "model_options": options}, *rest)


def _guided(
    guider: Any,
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
    held: Sequence[Held],
    captures: Sequence[Capture],
    guidance: Guidance,
    run: _Run,
) -> tuple[Tensor, Tensor]:
    """The corrected latent, and the energies (2, B) met first and last. The captures keep the last maps."""
    unet = guider.inner_model.diffusion_model
    if any(one.cond.get("control") for one in held):
        model_options = skips_apart(model_options)
    with torch.inference_mode(False), torch.enable_grad(), frozen_weights(unet):
        conds = [_differentiable(one.cond) for one in held]
        sigma = timestep.clone()

        def energy(latents: Tensor) -> Tensor:
            for capture in captures:
                capture.maps.clear()
            options = watch(model_options, captures, stop=True)
            options["transformer_options"] = with_backward(options["transformer_options"])
            until_last_map(lambda: comfy.samplers.calc_cond_batch(guider.inner_model, [conds], latents, sigma, options))
            total = torch.zeros(len(latents), device=latents.device)
            for one, capture in zip(held, captures, strict=True):
                maps = [capture.maps[block] for block in capture.blocks]
                cells = [one.cells(*m.shape[-2:]) for m in maps]
                total = total + len(one.regions) * layout_energy(maps, one.owners, cells)
            return total / sum(len(one.regions) for one in held)

        if run.twice is None:
            run.twice = _memory_is_short(unet, energy, x.clone())
        settled = run.settled.get(_names(held))
        with checkpointed(unet) if run.twice else nullcontext():
            moved, met = correct(x.clone(), sigma.flatten()[0].item(), energy, guidance, settled)
        low = (torch.stack(met) <= guidance.threshold).any(dim=0)
        run.settled[_names(held)] = low if settled is None else low | settled
    for capture in captures:
        capture.maps.update({block: m.detach() for block, m in capture.maps.items()})
    return moved, torch.stack([met[0], met[-1]])


def _memory_is_short(unet: Any, energy: Energy, latents: Tensor) -> bool:
    """Whether a guided pass would keep more than there is room for; said in one line."""
    with measuring_saved_activations(unet) as kept:
        energy(latents.requires_grad_())
    free = model_management.get_free_memory(latents.device)
    short = kept() * HEADROOM > free
    if short:
        log.info(
            "A guided pass keeps %.1f GB, %.1f GB are free; the model's blocks are computed twice, which takes a third of it "
            "or less, and four tenths more time.",
            kept() / 1e9,
            free / 1e9,
        )
    return short


def _differentiable(cond: dict[str, Any]) -> dict[str, Any]:
    """A conditioning as a guided pass takes it."""
    plain = {key: _normal(value) for key, value in cond.items()}
    if cond.get("control"):
        plain["control"] = _FixedControl(cond["control"])
    return plain


@dataclass(frozen=True)
class _FixedControl:
    """A ControlNet whose output is taken as it is: no backward goes through it, so its weights need no swap."""

    control: Any

    def get_control(self, x: Tensor, *rest: Any) -> Any:
        with torch.no_grad():
            return self.control.get_control(x.detach(), *rest)


def _normal(value: Any) -> Any:
    """A conditioning's values as autograd can take them: inference tensors are cloned, wherever they sit."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _normal(v) for key, v in value.items()}
    if hasattr(value, "cond") and isinstance(value.cond, Tensor):
        return value._copy_with(value.cond.clone())
    return value


def _by_subject(maps: Sequence[Tensor], held: Held) -> Tensor:
    """Each block's (B, P, h, w) of columns -> (B, S, h, w) of subjects, their tokens summed: means over blocks."""
    height, width = max((m.shape[-2:] for m in maps), key=lambda shape: shape[0])
    own = resized_mean(maps, height, width).split([len(of_one) for of_one in held.columns], dim=1)
    return torch.stack([part.sum(dim=1) for part in own], dim=1).cpu()


def recover_layout(
    model: Any,
    positive: Sequence[Any],
    negative: Sequence[Any],
    latent: Tensor,
    seed: int,
    steps: int,
    cfg: float,
    pictures: int = 1,
) -> tuple[Layout, Tensor, Tensor | None]:
    """Where each subject would have been, from the model's own cross-attention.

    The prompt is sampled in ordinary words, class words in place of concepts, for a few steps; the maps of the later half
    say where things stand, for early ones do not tell them apart.

    Args:
        latent: (B, C, h, w), an empty latent of the size wanted.
        seed: the sampler's own, for the layout that this seed would naturally have.
        pictures: so many are sampled together, and their maps averaged: with several, where things would usually be.

    Returns:
        The layout, the subjects' maps (S, h, w), and a glimpse (h, w, 3) in 0..1 of the picture that they are read from, or
        None where the model's latents have no known colours.
    """
    check_fit(model, positive)
    prompts = probes_of(positive)
    subjects = [subject for own, _ in prompts for subject in own]
    latent = comfy.sample.fix_empty_latent_channels(model, latent[:1]).repeat(pictures, 1, 1, 1)
    blocks = guided_blocks(model, *latent.shape[-2:])
    total: list[Tensor] = []

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None) -> Tensor:
        held = [
            Held(cond, [s.phrase for s in own], [s.probe_columns for s in own], x.shape[-2:])
            for cond, (own, _) in zip(executor.class_obj.conds["positive"], prompts, strict=True)
        ]
        captures = [one.capture(blocks) for one in held]
        result = executor(x, timestep, watch(model_options, captures, stop=False), seed)
        if all(capture.maps for capture in captures):
            # In units of its own mean, a block counts by how much its map stands out: few of them tell subjects apart.
            maps = [[m / m.mean((-2, -1), keepdim=True).clamp_min(1e-8) for m in c.maps.values()] for c in captures]
            total.append(torch.cat([_by_subject(of_one, one).mean(0) for of_one, one in zip(maps, held, strict=True)]))
        return result

    probing = unheld(model)
    probing.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, wrapper)
    noise = comfy.sample.prepare_noise(latent, seed)
    ordinary = [part for _, probe in prompts for part in probe]
    sampled = comfy.sample.sample(
        probing, noise, steps, cfg, "euler", "normal", ordinary, negative, latent, disable_pbar=True, seed=seed
    )
    maps = torch.stack(total[len(total) // 2 :]).mean(0)
    glimpse = _glimpse(model, model.model.process_latent_in(sampled)[0])
    return layout_from_attention(maps, [subject.phrase for subject in subjects]), maps, glimpse


def _glimpse(model: Any, latent: Tensor) -> Tensor | None:
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


def plain_layout(positive: Sequence[Any]) -> Layout:
    return default_layout([subject.phrase for subject in subjects_of(positive)])
