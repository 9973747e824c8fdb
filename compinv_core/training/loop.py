"""The loop: only the placeholder's vectors move; everything that does not change was computed before it starts."""

import math
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from ..anchors import ON_PAR, anchor_loss, density, paper_anchor_loss, sparsemax
from ..backbone import Encoded, NoiseSchedule, Predictor
from .objective import NoiseLevels, diffusion_loss, timesteps_at

REPORT = 10  # steps; a report has to wait for the device
CHECKS = 10  # in a run
EXAM = 16  # pictures of a check, in a run that learns from EXAM_SHARE times as many or more
EXAM_SHARE = 100
LEAST_EXAM = 4
PREVIEW_SHARE = 320  # pictures that are learnt from for each look at what the word gives
WEIGHT_RATE = 0.02  # a step of an anchor's weight
SPARSITY = 0.1  # spreads; what all anchors instead of one cost at most, where the weights are learnt
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
        growing: whether the anchors' weight rises from 0 to its full height along the run, instead of being there from
            the start.
        noise_levels: which ones are trained more often.
        reference: as the reference implementation does it: a learning rate in the embedding's own numbers that stays as
            it is, a weight decay of 0.01, and its own anchor loss.
    """

    steps: int = 400
    batch: int = 4
    learning_rate: float = 0.1
    reconstruction_weight: float = 0.9
    anchor_weight: float = 0.1
    seed: int = 0
    growing: bool = False
    noise_levels: NoiseLevels = "even"
    reference: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"Training needs 1 or more steps and pictures a step, but got {self.steps} and {self.batch}."
            )

    def falling(self, step: int) -> float:
        """What is left of the learning rate at a step, of which the first is 1: half a cosine from 1 to 0."""
        if self.reference:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps))

    def weights(self, step: int) -> tuple[float, float]:
        """Of both losses at a step, as the anchors' is measured."""
        grown = step / self.steps if self.growing else 1.0
        return self.reconstruction_weight, self.anchor_weight * grown * (1.0 if self.reference else ON_PAR)

    def checks(self, step: int) -> bool:
        """Whether a report at this step comes with a check: at CHECKS of them, the last among them."""
        passed = step * CHECKS // self.steps > (step - REPORT) * CHECKS // self.steps
        return step == self.steps or (step % REPORT == 0 and passed)

    def previews(self, step: int) -> bool:
        """Whether a check at this step comes with a look at what the word gives, which costs as much as several checks.

        As many checks do as the run's length allows, evenly, the last among them.
        """
        count = min(CHECKS, max(1, self.steps * self.batch // PREVIEW_SHARE))
        now, before = (at * CHECKS // self.steps * count // CHECKS for at in (step, step - REPORT))
        return step == self.steps or (self.checks(step) and now > before)

    @property
    def exam(self) -> int:
        """How many pictures a check is made of: fewer in a short run, for checks are not to cost more than training does."""
        return min(EXAM, max(LEAST_EXAM, self.steps * self.batch // EXAM_SHARE))


REFERENCE = Recipe(5000, 8, 5e-3 * 8, 0.05, 0.95, reference=True)
"""The reference implementation's textual inversion with one anchor on SD 1.x; its batch is 4, accumulated twice."""


@dataclass(frozen=True)
class Pull:
    """Where one text encoder's vectors are drawn: a mixture of `anchors` (A, E), in units of `spread`."""

    anchors: Tensor
    spread: float


@dataclass(frozen=True)
class Batch:
    """What a loss is taken on: indices (B,), timesteps (B,) and noise (B, C, h, w)."""

    example: Tensor
    prompt: Tensor
    timesteps: Tensor
    noise: Tensor

    def parts(self, size: int) -> "list[Batch]":
        """Of `size` each, or less."""
        return [Batch(*part) for part in zip(*(values.split(size) for values in vars(self).values()), strict=True)]


@dataclass(frozen=True)
class Workers:
    """Processes that learn one word together: each takes a share of every batch, and their gradients are summed.

    Attributes:
        rank, count: which one this is, of how many.
        add_up: replaces a tensor by the sum of all workers' own.
        told: of anything, what the first worker has; they may be on several machines with folders of their own.
    """

    rank: int = 0
    count: int = 1
    add_up: Callable[[Tensor], None] = lambda tensor: None
    told: Callable[[Any], Any] = lambda own: own

    def share(self, batch: Batch) -> Batch:
        """Every count-th picture of a batch; none where there are more workers than pictures."""
        return Batch(*(values[self.rank :: self.count] for values in vars(batch).values()))


@dataclass(frozen=True)
class Task:
    """What a word is learnt from, and what is asked of it.

    Attributes:
        latents: (N, C, h, w), of pictures and what was made of them. Everything is on their device.
        prompts: (N, P), the indices of the prompts that fit each.
        encode: prompt indices (B) and vectors -> B prompts, differentiable in the vectors.
        pulls: anchors by text encoder; None is plain textual inversion, whose loss is the reconstruction alone.
        weights: (A,), of the anchors, on the simplex.
        learn_weights: whether these weights are learnt, too, and drawn to few anchors.
        masks: (N, 1, h, w) in 0..1, or None.
        teach: prompt indices (B) -> B prompts whose predictions are the target; None learns from the latents themselves.
        at_once: so many pictures of a batch go through the model together, where memory is short.
        workers: all with the same task and the same seed; what they learn differs only by the rounding of sums.
        relieve: how many pictures to try at once when memory ran out with so many; 0 gives up.
    """

    latents: Tensor
    prompts: Tensor
    encode: Encode
    predict: Predictor
    schedule: NoiseSchedule
    recipe: Recipe
    pulls: Mapping[str, Pull] | None = None
    weights: Tensor = field(default_factory=lambda: torch.ones(1))
    learn_weights: bool = False
    masks: Tensor | None = None
    teach: Callable[[list[int]], Encoded] | None = None
    at_once: int = 1 << 30
    workers: Workers = Workers()
    relieve: Callable[[int], int] = lambda at_once: at_once // 2

    @property
    def scale(self) -> float:
        """What the reconstruction loss is multiplied by on its way back through the frozen model, at first: a power of two,
        which no float32 notices.

        The loss is a mean over all that a batch predicts, so that each value's gradient would be too small for float16.
        """
        return float(1 << (self.latents[0].numel() * self.recipe.batch).bit_length() - 1)

    def draw(self, size: int, generator: torch.Generator, levels: NoiseLevels) -> Batch:
        """A batch whose noise levels lie apart: each in its own part, all parts as likely."""
        example = torch.randint(len(self.latents), (size,), generator=generator)
        column = torch.randint(self.prompts.shape[1], (size,), generator=generator)
        shares = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        timesteps = timesteps_at(shares, len(self.schedule.alphas_cumprod), levels)
        noise = torch.randn((size, *self.latents.shape[1:]), generator=generator)
        return Batch(example, self.prompts[example, column], timesteps, noise)

    def reconstruction(self, vectors: Vectors, batch: Batch) -> Tensor:
        """The loss of each picture, (B,)."""
        # A copy that the CPU waits for would wait for all that the device still has to do.
        example, timesteps, noise = (
            values.to(self.latents.device, non_blocking=True)
            for values in (batch.example, batch.timesteps, batch.noise)
        )
        mask = None if self.masks is None else self.masks[example]
        prompts = cast("list[int]", batch.prompt.tolist())
        encoded, teacher = self.encode(prompts, vectors), self.teach and self.teach(prompts)
        latents = self.latents[example]
        return diffusion_loss(self.predict, self.schedule, latents, noise, timesteps, encoded, mask, teacher)

    def anchor(self, vectors: Vectors, scores: Tensor) -> Tensor:
        """How far the vectors are from their anchors, in spreads; 0 without anchors.

        The anchors' weights are the `sparsemax` of `scores` (A,).
        """
        if not self.pulls:
            return torch.zeros((), device=self.latents.device)
        weights = sparsemax(scores)
        if self.recipe.reference:
            losses = [paper_anchor_loss(vectors[key], weights @ pull.anchors) for key, pull in self.pulls.items()]
        else:
            losses = [anchor_loss(vectors[k], weights @ pull.anchors, pull.spread) for k, pull in self.pulls.items()]
        loss = torch.stack(losses).mean()
        return loss + SPARSITY * density(weights) if self.learn_weights else loss

    def backward(
        self, vectors: Vectors, scores: Tensor, batch: Batch, step: int, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of semantic inversion at a step.

        Returns:
            The two losses (2,), not weighed, and the next step's scale. Where the gradient that came back through the model is no
            number that is half of this one's, and the anchors alone pull.
        """
        reconstruction_weight, anchor_weight = self.recipe.weights(step) if self.pulls else (1.0, 0.0)
        total = torch.zeros((), device=self.latents.device)
        share = self.workers.share(batch)
        for part in share.parts(self.at_once) if len(share.prompt) else []:
            loss = self.reconstruction(vectors, part).sum() / len(batch.prompt)
            (reconstruction_weight * loss * scale).backward()
            total += loss.detach()
        gradients = [cast(Tensor, vector.grad) for vector in vectors.values()]
        for tensor in [total, *gradients]:
            self.workers.add_up(tensor)
        sound = torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
        for gradient in gradients:
            gradient.copy_(torch.where(sound, gradient / scale, 0))
        anchor = self.anchor(vectors, scores)
        if anchor.requires_grad:
            (anchor_weight * anchor).backward()
        return torch.stack([total, anchor.detach()]), torch.where(sound, scale, scale / 2)

    @torch.no_grad()
    def check(self, vectors: Vectors, scores: Tensor) -> tuple[float, float]:
        """(reconstruction, whole loss) on pictures, prompts and noise that are the same each time, noise levels spread evenly."""
        questions = self.draw(self.recipe.exam, torch.Generator().manual_seed(self.recipe.seed), "even")
        size = min(self.recipe.batch, self.at_once)
        loss = torch.cat([self.reconstruction(vectors, part) for part in questions.parts(size)]).mean()
        reconstruction_weight, anchor_weight = self.recipe.weights(self.recipe.steps) if self.pulls else (1.0, 0.0)
        whole = reconstruction_weight * loss + anchor_weight * self.anchor(vectors, scores)
        return loss.item(), whole.item()


@dataclass(frozen=True)
class Losses:
    """Of a report.

    Attributes:
        reconstruction, anchor: means over the steps since the last report.
        check: at some reports, the reconstruction loss on pictures, noise and timesteps that are the same each time,
            so that a small difference between two checks means something; else None.
    """

    step: int
    reconstruction: float
    anchor: float
    check: float | None


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after `step` steps as if it had never stopped.

    Attributes:
        vectors: text-encoder key -> (n, E).
        scores: (A,), whose `sparsemax` is the anchors' weights.
        best: the vectors of the check with the lowest loss so far; those of the start are checked, too.
        lowest: that loss.
        before: the reconstruction loss of the start's check: what the class word alone explains of the pictures.
        optimizer: AdamW's state dict.
        random: state of the generator that pictures, prompts, timesteps and noise are drawn from.
        at_once: the task's; sums in other parts would round otherwise.
        history: of every report so far.
        scale: of the next step; see `Task.scale`.
    """

    step: int
    vectors: Vectors
    scores: Tensor
    best: Vectors
    lowest: float
    before: float
    optimizer: dict[str, Any]
    random: Tensor
    at_once: int
    history: tuple[Losses, ...]
    scale: float


@dataclass(frozen=True)
class Progress(Losses):
    """A report. The optimizer's state is a live one."""

    checkpoint: Checkpoint


@contextmanager
def repeatable() -> Generator[None]:
    """For its time, torch takes kernels whose sums have one order, wherever it has them."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    others: Any = torch.utils.deterministic
    filled = others.fill_uninitialized_memory
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*determinis.*")  # what there is no such kernel for
            torch.use_deterministic_algorithms(True, warn_only=True)
            others.fill_uninitialized_memory = False  # it takes time, and nobody reads it
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        others.fill_uninitialized_memory = filled


@repeatable()
def train(
    start: Vectors,
    scale: Mapping[str, float],
    task: Task,
    resume: Checkpoint | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    on_report: Callable[[Progress], None] = lambda _: None,
    cancelled: tuple[type[Exception], ...] = (),
) -> Checkpoint:
    """Learn the vectors of one concept.

    Args:
        start: text-encoder key -> (n, E), where the search begins.
        scale: text-encoder key -> the vocabulary's root mean square per coordinate, the unit of the learning rate.
        resume: of an earlier run with the same other arguments; the result is bit-identical to an undisturbed run's.
        interrupted: asked after every step; True ends the run there.
        on_report: called every REPORT steps and after the last one. What it is shown is sound.
        cancelled: what the model raises in the middle of a step to end the run; it ends as if that step had not begun.

    Returns:
        The state at the end, of fewer steps than the recipe's if the run was interrupted.

    Raises:
        FloatingPointError: a loss is no longer a number, or the vectors run away; no report shows such a state.
    """
    recipe, device = task.recipe, task.latents.device
    begin = start if resume is None else resume.vectors
    vectors = {key: value.detach().clone().to(device).requires_grad_() for key, value in begin.items()}
    scores = (task.weights if resume is None else resume.scores).detach().clone().to(device)
    scores.requires_grad_(task.learn_weights)
    units = {key: 1.0 if recipe.reference else scale[key] for key in vectors}
    rates = [*((vector, recipe.learning_rate * units[key]) for key, vector in vectors.items()), (scores, WEIGHT_RATE)]
    decay = 0.01 if recipe.reference else 0.0
    for vector in vectors.values():
        vector.grad = torch.zeros_like(vector)
    optimizer = torch.optim.AdamW([{"params": [p]} for p, _ in rates if p.requires_grad], weight_decay=decay)
    generator = torch.Generator().manual_seed(recipe.seed)
    if resume is not None:
        optimizer.load_state_dict(resume.optimizer)
        generator.set_state(resume.random)
        end = resume
    else:
        before, lowest = task.check(vectors, scores)
        end = Checkpoint(
            0,
            start,
            task.weights,
            start,
            lowest,
            before,
            optimizer.state_dict(),
            generator.get_state(),
            task.at_once,
            (),
            task.scale,
        )
    losses: list[Tensor] = []
    scale_of_loss = torch.tensor(end.scale, device=device)

    def report(step: int) -> Progress:
        met = torch.stack(losses).cpu()
        losses.clear()
        longest = max(v.detach().square().mean(dim=1).max().sqrt().item() / scale[key] for key, v in vectors.items())
        if not met.isfinite().all() or not longest < RUNAWAY or scale_of_loss < 1:
            raise FloatingPointError(
                f"Training went astray before step {step}: the loss is {met[-1].sum().item():.4g}, and the word is "
                f"{longest:.0f} times as long as ordinary ones; lower the learning rate, or load the model in float32."
            )
        now = {key: value.detach().clone() for key, value in vectors.items()}
        best, lowest, checked = end.best, end.lowest, None
        if recipe.checks(step):
            checked, loss = task.check(vectors, scores)
            if loss < lowest:
                best, lowest = now, loss
        reported = Losses(step, met[:, 0].mean().item(), met[:, 1].mean().item(), checked)
        checkpoint = Checkpoint(
            step,
            now,
            scores.detach().clone(),
            best,
            lowest,
            end.before,
            optimizer.state_dict(),
            generator.get_state(),
            task.at_once,
            (*end.history, reported),
            scale_of_loss.item(),
        )
        return Progress(**vars(reported), checkpoint=checkpoint)

    def gradient(batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """`Task.backward`, in smaller parts from where memory runs out."""
        nonlocal task
        while True:
            try:
                return task.backward(vectors, scores, batch, step, scale_of_loss)
            except torch.cuda.OutOfMemoryError as error:
                out_of_memory = error.with_traceback(None)  # which keeps all that the step had made
            at_once = task.relieve(min(task.at_once, recipe.batch))
            if not at_once:
                raise out_of_memory
            optimizer.zero_grad(set_to_none=False)
            task = replace(task, at_once=at_once)

    done = end.step == recipe.steps
    step = end.step
    while not done:
        random = generator.get_state()
        optimizer.zero_grad(set_to_none=False)
        try:
            batch = task.draw(recipe.batch, generator, recipe.noise_levels)
            met, scale_of_loss = gradient(batch, step + 1)
        except cancelled:
            generator.set_state(random)
            done = True
        else:
            step += 1
            losses.append(met)
            for group, (_, rate) in zip(optimizer.param_groups, rates, strict=False):
                group["lr"] = rate * recipe.falling(step)
            optimizer.step()
            done = step == recipe.steps or interrupted()
        if losses and (done or step % REPORT == 0):
            progress = report(step)
            end = progress.checkpoint
            on_report(progress)
    return end
