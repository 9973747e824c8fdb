"""A run: something being learnt for a model that stays as it is, kept on disk until what it learns is safe."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..adapter import Adapter
from ..backbone import Backbone, Vectors
from ..concept import Concept, write_unfinished
from ..files import first_free, numbered, remove, write_tensors
from ..memory import GB, MemoryPlan
from ..report.figures import standing
from .checkpoint import Checkpoint, Finished, Parameters, Progress, RunFile, fingerprint
from .examples import WITH_ADAPTER
from .loop import Surroundings, as_leaves, train
from .priors import NoPrior, Prior
from .recipe import Recipe
from .task import Encode, Task, TrainingData, Workers
from .unfinished import ENDINGS, MATERIAL, STATE, remove_nobodys
from .ways import Way
from .ways.textual_inversion import TextualInversion, Word

log = logging.getLogger(__name__)
BYTES_PER_NUMBER = 16  # float32: what is learnt, its gradient, AdamW's two moments


@dataclass(frozen=True)
class Material:
    """What a run learns from, made when it begins; see `Task`."""

    data: TrainingData
    class_data: TrainingData | None = None
    teacher: Encode | None = None

    def clone(self) -> "Material":
        return replace(self, data=self.data.clone(), class_data=self.class_data and self.class_data.clone())


def _in_silence(number: int, count: int) -> None:
    """Nobody is told."""


class TrainingRun(ABC):
    """One word or several being learnt, alone or with a change of the model, which is left as it was, also after an error.

    Attributes:
        of_words: what is learnt of the text.
        way: all that is learnt.
        reached: the last sound state of its run.
        notices: sentences on what a user may not expect.
        on_finding: called with the number of each image in which the concept is looked for before the first step, and how many there are.
    """

    reached: Checkpoint | None = None
    notices: Sequence[str] = ()
    on_finding: Callable[[int, int], Any] = staticmethod(_in_silence)

    def __init__(
        self, backbone: Backbone, of_words: TextualInversion, recipe: Recipe, way: Way | None = None, prior: Prior | None = None
    ):  # fmt: skip
        self.backbone, self.of_words, self.recipe = backbone, of_words, recipe
        self.way: Way = way or of_words
        self.prior = prior or NoPrior()

    @abstractmethod
    def material(self, file: Path | None = None) -> Material:
        """Called when the run begins, in inference mode; what is made is on the model's device.

        Args:
            file: where what takes long to make is kept for a run that goes on; None keeps nothing.
        """

    @abstractmethod
    def identity(self) -> tuple[object, list[Tensor]]:
        """Settings and tensors that tell this run from others, besides what every run has."""

    @abstractmethod
    def provenance(self) -> dict[str, str]:
        """What is learnt from."""

    @property
    def words(self) -> tuple[Word, ...]:
        return self.of_words.all_words

    @property
    def placeholders(self) -> str:
        """In sentences."""
        return " and ".join(word.name for word in self.words)

    @cached_property
    def name(self) -> str:
        """Of the run: the same for the same model, material, settings and anchors."""
        settings, given = self.identity()
        given += [vectors for word in self.words for vectors in word.start.values()]
        given += [self.backbone.schedule.alphas_cumprod]
        given += [target.anchors for own in self.of_words.targets.values() for target in own.values()]
        anchors = [word.anchors and (word.anchors.weights, word.anchors.learnt) for word in self.words]
        every = (
            *([word.name for word in self.words], self.backbone.fingerprint, self.backbone.schedule.prediction),
            *(self.recipe, anchors, self.prior, type(self.way).__name__),
            __version__,  # another may learn otherwise
        )
        return f"{'+'.join(word.name for word in self.words)}-{fingerprint((settings, every), given)}"

    def run(
        self,
        runs: Path,
        interrupted: Callable[[], bool],
        on_report: Callable[[Progress], None],
        workers: Workers | None = None,
        finished: Path | None = None,
    ) -> Checkpoint:
        """Train. The model and the text encoders are left as they were, also after an error.

        Args:
            runs: a folder where the run is kept until what it learns is safe, see `forget`. What was interrupted or killed goes
                on from there, bit for bit as if it had not been. Others in it that are nobody's any more are removed.
            interrupted: asked after every step; True ends the run there, as the host's own interruption does at any time.
            on_report: see `Surroundings`.
            workers: processes that learn this together.
            finished: a folder of runs that ended well, from which this one is answered if it did so in an earlier session; None does
                without.

        Returns:
            The state at the end; `concepts` and `adapter` say what was learnt.

        Raises:
            MemoryError: one sentence on what to lower.
        """
        session = None
        try:
            with torch.inference_mode(False):  # what a name is made of takes part in a backward later
                path, first = runs / f"{self.name}{STATE}", workers is None or workers.rank == 0
            if first:
                remove_nobodys(runs, finished, but=self.name)
            with torch.inference_mode():
                material = self.material(path.with_suffix(MATERIAL) if first else None)
            with torch.inference_mode(False), torch.enable_grad(), ExitStack() as ready:
                session = _Session(
                    self, material.clone(), path, workers=workers or Workers(), ready=ready, finished=finished
                )
                return session.train(interrupted, on_report)
        except self.backbone.out_of_memory as error:
            if session is None:
                when = "while its images and prompts were encoded, before the first step"
            elif session.plan.on_out_of_memory() is None:
                when = "with gradient checkpointing and micro-batches of 1"
            else:
                when = "in an evaluation or a preview"
            raise MemoryError(
                f'Training "{self.placeholders}" ran out of memory {when}. Lower the resolution or free memory: with the same settings '
                "it resumes where it was."
            ) from error

    def forget(self, runs: Path) -> None:
        """Give up the run in this folder: what it learnt is safe now."""
        for ending in ENDINGS:
            file = runs / f"{self.name}{ending}"
            try:
                remove(file)
            except OSError as error:  # a folder that nobody may write any more
                log.warning("%s cannot be removed: %s.", file, error)

    def keep(self, embeddings: Path, adapters: Path) -> str:
        """Write what a run has learnt that did not end well into folders, beside that of earlier ones.

        Returns:
            When it ended, and where what it learnt is.
        """
        if self.reached is None or not self.reached.step:
            return "before anything was learnt."
        when = f"after step {self.reached.step}; what was learnt till then"
        try:
            files = [write_unfinished(concept, embeddings) for concept in self.concepts(self.reached)]
            adapter = self.adapter(self.reached)
            if adapter is not None:
                tensors, run = adapter.to_lora(self.backbone.lora_names), {"run": self.name}
                wanted = numbered(adapters / f"{'+'.join(word.name for word in self.words)}-unfinished")
                files.append(first_free(wanted, lambda file: write_tensors((tensors, file, run), replace=False)))
            return f"{when} is in {' and '.join(str(file) for file in files)}."
        except OSError as error:
            return f"{when} could not be kept: {error}"

    def concepts(self, end: Checkpoint, best: bool = False) -> list[Concept]:
        """What a run has learnt of words, with what made them; with `best`, as they were at its best evaluation."""
        provenance = {
            "steps": str(end.step),
            "seed": str(self.recipe.seed),
            **self.provenance(),
            "run": self.name,
            "model": self.backbone.fingerprint,
            "version": __version__,
        }
        if self.way.changes(end.parameters):
            provenance[WITH_ADAPTER] = type(self.way).__name__
        found: list[Concept] = []
        for word in self.words:
            vectors = self.way.words({**end.parameters, **end.best} if best else end.parameters)[word.name]
            clones = {key: value.detach().cpu().clone() for key, value in vectors.items()}
            told = {"anchors": self.anchors_of(word, end)} if word.anchors is not None else {}
            found.append(Concept(word.name, clones, word.class_word, {**provenance, **told}))
        return found

    def adapter(self, end: Checkpoint) -> Adapter | None:
        """What a run has learnt of the model."""
        return self.way.adapter(end.parameters)

    def anchors_of(self, word: Word, end: Checkpoint) -> str:
        """The anchors that pull, the strongest first, with their weights."""
        weights = self.of_words.anchor_weights(end.parameters, word)
        return ", ".join(f"{anchor} {weight:.2f}" for anchor, weight in weights) or "none"

    def describe(self, vectors: Vectors) -> str:
        """Where a word lies among the ordinary ones: the nearest of them, its vectors' norm, and how far out they are."""
        key, vocabulary = next(iter(self.backbone.vocabularies.items()))
        where = standing(vectors[key], vocabulary, 3)
        near = ", ".join(f"{word} {similarity:.2f}" for word, similarity in where.nearest)
        return f"nearest words {near}; norm {where.length:.1f} times a typical word's; outlier percentile {where.percentile:.0f} (distance to the nearest words)"


