"""How something is learnt: one record of settings, and the reference implementation's as presets of it."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from ..anchors import ON_PAR, TEXT_ON_PAR
from .objective import NoiseLevels

REPORT_STEPS = 10  # between two reports; a report has to wait for the device
EVALUATIONS = 10  # of a run
EVAL_SIZE = 16  # images of an evaluation, in a run that learns from IMAGES_PER_EVAL_IMAGE times as many or more
IMAGES_PER_EVAL_IMAGE = 100
LEAST_EVAL_SIZE = 4
IMAGES_PER_PREVIEW = 320  # images that are learnt from for each preview

AnchorLoss = Literal["embedding", "embedded prompt", "text features"]
AnchorSchedule = Literal["constant", "growing"]
Optimizer = Literal["AdamW", "sphere"]


@dataclass(frozen=True)
class Recipe:
    """How something is learnt.

    Attributes:
        steps: optimiser steps.
        batch: images a step.
        learning_rate: of a word's vectors, an AdamW step; in `lr_unit`. On the sphere, radians a step.
        reconstruction_weight, anchor_weight: the two weights of semantic inversion.
        seed: of images, prompts, timesteps and noise.
        anchor_schedule: "growing": the anchors' weight rises from 0 to its full height along the run.
        noise_levels: which ones are trained more often.
        lr_schedule: "cosine": half a cosine from 1 to 0; "constant".
        lr_unit: "relative": in units of what is learnt, the vocabulary's root mean square per coordinate or a weight's own, so
            that one number serves every model; "absolute": in its own numbers.
        weight_decay: AdamW's.
        anchor_loss: "embedding": distance to the anchors in spreads of the vocabulary; "embedded prompt": the reference
            implementation's mean over all of an embedded prompt; "text features": of the prompt's pooled output to that with the
            class word (ClassDiffusion, Huang et al. 2025).
        weights_learning_rate: of changes of the model's weights; in `lr_unit`.
        max_grad_norm: gradients are scaled down to this norm; None leaves them.
        optimizer: of a word's vectors; the rest is always AdamW's. "sphere": they keep the mean length of the vocabulary's, and
            their directions are learnt (Directional Textual Inversion, Kim et al. 2026).
    """

    steps: int = 400
    batch: int = 4
    learning_rate: float = 0.1
    reconstruction_weight: float = 0.9
    anchor_weight: float = 0.1
    seed: int = 0
    anchor_schedule: AnchorSchedule = "constant"
    noise_levels: NoiseLevels = "even"
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    lr_unit: Literal["relative", "absolute"] = "relative"
    weight_decay: float = 0.0
    anchor_loss: AnchorLoss = "embedding"
    weights_learning_rate: float = 0.003
    max_grad_norm: float | None = None
    optimizer: Optimizer = "AdamW"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"Training needs 1 or more steps and images a step, but got {self.steps} and {self.batch}."
            )

    def lr_factor(self, step: int) -> float:
        """What is left of the learning rate at a step, of which the first is 1."""
        if self.lr_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps))

    def loss_weights(self, step: int) -> tuple[float, float]:
        """Of the reconstruction and of the anchor loss at a step."""
        warmup = step / self.steps if self.anchor_schedule == "growing" else 1.0
        unit = {"embedding": ON_PAR, "embedded prompt": 1.0, "text features": TEXT_ON_PAR}[self.anchor_loss]
        return self.reconstruction_weight, self.anchor_weight * warmup * unit

    def evaluates(self, step: int) -> bool:
        """Whether a report at this step comes with an evaluation: at EVALUATIONS of them, the last among them."""
        passed = step * EVALUATIONS // self.steps > (step - REPORT_STEPS) * EVALUATIONS // self.steps
        return step == self.steps or (step % REPORT_STEPS == 0 and passed)

    def previews(self, step: int) -> bool:
        """Whether an evaluation at this step comes with a preview, which costs as much as several evaluations.

        As many do as the run's length allows, evenly: of two or more the first evaluation of all, and always the last.
        """
        count = min(EVALUATIONS, max(1, self.steps * self.batch // IMAGES_PER_PREVIEW))
        between = (EVALUATIONS - 1) / max(1, count - 1)
        chosen = {round(EVALUATIONS - i * between) for i in range(count)}
        before, now = ((at * EVALUATIONS) // self.steps for at in (step - REPORT_STEPS, step))
        return step == self.steps or (self.evaluates(step) and any(before < one <= now for one in chosen))

    @property
    def eval_size(self) -> int:
        """Images of an evaluation: fewer in a short run, for evaluations are not to cost more than training does."""
        return min(EVAL_SIZE, max(LEAST_EVAL_SIZE, self.steps * self.batch // IMAGES_PER_EVAL_IMAGE))


_REFERENCE = Recipe(
    lr_schedule="constant", lr_unit="absolute", weight_decay=0.01, anchor_loss="embedded prompt", noise_levels="even"
)  # fmt: skip
PAPER = replace(
    _REFERENCE, steps=5000, batch=8, learning_rate=5e-3 * 8, reconstruction_weight=0.05, anchor_weight=0.95
)  # fmt: skip
"""The reference implementation's textual inversion with one anchor on SD 1.x; its batch is 4, accumulated twice."""
PAPER_KEYS_AND_VALUES = replace(
    PAPER, steps=500, batch=2, learning_rate=4e-5, weights_learning_rate=4e-5, max_grad_norm=1.0
)
"""Its Custom Diffusion, single concept: 1e-5 x batch 2 x 2 with a prior; one learning rate for the word and the weights."""
PAPER_DREAMBOOTH = replace(
    PAPER, steps=800, batch=1, learning_rate=1e-5, weights_learning_rate=1e-5, max_grad_norm=1.0,
    reconstruction_weight=0.6, anchor_weight=0.4,
)  # fmt: skip
"""Its DreamBooth, single concept: 1e-5 x batch 1."""
