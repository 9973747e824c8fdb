"""Spatial inversion inside ComfyUI's samplers: attention is steered to a layout, and the latent corrected towards it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import comfy.model_patcher
import comfy.samplers
import torch
from comfy import model_management
from comfy.extra_samplers import uni_pc
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..families.unet import Outline
from ..layout.regions import Layout, Region
from ..memory import MemoryPlan
from ..prompts.spans import Subject
from ..reading.by_cell import CellContexts, cell_contexts
from ..reading.contexts import Contexts
from ..reading.regional import ReadContexts, Regional, read_contexts
from ..reading.rules import BoundingRule, Reading
from ..sampling.conditioning import GuidedConditioning, check_layout, check_shape, energy_of, reported
from ..sampling.guidance import Energy, Guidance, correct
from ..sampling.report import Report
from ..sampling.schedules import Balance, Bounding, Steering, progress
from ..sentences import quoted
from .attention import Capture, bound, outline, steer, until_last_map, watch, with_cloned_skips
from .composition import SUBJECTS
from .contexts import CONTEXTS, OWNER, by_cell_of, name_apart, put_contexts, variants_of
from .latents import noise_of
from .model import (
    checkpointed,
    differentiable_forwards,
    frozen_weights,
    is_of_gradients,
    measuring_saved_activations,
    no_gradient,
    non_dynamic,
    with_backward,
)
from .places import area_of
from .recovery import KEY, latent_preview

USE_STEERING = "Set guidance to 0 and use steering, or take the patch away."
REGIONAL, BOUNDING = Regional(), Bounding()
log = logging.getLogger(__name__)


def with_layout(
    model: Any,
    layout: Layout | None,
    steering: Steering,
    guidance: Guidance,
    *,
    balance: Balance,
    regional: Regional = REGIONAL,
    report: Callable[[Report], None] | None = None,
) -> Any:
    """A clone of a MODEL that keeps attention to a layout, with any sampler. Without a layout there are balance, of all
    subjects, and class words in coarse blocks. The attributes of a prompt are read in their cells, with a layout or without.

    Where nothing has anything to do, sampling is bit-identical to the MODEL's own.
    """
    if layout is None or not layout.regions:
        layout, steering, guidance = None, Steering(0), Guidance(0)
        regional = replace(regional, reading="whole prompt")
    model = model if guidance.is_off else non_dynamic(model)
    regularization = _Regularization(
        model, layout, steering, guidance, balance=balance, regional=regional, report=report
    )
    if not (steering.is_off and guidance.is_off and balance.is_off and regional.is_off):
        outline(model)  # which refuses a model without cross-attention
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, regularization.on_sampling_start)
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, regularization.predict_noise)
    return clone


@dataclass
class _Run:
    """What is known of one run of a sampler, in its model options.

    Attributes:
        shows_own_latent: whether the sampler's own latent is the one that the model is shown.
        plan: whether guided passes use gradient checkpointing; None before the first.
        known: conditionings by their name.
        readings: how they are read, by their name.
        low: of conditionings that take part together, by their names: (B,), the images whose energy has been low enough.
    """

    shows_own_latent: bool = True
    plan: MemoryPlan | None = None
    known: dict[Any, GuidedConditioning] = field(default_factory=dict[Any, GuidedConditioning])
    readings: dict[Any, Reading] = field(default_factory=dict[Any, Reading])
    low: dict[tuple[Any, ...], Tensor] = field(default_factory=dict[tuple[Any, ...], Tensor])

    def is_done(self, conditionings: Sequence[GuidedConditioning]) -> bool:
        low = self.low.get(_names(conditionings))
        return low is not None and bool(low.all())


@dataclass(frozen=True, eq=False)
class _Regularization:
    """What `with_layout` attaches to a MODEL. Of several on one model, each has runs of its own."""

    model: Any
    layout: Layout | None
    steering: Steering
    guidance: Guidance
    balance: Balance
    regional: Regional
    report: Callable[[Report], None] | None

    @cached_property
    def outline(self) -> Outline:
        return outline(self.model)

    def on_sampling_start(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *rest: Any
    ) -> Tensor:
        """A run begins: its model options get a `_Run`, which says whether the sampler's own latent is the model's.

        UniPC shows the model a scaled copy, from which it takes the prediction away: a correction of the copy would come
        back with the opposite sign. There, the correction acts through the prediction alone.
        """
        name_apart(guider.conds)
        put_contexts(guider, self, lambda cond: self._contexts(cond, guider, sigmas))
        function = getattr(executor.class_obj, "sampler_function", None)
        options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        own = options.setdefault("transformer_options", {})
        run = _Run(shows_own_latent=function not in (uni_pc.sample_unipc, uni_pc.sample_unipc_bh2))
        own[KEY] = {**own.get(KEY, {}), self: run}
        return executor(guider, sigmas, {**extra_args, "model_options": options}, *rest)

    def predict_noise(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None
    ) -> Tensor:
        """One call of the model, with what is to be done at its noise level."""
        options = model_options.get("transformer_options", {})
        if options.get("sample_sigmas") is None:
            return executor(x, timestep, model_options, seed)
        run = options.get(KEY, {}).get(self) or _Run()
        call = _Call(run, executor.class_obj, x, timestep, model_options=model_options)
        guiding = not self.guidance.is_off and self.guidance.is_active(call.progress, call.steps)
        biasing = bool(self.steering.at(call.progress) or self.balance.at(call.progress))
        taking_part = self._taking_part(call, required=guiding or biasing)
        subjects = [one for one in taking_part if one.subjects]
        guiding = guiding and bool(subjects) and not run.is_done(subjects)
        biasing = (biasing and bool(subjects)) or any(one.own_rules for one in taking_part)
        if not (guiding or biasing):
            return executor(x, timestep, model_options, seed)
        captures, energies = self._captures(subjects, x), None
        if guiding:
            moved, energies = self._guided(call, subjects, captures)
            # In place: a sampler that goes on from its own x goes on from the corrected one.
            x = x.copy_(moved) if run.shows_own_latent else moved
        if biasing:
            captures = self._captures(subjects, x) if self.report else []
            readings = {one.name: run.readings[one.name] for one in taking_part}
            blocks = self.outline.groups
            model_options = steer(
                model_options, blocks, readings, progress=call.progress, noise=call.noise, captures=captures
            )  # fmt: skip
        bounds = {one.name: one.bounds for one in taking_part if one.bounds}
        if bounds and BOUNDING.at(call.progress):
            model_options = bound(model_options, self.outline.groups, bounds, progress=call.progress)
        result = executor(x, timestep, model_options, seed)
        # Packs that save time leave blocks out of some steps.
        if self.report and captures and all(capture.maps for capture in captures):
            maps = [list(capture.maps.values()) for capture in captures]
            step, preview = 1 + round(call.progress * call.steps), latent_preview(self.model, result[0])
            self.report(reported(subjects, maps, step=step, energies=energies, preview=preview))
        return result

    def _taking_part(self, call: "_Call", required: bool) -> list[GuidedConditioning]:
        """The conditionings that take part at a noise level: those with regions, or without a layout with subjects, and those
        that bring along rules of their own.

        Args:
            required: whether there must be one that knows its subjects.

        Raises:
            ValueError: none knows its subjects, the layout names one that none has, or a mask is of another shape.
        """
        conds = [cond for kind, of_kind in call.guider.conds.items() if "negative" not in kind for cond in of_kind]
        if required:
            self._check([cond for cond in conds if SUBJECTS in cond], call.canvas)
        found: list[GuidedConditioning] = []
        for cond in conds:
            if not (SUBJECTS in cond or cond.get(OWNER) is self):
                continue
            if not cond.get("timestep_end", 0.0) <= call.sigma <= cond.get("timestep_start", float("inf")):
                continue
            name = cond["uuid"]
            if name not in call.run.known:
                call.run.known[name] = self._conditioning(cond, call.canvas)
                call.run.readings[name] = call.run.known[name].reading(self.steering, self.balance)
            one = call.run.known[name]
            if one.subjects or one.own_rules:
                found.append(one)
        return found

    def _check(self, conds: Sequence[dict[str, Any]], canvas: tuple[int, int]) -> None:
        if not conds:
            raise ValueError(
                'The input "positive" does not say where its subjects are; make it with the node Composition Prompt.'
            )
        if self.layout is not None:
            check_layout(self.layout, [subject for cond in conds for subject in cond[SUBJECTS]])
            for region in self.layout.regions:
                check_shape(region, canvas)

    def _contexts(self, cond: dict[str, Any], guider: Any, sigmas: Tensor) -> ReadContexts | CellContexts | None:
        """What is read of a conditioning in a run; None for the prompt as it is written.

        Raises:
            ValueError: attributes for another model, or of a prompt that was changed.
        """
        placed = [subject for _, subject in self._placed(cond.get(SUBJECTS, ()))]
        by_cell = by_cell_of(cond)
        if by_cell is not None:
            if [*by_cell.places] != self.outline.place_names:
                raise ValueError(
                    f'The prompt "{quoted(by_cell.texts[0])}" of Attribute Prompt was made for a model of another architecture; connect the '
                    'sampler\'s own to its input "model".'
                )
            sampling = guider.inner_model.model_sampling
            met = by_cell.during(*(noise_of(sampling, sigmas[i].item()) for i in (0, -1)))
            return met and cell_contexts(met, self.regional, placed)
        if self.regional.is_off or SUBJECTS not in cond:
            return None
        variants = variants_of(cond)
        return variants and read_contexts(variants, self.regional, placed)

    def _placed(self, subjects: Sequence[Subject]) -> list[tuple[Region, int]]:
        """The regions of subjects, each with the index of its own."""
        return [
            (region, i)
            for region in (self.layout.regions if self.layout else ())
            for i, subject in enumerate(subjects)
            if region.phrase in (subject.phrase, subject.name)
        ]

    def _conditioning(self, cond: dict[str, Any], canvas: tuple[int, int]) -> GuidedConditioning:
        subjects: Sequence[Subject] = cond.get(SUBJECTS, ())
        placed = self._placed(subjects)
        chosen = [i for _, i in placed] if self.layout else list(range(len(subjects)))
        read: ReadContexts | CellContexts | None = cond.get(CONTEXTS)
        length = int(cond["cross_attn"].shape[1])
        contexts = read.contexts(chosen) if read else Contexts.one(length, [subjects[i].columns for i in chosen])
        names, regions = [subjects[i].phrase for i in chosen], [region for region, _ in placed]
        one = GuidedConditioning(cond["uuid"], names, contexts, canvas, area=area_of(cond, canvas), regions=regions)
        if not read or cond[OWNER] is not self:
            return one
        bounds = BoundingRule(one.cells, BOUNDING.at) if read.of_regions and len(regions) > 1 else None
        return replace(one, own_rules=read.rules(contexts, one.cells), bounds=bounds)

    def _captures(self, conditionings: Sequence[GuidedConditioning], x: Tensor) -> list[Capture]:
        blocks = self.outline.guided_blocks(*x.shape[-2:])
        return [
            Capture(blocks, one.name, one.contexts.subject_columns, one.contexts.length) for one in conditionings
        ]  # fmt: skip

    def _guided(
        self, call: "_Call", conditionings: Sequence[GuidedConditioning], captures: Sequence[Capture]
    ) -> tuple[Tensor, Tensor]:
        """The corrected latent, and the energies (2, B) met first and last. The captures keep the last maps."""
        run, unet = call.run, call.guider.inner_model.diffusion_model
        names = _names(conditionings)
        gligen = [cond["gligen"][1].model for conds in call.guider.conds.values() for cond in conds if "gligen" in cond]
        with (
            torch.inference_mode(False), torch.enable_grad(), frozen_weights(unet, *gligen), differentiable_forwards(unet)
        ):  # fmt: skip
            energy = _GuidedPass.prepared(call, conditionings, captures, self.outline)
            if run.plan is None:
                run.plan = _memory_plan(unet, energy, call.x.clone())
            moved, met = _corrected(call, energy, self.guidance, run.low.get(names))
            low = (torch.stack(met) <= self.guidance.threshold).any(dim=0)
            run.low[names] = low if names not in run.low else low | run.low[names]
        for capture in captures:
            capture.maps.update({block: m.detach() for block, m in capture.maps.items()})
        return moved, torch.stack([met[0], met[-1]])


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of the model that a sampler makes, within a run."""

    run: _Run
    guider: Any
    x: Tensor
    timestep: Tensor
    model_options: dict[str, Any]

    @cached_property
    def sigma(self) -> float:
        return self.timestep.flatten()[0].item()

    @property
    def sigmas(self) -> Tensor:
        return self.model_options["transformer_options"]["sample_sigmas"]

    @property
    def steps(self) -> int:
        """Of the schedule."""
        return len(self.sigmas) - 1

    @cached_property
    def progress(self) -> float:
        return progress(self.sigma, self.sigmas)

    @cached_property
    def noise(self) -> float:
        """The share of the model's own timesteps below this one."""
        return noise_of(self.guider.inner_model.model_sampling, self.sigma)

    @property
    def canvas(self) -> tuple[int, int]:
        height, width = self.x.shape[-2:]
        return height, width


