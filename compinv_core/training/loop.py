"""The loop: only the placeholder's vectors move; everything that does not change was computed before it starts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..anchors import ON_PAR, anchor_loss
from .objective import Encoded, NoiseSchedule, Predictor, diffusion_loss

REPORT = 10  # steps; a report has to wait for the device
RUNAWAY = 100.0  # times the length of an ordinary word; learnt words of one to eight times work

Vectors = dict[str, Tensor]
Encode = Callable[[list[int], Mapping[str, Tensor]], Encoded]


@dataclass(frozen=True)
class Recipe:
    """How a word is learnt.

    Attributes:
        steps: optimiser steps.
        batch: pictures a step.
        learning_rate: an AdamW step in units of the vocabulary's own root mean square per coordinate, so that one
            number serves every text encoder; falls to zero along a half cosine.
        reconstruction_weight, anchor_weight: the two weights of semantic inversion; a spread from the anchors counts ON_PAR.
        seed: of pictures, prompts, timesteps and noise.
    """

    steps: int = 800
    batch: int = 4
    learning_rate: float = 0.1
    reconstruction_weight: float = 0.9
    anchor_weight: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"Training needs 1 or more steps and pictures a step, but got {self.steps} and {self.batch}."
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step, of which the first is 1."""
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps))


@dataclass(frozen=True)
class Pull:
    """Where one text encoder's vectors are drawn: `target` (E,), measured in units of `spread`."""

    target: Tensor
    spread: float


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after `step` steps as if it had never stopped.

    Attributes:
        vectors: text-encoder key -> (n, E).
        optimizer: AdamW's state dict.
        random: state of the generator that pictures, prompts, timesteps and noise are drawn from.
    """

    step: int
    vectors: Vectors
    optimizer: dict[str, Any]
    random: Tensor


@dataclass(frozen=True)
class Progress:
    """A report: both losses, as means over the steps since the last one. The optimizer's state is a live one."""

    step: int
    reconstruction: float
    anchor: float
    checkpoint: Checkpoint


def train(
    start: Vectors,
    scale: Mapping[str, float],
    latents: Tensor,
    prompts: int,
    encode: Encode,
    predict: Predictor,
    schedule: NoiseSchedule,
    recipe: Recipe,
    pulls: Mapping[str, Pull] | None = None,
    masks: Tensor | None = None,
    resume: Checkpoint | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    on_report: Callable[[Progress], None] = lambda _: None,
) -> Checkpoint:
    """Learn the vectors of one concept.

    Args:
        start: text-encoder key -> (n, E), where the search begins.
        scale: text-encoder key -> the vocabulary's root mean square per coordinate, the unit of the learning rate.
        latents: (N, V, C, h, w), each picture in V variants (1, or 2 with its mirror image).
        prompts: how many prompts `encode` knows.
        encode: prompt indices (B) and vectors -> B prompts, differentiable in the vectors.
        pulls: anchors by text encoder; None is plain textual inversion, whose loss is the reconstruction alone.
        masks: (N, V, 1, h, w) in 0..1, or None.
        resume: of an earlier run with the same other arguments; the result is bit-identical to an undisturbed run's.
        interrupted: asked after every step; True ends the run there.
        on_report: called every REPORT steps and after the last one. What it is shown is sound.

    Returns:
        The state at the end, of fewer steps than the recipe's if the run was interrupted.

    Raises:
        FloatingPointError: a loss is no longer a number, or the vectors run away; no report shows such a state.
    """
    device = latents.device
    begin = start if resume is None else resume.vectors
    vectors = {key: value.detach().clone().to(device).requires_grad_() for key, value in begin.items()}
    optimizer = torch.optim.AdamW([{"params": [v]} for v in vectors.values()], weight_decay=0.0)
    generator = torch.Generator().manual_seed(recipe.seed)
    if resume is not None:
        optimizer.load_state_dict(resume.optimizer)
        generator.set_state(resume.random)
    losses: list[Tensor] = []

    def draw(below: int) -> Tensor:
        return torch.randint(below, (recipe.batch,), generator=generator)

    def checkpoint(step: int) -> Checkpoint:
        kept = {key: value.detach().clone() for key, value in vectors.items()}
        return Checkpoint(step, kept, optimizer.state_dict(), generator.get_state())

    def report(step: int) -> Progress:
        met = torch.stack(losses).cpu()
        losses.clear()
        longest = max(v.detach().square().mean(dim=1).max().sqrt().item() / scale[key] for key, v in vectors.items())
        if not met.isfinite().all() or not longest < RUNAWAY:
            raise FloatingPointError(
                f"Training went astray before step {step}: the loss is {met[-1].sum().item():.4g}, and the word is "
                f"{longest:.0f} times as long as ordinary ones; lower the learning rate, or load the model in float32."
            )
        return Progress(step, met[:, 0].mean().item(), met[:, 1].mean().item(), checkpoint(step))

    step, done = (0, False) if resume is None else (resume.step, resume.step == recipe.steps)
    while not done:
        step += 1
        picture, variant, prompt = draw(latents.shape[0]), draw(latents.shape[1]), draw(prompts)
        timesteps = draw(len(schedule.alphas_cumprod)).to(device)
        clean = latents[picture, variant]
        noise = torch.randn(clean.shape, generator=generator).to(device)
        mask = None if masks is None else masks[picture, variant]
        encoded = encode(cast("list[int]", prompt.tolist()), vectors)
        reconstruction = diffusion_loss(predict, schedule, clean, noise, timesteps, encoded, mask)
        anchor = torch.zeros((), device=device)
        loss = reconstruction
        if pulls:
            anchor = torch.stack(
                [anchor_loss(vectors[k], p.target.to(device), p.spread) for k, p in pulls.items()]
            ).mean()
            loss = recipe.reconstruction_weight * reconstruction + recipe.anchor_weight * ON_PAR * anchor
        optimizer.zero_grad()
        loss.backward()
        for group, key in zip(optimizer.param_groups, vectors, strict=True):
            group["lr"] = recipe.rate(step) * scale[key]
        optimizer.step()
        losses.append(torch.stack([reconstruction.detach(), anchor.detach()]))
        done = step == recipe.steps or interrupted()
        if done or step % REPORT == 0:
            on_report(report(step))
    return checkpoint(step)
