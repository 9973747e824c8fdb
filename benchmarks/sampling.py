"""What holding a picture to a layout costs, in calls and FLOPs of the UNet (PERFORMANCE: S1, S2, S3, S8), regional reading (S9), and
one image with its layout recovered (S11).

A guided pass runs the UNet for one picture up to the last map that the energy needs, and back to the latent. The limits for
the maps of the paper are 1.047 forward passes (SD 1.5 at 512 px) and 1.601 (SDXL at 1024 px). Steering runs no further pass.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from host import SD15, SDXL, Architecture, goal
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import nodes  # the host's
from compinv_core.attention.energy import layout_energy
from compinv_core.host.attention import Capture, bound, outline, steer, until_last_map, watch
from compinv_core.host.composition import composition_prompt
from compinv_core.host.recovery import plain_layout, recover_layout
from compinv_core.host.sampler import with_layout
from compinv_core.layout.regions import Layout, default_layout
from compinv_core.reading.contexts import Contexts
from compinv_core.reading.regional import WHOLE_PROMPT, ReadContexts, Variant
from compinv_core.reading.rules import BalanceRule, BoundingRule, Reading, Rule, SteeringRule
from compinv_core.sampling.guidance import Guidance
from compinv_core.sampling.schedules import Balance, Bounding, Steering, progress
from microworld.evaluate import CHECKPOINT, load_checkpoint

GOALS = {"sd15": (1.10, 1.55, "1.553 official"), "sdxl": (1.65, 1.83, "1.833 official")}
COLUMNS, LENGTH = [[4], [7]], 77  # of a cat and a car in their prompt
STEPS, PROBE_STEPS = 20, 8  # of an image, and Spatial Layout Recover's default
CONCEPTS = (1, 2, 4)
REGIONAL = {1: 1.02, 2: 1.03, 4: 1.06}


class Unet:
    """A full-size UNet and a layout of two subjects."""

    def __init__(self, architecture: Architecture, device: str = "meta", dtype: torch.dtype = torch.float32) -> None:
        self.model, self.config = architecture.model(device, dtype), architecture.unet
        self.module, self.side = self.model.model.diffusion_model, architecture.side
        self.place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.outline = outline(self.model)
        self.blocks = self.outline.guided_blocks(self.side, self.side)
        self.regions = default_layout(["cat", "car"]).regions

    def latents(self, batch: int = 1) -> Tensor:
        return torch.zeros(batch, 4, self.side, self.side, **self.place)

    def forward(self, latents: Tensor, options: dict[str, Any], text: Tensor | None = None) -> Tensor:
        batch = len(latents)
        if text is None:
            text = torch.zeros(batch, LENGTH, self.config["context_dim"], **self.place)
        size = (
            torch.zeros(batch, self.config["adm_in_channels"], **self.place)
            if "adm_in_channels" in self.config
            else None
        )
        level = torch.full((batch,), 500.0, device=latents.device)
        return self.module(latents, level, text, y=size, transformer_options=options)

    def cells(self, height: int, width: int) -> Tensor:
        return torch.stack([region.cells(height, width) for region in self.regions])

    def energy(self, latents: Tensor, stop: bool = True, text: Tensor | None = None) -> Tensor:
        """Of one picture; with `stop`, of a pass that ends at the last map."""
        capture = Capture(self.blocks, "mine", [column for own in COLUMNS for column in own], LENGTH)
        options = watch({"transformer_options": {"uuids": ["mine"]}}, [capture], stop)["transformer_options"]
        until_last_map(lambda: self.forward(latents, options, text))
        maps = [capture.maps[block] for block in self.blocks]
        return layout_energy(maps, [0, 1], [self.cells(*m.shape[-2:]) for m in maps]).sum()

    def read_by_region(self, concepts: int) -> None:
        """A pass with CFG that reads class words and so many concepts, each in its region, steered as by default."""
        count = concepts + 1
        regions = default_layout([f"concept {i}" for i in range(concepts)]).regions
        variants = [Variant(torch.zeros(1, LENGTH, 1), [(4 + 3 * i,) for i in range(concepts)]) for _ in range(count)]
        read = ReadContexts(variants, range(1, count))
        contexts = read.contexts(range(concepts))

        def cells(height: int, width: int) -> Tensor:
            return torch.stack([region.cells(height, width) for region in regions])

        rules = [*read.rules(contexts, cells), SteeringRule(contexts, cells, lambda _: Steering().strength)]
        options = {"transformer_options": {"uuids": ["negative", "mine"]}}
        options = steer(options, self.outline.groups, {"mine": Reading(contexts, rules)})
        options = bound(options, self.outline.groups, {"mine": BoundingRule(cells, Bounding().at)}, progress=0.0)
        text = torch.zeros(2, contexts.length, self.config["context_dim"], **self.place)
        self.forward(self.latents(2), options["transformer_options"], text)

    def steered(self, latents: Tensor, replaced: dict[Any, Any], strength: float, balance: float = 0.0) -> None:
        """A pass with CFG, steered and balanced, its maps captured, over others' replacements; with strength 0 a plain one."""
        options = {"transformer_options": {"uuids": ["negative", "mine"], "patches_replace": {"attn2": replaced}}}
        if strength:
            capture = Capture(self.blocks, "mine", [column for own in COLUMNS for column in own], LENGTH)
            contexts = Contexts.one(LENGTH, COLUMNS)
            rules: list[Rule] = [SteeringRule(contexts, self.cells, lambda _: strength)]
            if balance:
                rules.append(BalanceRule(contexts, lambda _: balance))
            readings = {"mine": Reading(contexts, rules)}
            options = steer(options, self.outline.groups, readings, captures=[capture])
        self.forward(latents, options["transformer_options"])


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def costs(unet: Unet) -> tuple[int, int, int]:
    """FLOPs for one picture of a forward pass, of one up to the last map, and of a guided pass."""
    latents = unet.latents().requires_grad_()

    def guided() -> None:
        z = latents.clone()  # the counter cannot differentiate with respect to what enters a module
        torch.autograd.grad(unet.energy(z), latents)

    with torch.no_grad():
        plain, cut = flops(lambda: unet.forward(latents, {})), flops(lambda: unet.energy(latents))
    return plain, cut, flops(guided)


