"""The loop: only what is learnt moves; everything that does not change was computed before it starts."""

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..memory import MemoryPlan
from .checkpoint import Checkpoint, Losses, Parameters, Progress
from .recipe import REPORT_STEPS
from .task import Drawn, Task


@dataclass(frozen=True)
class Surroundings:
    """What a run meets outside of itself.

    Attributes:
        plan: how much of a batch goes through the model at once.
        on_new_plan: called when memory ran out, with the plan to go on with.
        interrupted: asked after every step; True ends the run there.
        on_report: called every REPORT_STEPS steps and after the last one. What it is shown is sound.
        on_stop: called with the last state where a cancel or want of memory ends the run with an error, as within an evaluation or a
            report.
        cancelled: what the model raises in the middle of a step to end the run; it ends as if that step had not begun.
        out_of_memory: what the device raises.
    """

    plan: MemoryPlan
    on_new_plan: Callable[[MemoryPlan], None] = lambda plan: None
    interrupted: Callable[[], bool] = lambda: False
    on_report: Callable[[Progress], None] = lambda progress: None
    on_stop: Callable[[Checkpoint], None] = lambda checkpoint: None
    cancelled: tuple[type[Exception], ...] = ()
    out_of_memory: tuple[type[BaseException], ...] = ()


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
def train(task: Task, around: Surroundings, parameters: Parameters, resume: Checkpoint | None = None) -> Checkpoint:
    """Learn.

    Args:
        parameters: the leaves that are learnt, `as_leaves` of the way's start or of `resume`'s.
        resume: of an earlier run with the same other arguments; the result is bit-identical to an undisturbed run's.

    Returns:
        The state at the end, of fewer steps than the recipe's if the run was interrupted.

    Raises:
        FloatingPointError: training diverged; no report shows such a state.
    """
    state = TrainingState(task, around, parameters, resume)
    try:
        _learn(task, around, state)
    except (*around.cancelled, *around.out_of_memory):
        around.on_stop(state.checkpoint)
        raise
    return state.checkpoint


def _learn(task: Task, around: Surroundings, state: "TrainingState") -> None:
    finished = state.step == task.recipe.steps
    if state.step and (finished or state.to_evaluate):  # a report was cancelled
        around.on_report(state.evaluated())
    while not finished:
        drawn = state.draw()
        try:
            losses = state.gradient(drawn)
        except around.cancelled:
            state.undo_draw()
            finished = True
        else:
            state.update(losses)
            finished = state.step == task.recipe.steps or around.interrupted()
        if state.losses and (finished or state.step % REPORT_STEPS == 0):
            around.on_report(state.report())


def as_leaves(values: Parameters, device: torch.device, moving: set[str]) -> Parameters:
    """Leaves of autograd on a device, of which those that are named move."""
    leaves = {name: value.detach().clone().to(device).requires_grad_(name in moving) for name, value in values.items()}
    for leaf in leaves.values():
        leaf.grad = torch.zeros_like(leaf) if leaf.requires_grad else None
    return leaves