@dataclass(frozen=True, eq=False)
class _GuidedPass:
    """The energy of latents, by a pass of the UNet that ends at the last map that it needs."""

    base: Any
    conds: Sequence[dict[str, Any]]
    sigma: Tensor
    options: dict[str, Any]
    conditionings: Sequence[GuidedConditioning]
    captures: Sequence[Capture]

    @classmethod
    def prepared(
        cls, call: _Call, conditionings: Sequence[GuidedConditioning], captures: Sequence[Capture], unet: Outline
    ) -> "_GuidedPass":
        """For a call of a sampler. Of the rules, only those that a conditioning brings along hold here: the energy is that
        of attention as it is, not as it is steered."""
        by_name = {cond["uuid"]: cond for conds in call.guider.conds.values() for cond in conds}
        conds = [by_name[one.name] for one in conditionings]
        options = call.model_options
        options = {**options, "transformer_options": with_backward(options["transformer_options"])}
        if any(cond.get("control") for cond in conds):
            options = with_cloned_skips(options)
        readings = {one.name: Reading(one.contexts, one.own_rules) for one in conditionings if one.own_rules}
        if readings:
            options = steer(
                options, unet.groups, readings, progress=call.progress, noise=call.noise, captures=captures, stop=True
            )  # fmt: skip
        else:
            options = watch(options, captures, stop=True)
        plain, sigma = [_differentiable(cond) for cond in conds], call.timestep.clone()
        what = {"conditionings": conditionings, "captures": captures}
        return cls(call.guider.inner_model, plain, sigma, options, **what)

    def __call__(self, latents: Tensor) -> Tensor:
        refused: RuntimeError | None = None
        for options in (self.options, _without_wrappers(self.options)):
            for capture in self.captures:
                capture.maps.clear()
            try:
                until_last_map(partial(self._forward, latents, options))
            except RuntimeError as error:
                if not is_of_gradients(error):
                    raise
                refused = error
            # A cache may answer without the UNet, and not by what a gradient goes through.
            if all(block in capture.maps for capture in self.captures for block in capture.blocks):
                maps = [[capture.maps[block] for block in capture.blocks] for capture in self.captures]
                return energy_of(self.conditionings, maps)
        raise no_gradient("Guidance", USE_STEERING, self.options, refused) from refused

    def _forward(self, latents: Tensor, options: dict[str, Any]) -> None:
        conds = [list(self.conds)]
        comfy.samplers.calc_cond_batch(self.base, conds, latents, self.sigma, model_options=options)


