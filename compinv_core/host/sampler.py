"""Spatial inversion inside ComfyUI's samplers: recover a layout, and hold attention to it."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import torch
from comfy.extra_samplers import uni_pc
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..attention import layout_energy
from ..layout import Layout, default_layout, layout_from_attention
from ..prompts import Subject
from ..sampling import Guidance, correct
from .attention import Capture, guided_blocks, resized_mean, until_last_map, watch
from .composition import SUBJECTS, probe_of, subjects_of
from .model import frozen_weights
from .training import context_width

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
class Report:
    """One guided step: the energies (B,) met first and last, and the subjects' maps (S, h, w), mean over the batch.

    The last energy is the one that the last correction started from, as measuring after it would cost a pass more.
    """

    before: Tensor
    after: Tensor
    maps: Tensor


def with_layout(
    model: Any, layout: Layout, guidance: Guidance, report: Callable[[Report], None] = lambda _: None
) -> Any:
    """A clone of a MODEL that holds attention to a layout in the first part of any sampler's schedule.

    Without regions or with idle guidance nothing is attached, and sampling is bit-identical to the MODEL's own.
    """
    clone = model.clone()
    if not layout.regions or guidance.idle:
        return clone

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None) -> Tensor:
        sigma = timestep.flatten()[0].item()
        options = model_options.get("transformer_options", {})
        sigmas = options.get("sample_sigmas")
        if sigmas is None or not guidance.covers(sigma, sigmas):
            return executor(x, timestep, model_options, seed)
        moved = _guided(model, executor.class_obj, x, timestep, model_options, layout, guidance, report)
        if options.get(KEY, True):
            # In place: a sampler that goes on from its own x goes on from the corrected one.
            moved = x.copy_(moved)
        return executor(moved, timestep, model_options, seed)

    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _note_sampler)
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, wrapper)
    return clone


def _note_sampler(executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *rest: Any) -> Tensor:
    """Tells the run's model options whether the sampler's own latent is the one that the model is shown.

    UniPC shows the model a scaled copy, from which it takes the prediction away: a correction of the copy would come
    back with the opposite sign. There, the correction acts through the prediction alone.
    """
    function = getattr(executor.class_obj, "sampler_function", None)
    options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
    shown = function not in (uni_pc.sample_unipc, uni_pc.sample_unipc_bh2)
    options["transformer_options"] = {**options.get("transformer_options", {}), KEY: shown}
    return executor(guider, sigmas, {**extra_args, "model_options": options}, *rest)


def _guided(
    model: Any,
    guider: Any,
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
    layout: Layout,
    guidance: Guidance,
    report: Callable[[Report], None],
) -> Tensor:
    conds = [cond for cond in guider.conds["positive"] if SUBJECTS in cond]
    if not conds:
        raise ValueError(
            'The input "positive" does not say where its subjects are; make it with the node Composition Prompt.'
        )
    cond = next((cond for cond in conds if _active(cond, timestep)), None)
    if cond is None:
        return x
    subjects: tuple[Subject, ...] = cond[SUBJECTS]
    check_layout(layout, subjects)
    chosen = [(r, s) for r in layout.regions for s in subjects if r.phrase in (s.phrase, s.name)]
    columns = [column for _, subject in chosen for column in subject.columns]
    owners = [i for i, (_, subject) in enumerate(chosen) for _ in subject.columns]
    blocks = guided_blocks(model, *x.shape[-2:])
    seen: list[list[Tensor]] = []

    # A ControlNet's output is added in place to what autograd has kept.
    adding = torch.autograd.graph.allow_mutation_on_saved_tensors() if cond.get("control") else nullcontext()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen_weights(guider.inner_model.diffusion_model),
        adding,
    ):
        plain = {key: _normal(value) for key, value in cond.items()}
        if cond.get("control"):
            plain["control"] = _FixedControl(cond["control"])
        sigma = timestep.clone()
        length = plain["cross_attn"].shape[1]

        def energy(latents: Tensor) -> Tensor:
            capture = Capture(columns, length, {})
            options = watch(model_options, blocks, capture, stop=True)
            until_last_map(
                lambda: comfy.samplers.calc_cond_batch(guider.inner_model, [[plain]], latents, sigma, options)
            )
            maps = [capture.maps[block] for block in blocks]
            seen.append([m.detach() for m in maps])
            cells = [torch.stack([region.cells(*m.shape[-2:]) for region, _ in chosen]) for m in maps]
            return layout_energy(maps, owners, cells)

        moved, met = correct(x.clone(), sigma.flatten()[0].item(), energy, guidance)
    height, width = max((m.shape[-2:] for m in seen[-1]), key=lambda shape: shape[0])
    report(Report(met[0], met[-1], _by_subject(resized_mean(seen[-1], height, width).mean(0), owners, len(chosen))))
    return moved


def _active(cond: dict[str, Any], timestep: Tensor) -> bool:
    """Whether a conditioning takes part at this noise level: its range, as ComfyUI keeps it, is of falling sigmas."""
    sigma = timestep.flatten()[0].item()
    return cond.get("timestep_end", 0.0) <= sigma <= cond.get("timestep_start", float("inf"))


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


def _by_subject(maps: Tensor, owners: Sequence[int], count: int) -> Tensor:
    """(P, h, w) of columns -> (S, h, w) of subjects."""
    owner = torch.tensor(owners, device=maps.device)
    return torch.stack([maps[owner == i].mean(dim=0) for i in range(count)]).cpu()


def recover_layout(
    model: Any, positive: Sequence[Any], negative: Sequence[Any], latent: Tensor, seed: int, steps: int, cfg: float
) -> tuple[Layout, Tensor]:
    """Where each subject would have been, from the model's own cross-attention.

    The prompt is sampled in ordinary words, class words in place of concepts, for a few steps; the maps of the early
    and middle steps say where things go.

    Args:
        latent: (B, C, h, w), an empty latent of the size wanted; one picture of it is used.
        seed: the sampler's own, for the layout that this seed would naturally have.

    Returns:
        The layout, and the subjects' maps (S, h, w).
    """
    check_fit(model, positive)
    subjects, probe = subjects_of(positive), probe_of(positive)
    columns = [column for subject in subjects for column in subject.probe_columns]
    owners = [i for i, subject in enumerate(subjects) for _ in subject.probe_columns]
    latent = comfy.sample.fix_empty_latent_channels(model, latent[:1])
    blocks = guided_blocks(model, *latent.shape[-2:])
    total: list[Tensor] = []
    length = probe[0][0].shape[1]

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None) -> Tensor:
        capture = Capture(columns, length, {})
        result = executor(x, timestep, watch(model_options, blocks, capture, stop=False), seed)
        if capture.maps:
            height, width = max((m.shape[-2:] for m in capture.maps.values()), key=lambda shape: shape[0])
            total.append(resized_mean(list(capture.maps.values()), height, width).mean(0))
        return result

    probing = model.clone()
    for kind in (WrappersMP.PREDICT_NOISE, WrappersMP.SAMPLER_SAMPLE):
        probing.remove_wrappers_with_key(kind, KEY)  # a layout that the model is held to already
    probing.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, wrapper)
    noise = comfy.sample.prepare_noise(latent, seed)
    comfy.sample.sample(
        probing, noise, steps, cfg, "euler", "normal", probe, negative, latent, disable_pbar=True, seed=seed
    )
    phrases = [subject.phrase for subject in subjects]
    maps = _by_subject(torch.stack(total[: max(1, 2 * steps // 3)]).mean(0), owners, len(subjects))
    return layout_from_attention(maps, phrases), maps


def plain_layout(positive: Sequence[Any]) -> Layout:
    return default_layout([subject.phrase for subject in subjects_of(positive)])
