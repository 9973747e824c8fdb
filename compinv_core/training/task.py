"""What a step minimises: the images' reconstruction loss, the anchors, the prior."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..backbone import Backbone, Encoded, NoiseSchedule, Predictor
from .checkpoint import Parameters
from .objective import NoiseLevels, diffusion_loss, timesteps_at
from .priors import NoPrior, Prior
from .recipe import Recipe
from .ways import Way


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
class TrainingData:
    """Images and the prompts that fit them.

    Attributes:
        latents: (N, C, h, w), of images and what was made of them, on the model's device.
        prompts: (N, P), the indices of the prompts that fit each.
        masks: (N, 1, h, w) in 0..1, what of each is learnt; or None.
        timesteps: those that are trained, rising; None for all.
    """

    latents: Tensor
    prompts: Tensor
    masks: Tensor | None = None
    timesteps: Tensor | None = None

    def middle(self, schedule: NoiseSchedule) -> int:
        """The timestep in the middle of those that are trained."""
        count = len(schedule.alphas_cumprod)
        return count // 2 if self.timesteps is None else int(self.timesteps[len(self.timesteps) // 2])

    def draw(self, size: int, generator: torch.Generator, schedule: NoiseSchedule, levels: NoiseLevels) -> Batch:
        """A batch whose noise levels lie apart: each in its own part, all parts as likely."""
        example = torch.randint(len(self.latents), (size,), generator=generator)
        column = torch.randint(self.prompts.shape[1], (size,), generator=generator)
        shares = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        if self.timesteps is None:
            timesteps = timesteps_at(shares, len(schedule.alphas_cumprod), levels)
        else:
            timesteps = self.timesteps[timesteps_at(shares, len(self.timesteps), levels)]
        noise = torch.randn((size, *self.latents.shape[1:]), generator=generator)
        return Batch(example, self.prompts[example, column], timesteps, noise)

    def clone(self) -> "TrainingData":
        """Of tensors that autograd can save, where these were made in inference mode."""
        masks, timesteps = (None if own is None else own.clone() for own in (self.masks, self.timesteps))
        return TrainingData(self.latents.clone(), self.prompts.clone(), masks, timesteps)


@dataclass(frozen=True)
class Workers:
    """Processes that learn together: each takes a share of every batch, and their gradients are summed.

    Attributes:
        rank, count: which one this is, of how many.
        all_reduce: replaces a tensor by the sum of all workers' own.
        broadcast: of anything, what the first worker has; they may be on several machines with folders of their own.
    """

    rank: int = 0
    count: int = 1
    all_reduce: Callable[[Tensor], None] = lambda tensor: None
    broadcast: Callable[[Any], Any] = lambda own: own

    def share(self, batch: Batch) -> Batch:
        """Every count-th image of a batch; none where there are more workers than images."""
        return Batch(*(values[self.rank :: self.count] for values in vars(batch).values()))


NO_PRIOR = NoPrior()
Encode = Callable[[Sequence[int]], Encoded]


@dataclass(frozen=True)
class Drawn:
    """A step's batch, and that of class images where the prior has them."""

    batch: Batch
    class_batch: Batch | None