@torch.no_grad()
def steering_costs(unet: Unet, beside_another: bool, balance: float = 0.0) -> float:
    """FLOPs of a run steered as by default, and balanced as long, over those of a plain one, with CFG.

    Args:
        beside_another: every block's attention is replaced by another pack already. Its own attention is the least that it
            can take, as more of it would make steering's part smaller.
    """
    sigmas, latents = torch.linspace(14.6, 0, STEPS + 1), unet.latents(2)
    replaced = {b.place: _attention_of_another for b in unet.outline.blocks} if beside_another else {}
    known: dict[bool, int] = {}
    total = 0
    for sigma in sigmas[:-1]:
        strength = Steering().at(progress(sigma.item(), sigmas))
        if bool(strength) not in known:  # whatever it is, the operations are the same
            known[bool(strength)] = flops(lambda s=strength: unet.steered(latents, replaced, s, balance))
        total += known[bool(strength)]
    return total / (STEPS * flops(lambda: unet.steered(latents, replaced, 0)))


@torch.no_grad()
def regional_costs(unet: Unet, concepts: int) -> float:
    """FLOPs of a pass with CFG that reads so many concepts by region, over those of a plain one."""
    return flops(lambda: unet.read_by_region(concepts)) / flops(lambda: unet.forward(unet.latents(2), {}))


def _attention_of_another(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
    q, k, v = (t.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Calls:
    """Runs of the micro world, and at which steps of the schedule its UNet is called."""

    def __init__(self) -> None:
        self.model, clip, _ = load_checkpoint(CHECKPOINT)
        self.positive = composition_prompt(clip, "a photo of a cat and a car", ["cat", "car"])
        self.negative = nodes.CLIPTextEncode().encode(clip, "")[0]
        self.layout = plain_layout(self.positive, (8, 8))

    @torch.inference_mode()
    def sample(self, model: Any) -> tuple[Tensor, list[float]]:
        """The latent, and the steps."""
        empty = {"samples": torch.zeros(1, 4, 8, 8)}
        with self._counted(model) as steps:
            (latent,) = nodes.common_ksampler(
                model, 1, STEPS, 5.0, "euler", "normal", self.positive, self.negative, empty
            )
        return latent["samples"], steps

    @torch.inference_mode()
    def recovered(self) -> list[float]:
        """The steps of the short run that recovers a layout."""
        empty = torch.zeros(1, 4, 8, 8)
        with self._counted(self.model) as steps:
            recover_layout(self.model, self.positive, self.negative, empty, seed=1, steps=PROBE_STEPS, cfg=5.0)
        return steps

    @contextmanager
    def _counted(self, model: Any) -> Generator[list[float]]:
        steps: list[float] = []
        counting = model.model.diffusion_model.register_forward_pre_hook(
            lambda _, inputs: steps.append(inputs[1][0].item())
        )
        try:
            yield steps
        finally:
            counting.remove()

    def held(self, layout: Layout, steering: float, threshold: float) -> Sequence[float]:
        """Of a run held to a layout; with a threshold, guided all along the schedule."""
        guidance = Guidance(30.0 if threshold else 0.0, until=1.0, threshold=threshold)
        return self.sample(
            with_layout(self.model, layout, Steering(steering), guidance, balance=Balance(), regional=WHOLE_PROMPT)
        )[1]


def main() -> None:
    for architecture in (SD15, SDXL):
        unet = Unet(architecture)
        plain, cut, guided = costs(unet)
        one, whole, anchor = GOALS[architecture.name]
        goal("S1", architecture.name, guided / plain, one, anchor)
        # 50 steps with CFG and the paper's maximum of 50 guided passes; before them one is weighed
        most = 1 + (50 * guided + cut) / (100 * plain)
        goal("S2", architecture.name, most, whole)
        goal("S8", architecture.name, steering_costs(unet, False), 1.15, f"{most:.3f} guided")
        goal("S8", f"{architecture.name} balanced as well", steering_costs(unet, False, 1.0), 1.15)
        goal("S8", f"{architecture.name} beside another pack's attention", steering_costs(unet, True), 1.15)
        for concepts in CONCEPTS:
            goal("S9", f"{architecture.name} {concepts} by region", regional_costs(unet, concepts), REGIONAL[concepts])
    calls = Calls()
    _, plain = calls.sample(calls.model)
    recovered = len(calls.recovered()) / len(plain)
    for architecture in (SD15, SDXL):
        sampled = regional_costs(Unet(architecture), 2)
        free = f"{sampled:.3f} predicted or side by side"
        goal("S11", f"{architecture.name} one image, its layout recovered", sampled + recovered, 1.45, free)
    goal("S3", "no regions", len(calls.held(Layout((), "my boxes"), 6.0, 0.2)) / len(plain), 1.0)
    goal("S3", "steering alone", len(calls.held(calls.layout, 6.0, 0)) / len(plain), 1.0)
    after = [[step for step in steps if step < plain[0]] for steps in (calls.held(calls.layout, 0, 1.0), plain)]
    goal("S3", "once under the threshold", len(after[0]) / len(after[1]), 1.0)