class _Session:
    """One call of `TrainingRun.run`.

    Attributes:
        ready: what a backward needs is entered here; it is closed while others use the model.
    """

    def __init__(
        self,
        run: TrainingRun,
        material: Material,
        path: Path,
        *,
        workers: Workers,
        ready: ExitStack,
        finished: Path | None,
    ):
        self.run, self.backbone, self.material, self.workers, self.ready = run, run.backbone, material, workers, ready
        self.task = Task.on(
            self.backbone, material.data, run.way, run.recipe,
            prior=run.prior, class_data=material.class_data, teacher=material.teacher, workers=workers,
        )  # fmt: skip
        moving, start = set(run.way.learning_rates(run.recipe)), run.way.start()
        leaves = as_leaves(start, self.backbone.device, moving)
        probe, fixed, per_image = self._measured(leaves)
        told = " and ".join(word.class_word for word in run.words), run.recipe.steps
        self.file = RunFile(path, probe, *told)
        self.finished = None if finished is None else Finished(RunFile(finished / path.name, probe, *told))
        resume: Checkpoint | None = workers.broadcast(self._known() if workers.rank == 0 else None)
        self.resume = run.reached = resume
        self.leaves = as_leaves(resume.parameters, self.backbone.device, moving) if resume is not None else leaves
        self.plan = self._plan(fixed, per_image)

    def train(self, interrupted: Callable[[], bool], on_report: Callable[[Progress], None]) -> Checkpoint:
        self._make_ready(self.plan)

        def report(progress: Progress) -> None:
            self._on_report(progress, on_report)

        around = Surroundings(
            plan=self.plan,
            on_new_plan=self._make_ready,
            interrupted=interrupted,
            on_report=report,
            on_stop=self._on_stop,
            cancelled=self.backbone.cancelled,
            out_of_memory=self.backbone.out_of_memory,
        )
        end = train(self.task, around, self.leaves, self.resume)
        if end.step < self.run.recipe.steps:
            self._save(end, at_once=True)
        elif self.finished is not None:
            try:
                self.finished.save(end)
            except OSError as error:  # see `_save`
                log.warning("The run cannot be kept: %s", error)
        return end

    def _known(self) -> Checkpoint | None:
        """How this run ended, or where it was."""
        return (self.finished and self.finished.load()) or self.file.load()

    def _measured(self, leaves: Parameters) -> tuple[Tensor, float, float]:
        """What the frozen model says to the first image and prompt, and the bytes saved for a backward: once, and for an image.

        By its answer a kept run knows its model again. Most of what the text encoder saves are its own weights, cast from
        half precision, however many prompts it reads; changed weights are saved once, too.
        """
        latents, schedule = self.material.data.latents, self.backbone.schedule
        middle = torch.tensor([self.material.data.middle(schedule)], device=latents.device)
        changes = self.run.way.changes(leaves)
        with self.backbone.trainable(checkpointing=False, reserve=0), self.backbone.changed(changes):
            of_weights = sum(self.backbone.weight(path).nbytes for path in changes)
            with self.backbone.measuring_saved_activations() as saved:
                prompt = self.run.way.encode([0], leaves, middle)
                of_text = saved()
                answer = self.backbone.predict(latents[:1], middle, prompt)
        per_image = max(1.0, saved() - of_text - of_weights)
        return answer.detach().float(), of_text + of_weights, per_image

    def _plan(self, fixed: float, per_image: float) -> MemoryPlan:
        """Raises MemoryError when there is no room for what is learnt with its optimiser."""
        batch, free = self.run.recipe.batch, self.backbone.free_memory()
        numbers = sum(leaf.numel() for leaf in self.leaves.values() if leaf.requires_grad)
        state = BYTES_PER_NUMBER * numbers
        if state > free:
            raise MemoryError(
                f"{numbers / 1e6:.0f} M parameters are to be learnt; with gradients and optimiser state they need {state / GB:.1f} GB, "
                f"and {free / GB:.1f} GB are free. Choose keys and values, or LoRA on attention with a lower rank."
            )
        plan = MemoryPlan.fitting(fixed, per_image, batch, free - state)
        log.info(plan.describe(free))
        if self.resume is None:
            return plan
        log.info('The training of "%s" resumes after step %s.', self.run.placeholders, self.resume.step)
        return plan.at_most(self.resume.micro_batch)

    def _make_ready(self, plan: MemoryPlan) -> None:
        """Others may have taken the memory, or it was too small."""
        if plan is not self.plan:
            log.info("Out of memory: from now on %s.", plan.describe(self.backbone.free_memory()))
            self.plan = plan
        self.ready.close()
        self.ready.enter_context(self.backbone.trainable(plan.checkpointing, plan.reserve))
        self.ready.enter_context(self.backbone.changed(self.run.way.changes(self.leaves)))

    def _on_report(self, progress: Progress, on_report: Callable[[Progress], None]) -> None:
        self.run.reached = progress.checkpoint
        more = progress.step < self.run.recipe.steps  # what resumes must have a step to take
        if more:
            self._save(progress.checkpoint)
        self.ready.close()  # or a preview that evicts the model would take the swapped weights for its own
        on_report(progress)
        if more:
            self._make_ready(self.plan)

    def _on_stop(self, checkpoint: Checkpoint) -> None:
        if checkpoint.step:
            self.run.reached = checkpoint
            self._save(checkpoint, at_once=True)

    def _save(self, checkpoint: Checkpoint, at_once: bool = False) -> None:
        try:
            if self.workers.rank == 0:
                self.file.save(checkpoint, at_once)
        except OSError as error:  # a full disk must not cost what is learnt
            log.warning("The run cannot be kept: %s", error)