def _without_wrappers(model_options: dict[str, Any]) -> dict[str, Any]:
    """A clone of model options without what other packs put around the whole UNet."""
    own = {name: value for name, value in model_options.items() if name != "model_function_wrapper"}
    return {**own, "transformer_options": {**own["transformer_options"], "wrappers": {}}}


def _names(conditionings: Sequence[GuidedConditioning]) -> tuple[Any, ...]:
    return tuple(one.name for one in conditionings)


def _corrected(call: _Call, energy: Energy, guidance: Guidance, low: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """See `correct`; when memory is used up, once more with gradient checkpointing.

    Raises:
        model_management.OOM_EXCEPTION: that is not enough; what to lower, in one sentence.
    """
    assert call.run.plan is not None
    unet = call.guider.inner_model.diffusion_model
    while True:
        try:
            with checkpointed(unet) if call.run.plan.checkpointing else nullcontext():
                return correct(call.x.clone(), call.sigma, energy, guidance, settled=low)
        except model_management.OOM_EXCEPTION as error:
            plan = call.run.plan.on_out_of_memory()
            if plan is None:
                height, width = (8 * side for side in call.canvas)
                raise type(error)(
                    f"Guidance needs more memory than there is for {len(call.x)} images of {width} x {height} pixels, even with "
                    "gradient checkpointing. Lower the batch size or the resolution, or set guidance to 0 and use steering."
                ) from error
            call.run.plan = plan
        except RuntimeError as error:
            if is_of_gradients(error):
                raise no_gradient("Guidance", USE_STEERING, call.model_options, error) from error
            raise
        log.info("Out of memory in a guided pass: going on with gradient checkpointing.")
        model_management.soft_empty_cache()


def _memory_plan(unet: Any, energy: Energy, latents: Tensor) -> MemoryPlan:
    """Whether guided passes, of all images together, need gradient checkpointing; said in one line."""
    with measuring_saved_activations(unet) as saved:
        energy(latents.requires_grad_())
    free = model_management.get_free_memory(latents.device)
    plan = MemoryPlan.fitting(fixed=0, per_image=max(1, saved()), batch=1, free=free)
    if plan.checkpointing:
        log.info(
            "A guided pass saves %.1f GB of activations, %.1f GB are free: gradient checkpointing is on, for a third of the "
            "memory or less and 1.4 times the time.",
            saved() / 1e9,
            free / 1e9,
        )
    return plan


def _differentiable(cond: dict[str, Any]) -> dict[str, Any]:
    """A conditioning as a guided pass takes it."""
    plain = {key: clone_inference_tensors(value) for key, value in cond.items()}
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


def clone_inference_tensors(value: Any) -> Any:
    """A conditioning's values as autograd can take them: tensors are cloned, wherever they sit."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: clone_inference_tensors(v) for key, v in value.items()}
    if hasattr(value, "cond") and isinstance(value.cond, Tensor):
        return value._copy_with(value.cond.clone())
    return value