@dataclass(frozen=True, eq=False)
class Task:
    """What something is learnt from, and what is asked of it.

    Attributes:
        teacher: prompt indices -> prompts whose predictions are the target (distillation); None learns from the images themselves.
        class_data: images of the class in the prompts' ordinary words, for a prior that has a weight.
        workers: all with the same task and the same seed; what they learn differs only by the rounding of sums.
    """

    data: TrainingData
    way: Way
    recipe: Recipe
    predict: Predictor
    schedule: NoiseSchedule
    unchanged: Callable[[], AbstractContextManager[None]]
    prior: Prior = NO_PRIOR
    class_data: TrainingData | None = None
    teacher: Encode | None = None
    workers: Workers = Workers()

    @classmethod
    def on(cls, backbone: Backbone, data: TrainingData, way: Way, recipe: Recipe, **more: Any) -> "Task":
        asked = {"predict": backbone.predict, "schedule": backbone.schedule, "unchanged": backbone.unchanged}
        return cls(data, way, recipe, **asked, **more)

    @property
    def device(self) -> torch.device:
        return self.data.latents.device

    @property
    def loss_scale(self) -> float:
        """What the reconstruction loss is multiplied by on its way back through the frozen model, at first: a power of two,
        which no float32 notices.

        The loss is a mean over all that a batch predicts, so that each value's gradient would be too small for float16.
        """
        return float(1 << (self.data.latents[0].numel() * self.recipe.batch).bit_length() - 1)

    def draw(self, generator: torch.Generator) -> Drawn:
        size, levels = self.recipe.batch, self.recipe.noise_levels
        batch = self.data.draw(size, generator, self.schedule, levels)
        if self.class_data is None:
            return Drawn(batch, None)
        return Drawn(batch, self.class_data.draw(size, generator, self.schedule, levels))

    def reconstruction(self, parameters: Parameters, batch: Batch) -> Tensor:
        """The loss of each image, (B,)."""
        prompts = cast("list[int]", batch.prompt.tolist())
        encoded, wanted = self.way.encode(prompts, parameters, batch.timesteps), self.teacher and self.teacher(prompts)
        return self._losses(self.data, batch, encoded, wanted)

    def minimised(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Of each image its reconstruction loss as the prior balances it, which is minimised, and that loss itself: (2, B)."""
        losses, base = self.reconstruction(parameters, batch), None
        if self.prior.needs_base_loss:
            with torch.no_grad(), self.unchanged():
                ordinary = self.way.encode_ordinary(cast("list[int]", batch.prompt.tolist()))
                base = self._losses(self.data, batch, ordinary)
        return torch.stack([self.prior.balanced(losses, base), losses])

    def of_class(self, batch: Batch) -> Tensor:
        """The loss of each class image, (B,)."""
        assert self.class_data is not None
        return self._losses(self.class_data, batch, self.way.encode_ordinary(cast("list[int]", batch.prompt.tolist())))

    def backward(
        self, parameters: Parameters, drawn: Drawn, step: int, scale: Tensor, micro_batch: int
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of a step.

        Returns:
            The losses (4,), not weighted: what is minimised of the images, anchors, prior, and the images' reconstruction loss; and
            the next step's scale. Where the gradient that came back through the model is not finite that is half of this one's, and
            the anchors alone pull, but not on a sphere.
        """
        penalty = self.way.penalty(parameters, self.recipe, cast("list[int]", drawn.batch.prompt.tolist()))
        weight, anchor_weight = self.recipe.loss_weights(step) if penalty is not None else (1.0, 0.0)
        own = self._accumulate(lambda part: self.minimised(parameters, part), drawn.batch, weight * scale, micro_batch)
        prior = torch.zeros_like(own)
        if drawn.class_batch is not None:
            prior = self._accumulate(
                lambda part: self.of_class(part).expand(2, -1),
                drawn.class_batch,
                self.prior.weight * scale,
                micro_batch,
            )
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        for tensor in [own, prior, *gradients]:
            self.workers.all_reduce(tensor)
        sound = torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
        for gradient in gradients:
            gradient.copy_(torch.where(sound, gradient / scale, 0))
        on_spheres = [g for name in self.way.spheres(self.recipe) if (g := parameters[name].grad) is not None]
        shown = [gradient.any() for gradient in on_spheres]
        if penalty is None:
            penalty = own.new_zeros(())
        if penalty.requires_grad:
            (anchor_weight * penalty).backward()
        for gradient, images_say in zip(on_spheres, shown, strict=True):
            gradient.mul_(images_say)  # a step there is a whole one, which anchors must not take alone
        if self.recipe.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(
                [p for p in parameters.values() if p.requires_grad], self.recipe.max_grad_norm
            )
        return torch.stack([own[0], penalty.detach(), prior[0], own[1]]), torch.where(sound, scale, scale / 2)

    @torch.no_grad()
    def evaluate(self, parameters: Parameters, micro_batch: int) -> tuple[float, float]:
        """(reconstruction, whole loss) on images, prompts and noise that are the same each time, noise levels spread evenly."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        fixed = self.data.draw(self.recipe.eval_size, generator, self.schedule, "even")
        size = min(self.recipe.batch, micro_batch)
        loss = torch.cat([self.reconstruction(parameters, part) for part in fixed.parts(size)]).mean()
        penalty = self.way.penalty(parameters, self.recipe, cast("list[int]", fixed.prompt.tolist()))
        if penalty is None:
            return loss.item(), loss.item()
        weight, anchor_weight = self.recipe.loss_weights(self.recipe.steps)
        return loss.item(), (weight * loss + anchor_weight * penalty).item()

    def _losses(self, data: TrainingData, batch: Batch, encoded: Encoded, teacher: Encoded | None = None) -> Tensor:
        # A copy that the CPU waits for would wait for all that the device still has to do.
        example, timesteps, noise = (
            values.to(self.device, non_blocking=True) for values in (batch.example, batch.timesteps, batch.noise)
        )
        mask = None if data.masks is None else data.masks[example]
        return diffusion_loss(
            self.predict, self.schedule, data.latents[example], noise,
            timesteps=timesteps, prompts=encoded, mask=mask, teacher=teacher,
        )  # fmt: skip

    def _accumulate(self, losses: Callable[[Batch], Tensor], batch: Batch, factor: Tensor, micro_batch: int) -> Tensor:
        """Add the gradient of the mean of the first of two losses (2, B) times a factor, micro-batch by micro-batch; both means (2,)."""
        total = torch.zeros(2, device=self.device)
        share = self.workers.share(batch)
        for part in share.parts(micro_batch) if len(share.prompt) else []:
            means = losses(part).sum(dim=1) / len(batch.prompt)
            (factor * means[0]).backward()
            total += means.detach()
        return total