class TrainingState:
    """All that a step changes: parameters, the optimiser, the generator, the loss scale, and what was met since the last report."""

    def __init__(self, task: Task, around: Surroundings, parameters: Parameters, resume: Checkpoint | None):
        self.task, self.around, self.parameters = task, around, parameters
        self.plan = around.plan
        self.rates, self.spheres = task.way.learning_rates(task.recipe), task.way.spheres(task.recipe)
        self.generator = torch.Generator().manual_seed(task.recipe.seed)
        self.random = self.generator.get_state()
        groups = [{"params": [] if name in self.spheres else [parameters[name]]} for name in self.rates]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=task.recipe.weight_decay)
        self.losses: list[Tensor] = []
        if resume is not None:
            self.optimizer.load_state_dict(resume.optimizer)
            self.generator.set_state(resume.random)
        else:
            self._start_on_spheres()
        self.checkpoint = resume or self._beginning()
        self.step = self.checkpoint.step
        self.loss_scale = torch.tensor(self.checkpoint.loss_scale, device=task.device)

    def draw(self) -> Drawn:
        self.random = self.generator.get_state()
        return self.task.draw(self.generator)

    def undo_draw(self) -> None:
        self.generator.set_state(self.random)

    def gradient(self, drawn: Drawn) -> Tensor:
        """The step's losses; their gradients are in the parameters. Where memory runs out, in smaller micro-batches from then on."""
        while True:
            for leaf in self.parameters.values():
                if leaf.grad is not None:
                    leaf.grad.zero_()
            try:
                losses, self.loss_scale = self.task.backward(
                    self.parameters, drawn, step=self.step + 1, scale=self.loss_scale, micro_batch=self.plan.micro_batch
                )
                return losses
            except self.around.out_of_memory as error:
                out_of_memory = error.with_traceback(None)  # which keeps all that the step had made
            plan = self.plan.on_out_of_memory()
            if plan is None:
                raise out_of_memory
            self.plan = plan
            self.around.on_new_plan(plan)

    @torch.no_grad()
    def update(self, losses: Tensor) -> None:
        """Take the step."""
        self.step += 1
        self.losses.append(losses)
        factor = self.task.recipe.lr_factor(self.step)
        for group, rate in zip(self.optimizer.param_groups, self.rates.values(), strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        for name, sphere in self.spheres.items():
            vectors = self.parameters[name]
            assert vectors.grad is not None
            vectors.copy_(sphere.step(vectors, vectors.grad, self.rates[name] * factor))

    def report(self) -> Progress:
        """What the steps since the last report amount to.

        Raises:
            FloatingPointError: see `train`.
        """
        met = torch.stack(self.losses).cpu()
        self.losses.clear()
        size, described = self.task.way.divergence(self.parameters)
        if not met.isfinite().all() or not size < 1 or self.loss_scale < 1:
            raise FloatingPointError(
                f"Training diverged before step {self.step} (loss {met[-1, :3].sum().item():.4g}, {described}). Lower the learning "
                "rate or load the model in float32."
            )
        objective, anchor, prior, reconstruction = (column.mean().item() for column in met.T)
        told = Losses(self.step, reconstruction, anchor, evaluation=None, prior=prior, objective=objective)
        self.checkpoint = replace(
            self.checkpoint,
            step=self.step,
            parameters=copied(self.parameters),
            optimizer=self.optimizer.state_dict(),
            random=self.generator.get_state(),
            micro_batch=self.plan.micro_batch,
            history=(*self.checkpoint.history, told),
            loss_scale=self.loss_scale.item(),
        )
        return self.evaluated()

    @property
    def to_evaluate(self) -> bool:
        """Whether the last report lacks its evaluation."""
        told = self.checkpoint.history[-1]
        return told.evaluation is None and self.task.recipe.evaluates(told.step)

    def evaluated(self) -> Progress:
        """The last report, with its evaluation."""
        *earlier, told = self.checkpoint.history
        if self.to_evaluate:
            evaluation, loss = self.task.evaluate(self.parameters, self.plan.micro_batch)
            told = replace(told, evaluation=evaluation)
            self.checkpoint = replace(self.checkpoint, history=(*earlier, told))
            if loss < self.checkpoint.best_loss:
                best = self.task.way.remembered(self.checkpoint.parameters)
                self.checkpoint = replace(self.checkpoint, best=best, best_loss=loss)
        return Progress(**vars(told), checkpoint=self.checkpoint)

    @torch.no_grad()
    def _start_on_spheres(self) -> None:
        for name, sphere in self.spheres.items():
            self.parameters[name].copy_(sphere.project(self.parameters[name]))

    def _beginning(self) -> Checkpoint:
        initial_loss, best_loss = self.task.evaluate(self.parameters, self.plan.micro_batch)
        start = copied(self.parameters)
        return Checkpoint(
            step=0,
            parameters=start,
            best=self.task.way.remembered(start),
            best_loss=best_loss,
            initial_loss=initial_loss,
            optimizer=self.optimizer.state_dict(),
            random=self.generator.get_state(),
            micro_batch=self.plan.micro_batch,
            history=(),
            loss_scale=self.task.loss_scale,
        )


def copied(parameters: Parameters) -> Parameters:
    """On the CPU, out of the run's reach."""
    return {name: value.detach().to("cpu", copy=True) for name, value in parameters.items()}
