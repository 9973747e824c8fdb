"""The loop: only the placeholder's vectors move; everything that does not change was computed before it starts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..anchors import ON_PAR, anchor_loss
from .objective import NoiseSchedule, Predictor, diffusion_loss

Vectors = dict[str, Tensor]
Encode = Callable[[list[int], Mapping[str, Tensor]], Tensor]


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


@dataclass(frozen=True)
class Pull:
    """Where one text encoder's vectors are drawn: `target` (E,), measured in units of `spread`."""

    target: Tensor
    spread: float


@dataclass(frozen=True)
class Progress:
    """The state after a step; `vectors` are the live tensors, to be cloned by whoever keeps them."""

    step: int
    reconstruction: float
    anchor: float
    vectors: Vectors


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
    on_step: Callable[[Progress], None] = lambda _: None,
) -> Vectors:
    """Learn the vectors of one concept.

    Args:
        start: text-encoder key -> (n, E), where the search begins.
        scale: text-encoder key -> the vocabulary's root mean square per coordinate, the unit of the learning rate.
        latents: (N, V, C, h, w), each picture in V variants (1, or 2 with its mirror image).
        prompts: how many prompts `encode` knows.
        encode: prompt indices (B) and vectors -> context (B, L, E), differentiable in the vectors.
        pulls: anchors by text encoder; None is plain textual inversion, whose loss is the reconstruction alone.
        masks: (N, V, 1, h, w) in 0..1, or None.
        on_step: called after every step; may raise to stop, the vectors of `start` stay untouched.

    Returns:
        text-encoder key -> (n, E), the learnt vectors.

    Raises:
        FloatingPointError: the loss is no longer a number.
    """
    device = latents.device
    vectors = {key: value.detach().clone().to(device).requires_grad_() for key, value in start.items()}
    groups = [{"params": [v], "lr": recipe.learning_rate * scale[key]} for key, v in vectors.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / recipe.steps, 1)))
    )
    generator = torch.Generator().manual_seed(recipe.seed)

    def draw(below: int) -> Tensor:
        return torch.randint(below, (recipe.batch,), generator=generator)

    for step in range(1, recipe.steps + 1):
        picture, variant, prompt = draw(latents.shape[0]), draw(latents.shape[1]), draw(prompts)
        timesteps = draw(len(schedule.alphas_cumprod)).to(device)
        clean = latents[picture, variant]
        noise = torch.randn(clean.shape, generator=generator).to(device)
        mask = None if masks is None else masks[picture, variant]
        context = encode(cast("list[int]", prompt.tolist()), vectors)
        reconstruction = diffusion_loss(predict, schedule, clean, noise, timesteps, context, mask)
        anchor = torch.zeros((), device=device)
        loss = reconstruction
        if pulls:
            anchor = torch.stack(
                [anchor_loss(vectors[k], p.target.to(device), p.spread) for k, p in pulls.items()]
            ).mean()
            loss = recipe.reconstruction_weight * reconstruction + recipe.anchor_weight * ON_PAR * anchor
        optimizer.zero_grad()
        loss.backward()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"The loss of step {step} is {loss.item()}; lower the learning rate, or load the model in float32."
            )
        optimizer.step()
        cosine.step()
        on_step(Progress(step, reconstruction.item(), anchor.item(), vectors))
    return {key: value.detach().cpu() for key, value in vectors.items()}
