"""Concepts from a file of settings, in one process or in several that `accelerate launch` started, and the layout predictor of a
base model.
"""

import glob
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comfy.cli_args import args as host_args

if not torch.cuda.is_available() and not torch.backends.mps.is_available():
    host_args.cpu = True  # before anything of ComfyUI looks for a device
elif torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))

import comfy.sd
import folder_paths

from ..anchors import weigh
from ..concept import Concept, read_concept, write_concept
from ..files import Taken, first_free, numbered, write_tensors
from ..host.backbone import ComfyBackbone
from ..host.predictor import train_predictor
from ..host.text_encoder import check_new_placeholder, text_encoders, vocabulary
from ..layout.predictor_training import PredictorTraining
from ..reading.table import parsed
from ..sentences import quoted
from ..tensor_files import read_metadata
from ..training.attribute_training import AttributeRequest, AttributeTraining
from ..training.checkpoint import Progress
from ..training.concept_training import ConceptTraining
from ..training.picture_folder import READ, PictureFolder, read_folder, read_mask
from ..training.recipe import Recipe
from ..training.request import WHAT, FineTuneRequest, Request, as_paper, as_paper_fine_tune
from ..training.run import TrainingRun
from ..training.task import Workers
from ..training.ways.fine_tune import What
from .config import Config, ConfigError, Job, read_config
from .runs import runs_folder
from .workers import workers as started_workers

log = logging.getLogger(__name__)
EXISTS = 'The {} "{}" exists already; choose another placeholder, or set replace.'


def train_all(path: Path) -> list[str]:
    """Train every concept of a file and write its embedding; those that are learnt already are not again.

    Returns:
        A sentence on each concept that could not be learnt. The last sound word of one that diverged is kept.

    Raises:
        ConfigError: see `read_config`; also a folder without pictures, a concept that exists, accelerate not installed.
        ValueError: an input that training refuses.
    """
    config = read_config(path)
    workers = started_workers()
    if workers.rank == 0:
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    embeddings, adapters = (Path(folder_paths.get_folder_paths(kind)[0]) for kind in ("embeddings", "loras"))
    if config.output:
        embeddings = adapters = path.parent / config.output
    if workers.count > 1:
        how = "every concept together" if config.together else "each its own concepts"
        log.info("%d processes, %s", workers.count, how)
    output = Output(embeddings, adapters, workers if config.together else Workers())
    groups = _groups(config, workers)
    loaded = _load(config.checkpoint, path.parent)
    trainings = [_training(loaded, jobs, path.parent) for jobs in groups]
    learnt = output.workers.broadcast(
        [output.learnt(*each) for each in zip(trainings, groups, strict=True)] if output.workers.rank == 0 else None
    )
    failures: list[str] = []
    for training, jobs, done in zip(trainings, groups, learnt, strict=True):
        if done:
            log.info("%s: learnt already, %s", training.placeholders, output.file(jobs[0]))
            training.forget(runs_folder())  # which a kill right after the word was written has left
            continue
        try:
            failures += _learn(training, jobs, output)
        except FloatingPointError as error:
            ended = f" It ended {training.keep(embeddings, adapters)}" if output.workers.rank == 0 else ""
            failures.append(f"{training.placeholders}: {error}{ended}")
        except (OSError, MemoryError) as error:
            if output.workers.count > 1:
                raise  # the others do not know of it
            failures.append(f"{training.placeholders}: {error}")
    return failures


@dataclass(frozen=True)
class Output:
    """Where what is learnt goes, and who learns it together."""

    embeddings: Path
    adapters: Path
    workers: Workers

    def file(self, job: Job) -> Path:
        return self.embeddings / f"{job.placeholder}.safetensors"

    def adapter_file(self, jobs: Sequence[Job]) -> Path:
        name = "+".join(job.placeholder for job in jobs)
        name += "-adapter" * (self.adapters == self.embeddings)
        return self.adapters / f"{name}.safetensors"

    def learnt(self, training: TrainingRun, jobs: Sequence[Job]) -> bool:
        """Whether concepts' files, and their adapter's, are what this very training gives.

        Raises:
            ConfigError: one is another, and must not be written over.
        """
        files = [(self.file(job), job.replace, "embedding") for job in jobs]
        if jobs[0].what in WHAT:
            files.append((self.adapter_file(jobs), all(job.replace for job in jobs), "adapter"))
        runs = [_run_of(file) for file, _, _ in files]
        for (file, replace_it, what), run in zip(files, runs, strict=True):
            if file.exists() and run != training.name and not replace_it:
                raise ConfigError(EXISTS.format(what, file.name))
        return all(run == training.name for run in runs)


def _run_of(file: Path) -> str | None:
    """The run that a file of ours says it is of."""
    return read_metadata(file).get("run")


def _groups(config: Config, workers: Workers) -> list[list[Job]]:
    """Concepts that are learnt in one run each."""
    if config.jointly:
        return [config.concepts]
    jobs = config.concepts if config.together else config.concepts[workers.rank :: workers.count]
    return [[job] for job in jobs]


def _learn(training: TrainingRun, jobs: Sequence[Job], output: Output) -> list[str]:
    """Train, and write what was learnt.

    Returns:
        A sentence on each file that is not where it should be, as one of its name came to be meanwhile.
    """

    def report(progress: Progress) -> None:
        if progress.evaluation is not None:
            log.info(
                "%s: step %d/%d: validation loss %.4f (initial: %.4f)",
                *(training.placeholders, progress.step, training.recipe.steps),
                *(progress.evaluation, progress.checkpoint.initial_loss),
            )

    end = training.run(runs_folder(), lambda: False, report, output.workers)
    if output.workers.rank:
        return []
    elsewhere: list[str] = []

    def placed(wanted: Path, may_replace: bool, write: Callable[[Path, bool], None]) -> Path:
        """Where it is, which `write` is told with whether a file there may be replaced."""
        try:
            write(wanted, may_replace or _run_of(wanted) == training.name)
            return wanted
        except Taken:
            file = first_free(numbered(wanted.with_suffix("")), lambda file: write(file, False))
        elsewhere.append(f"{training.placeholders}: {wanted.name} came to be while this trained, so it is in {file}.")
        return file

    adapter = training.adapter(end)
    if adapter is not None:
        tensors, run = adapter.to_lora(training.backbone.lora_names, torch.float16), {"run": training.name}
        file = placed(
            output.adapter_file(jobs),
            all(job.replace for job in jobs),
            lambda path, may_replace: write_tensors((tensors, path, run), replace=may_replace),
        )
        log.info("%s: %s", training.placeholders, file)
    for concept, job in zip(training.concepts(end), jobs, strict=True):
        file = placed(output.file(job), job.replace, partial(write_concept, concept))
        log.info("%s: %s", job.placeholder, file)
    training.forget(runs_folder())
    return elsewhere


def train_layouts(checkpoint: str, settings: Mapping[str, Any]) -> None:
    """Train the layout predictor of a checkpoint.

    Args:
        settings: those of `PredictorTraining` that are not to be its defaults.

    Raises:
        ConfigError: there is no such checkpoint.
        ValueError: a number out of its limits, or a checkpoint that cannot be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    training = PredictorTraining(**settings)
    model, clip, _ = _load(checkpoint, Path())

    def report(number: int, *_: Any) -> None:
        if number % 10 == 0:
            log.info("prompt %d/%d", number, training.prompts)

    with torch.inference_mode():
        predictor, file = train_predictor(
            model, clip, training, stop_if_asked=lambda: None, on_recovery=report
        )  # fmt: skip
    log.info("%s\n%s", predictor.provenance.describe(), file)


def _load(checkpoint: str, base: Path) -> tuple[Any, Any, Any]:
    file = base / checkpoint
    if not file.is_file():
        named = folder_paths.get_full_path("checkpoints", checkpoint)
        if named is None:
            raise ConfigError(
                f'The checkpoint "{checkpoint}" is neither a file nor a name in ComfyUI\'s checkpoints folder.'
            )
        file = Path(named)
    embeddings = folder_paths.get_folder_paths("embeddings")
    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(file), embedding_directory=embeddings)
    return model, clip, vae


def _training(loaded: tuple[Any, Any, Any], jobs: Sequence[Job], base: Path) -> TrainingRun:
    model, clip, vae = loaded
    requests = [_request(clip, job, base) for job in jobs]
    job = jobs[0]
    recipe = Recipe(
        steps=job.steps,
        batch=job.batch,
        learning_rate=job.learning_rate,
        reconstruction_weight=1 - job.anchor_weight,
        anchor_weight=job.anchor_weight,
        seed=job.seed,
        anchor_schedule="growing" if job.growing else "constant",
        noise_levels=job.noise_levels,
        weights_learning_rate=job.weights_learning_rate,
        anchor_loss=job.anchor_loss,
        optimizer=job.optimizer,
    )
    backbone = ComfyBackbone(model, clip, vae)
    if job.what == "attributes":
        return AttributeTraining(backbone, _by_attribute(job, requests[0]), recipe)
    fine_tune = None if job.what == "word" else _fine_tune(job, job.what, base)
    if job.paper and fine_tune is not None:
        vocabularies = backbone.vocabularies.values()
        requests, recipe, fine_tune = as_paper_fine_tune(
            requests, recipe, fine_tune, lambda word: all(word in known for known in vocabularies)
        )
    elif job.paper:
        pairs = [as_paper(request, recipe) for request in requests]
        requests, recipe = [request for request, _ in pairs], pairs[0][1]
    return ConceptTraining(backbone, requests, recipe, fine_tune)


def _by_attribute(job: Job, request: Request) -> AttributeRequest:
    return AttributeRequest(
        request,
        job.attributes,
        table=parsed(job.table),
        colour_words=job.colour_words,
        style_word=job.style_word.strip(),
        colour_style=job.colour_style_loss,
        object_class=job.object_loss,
    )


def _fine_tune(job: Job, what: What, base: Path) -> FineTuneRequest:
    given = [one.pixels for one in _folder(base / job.prior_images).pictures] if job.prior_images else None
    return FineTuneRequest(
        what=what,
        rank=0 if what == "whole UNet" else job.rank,
        prior=job.prior,
        prior_images=given,
        prior_count=job.prior_count,
        prior_weight=job.prior_weight,
    )


def _folder(folder: Path) -> PictureFolder:
    try:
        found = read_folder(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for notice in found.notices:
        log.warning(notice)
    return found


def _request(clip: Any, job: Job, base: Path) -> Request:
    found = _folder(base / job.pictures)
    files = [picture.file for picture in found.pictures]
    check_new_placeholder(clip, job.placeholder)
    known = vocabulary(clip, next(iter(text_encoders(clip))))
    words = tuple([job.class_word] if job.anchors is None else job.anchors)
    has_anchors = words and job.anchor_weight and job.what != "attributes"  # which have anchors of their own
    anchors = weigh(job.class_word, words, known) if has_anchors else None
    if anchors is not None:
        anchors = replace(anchors, learnt=job.learn_weights)
    return Request(
        name=job.placeholder,
        class_word=job.class_word,
        images=[picture.pixels for picture in found.pictures],
        masks=[read_mask(_mask(base / job.masks, file)) for file in files] if job.masks else found.masks,
        vectors=job.vectors,
        resolution=job.resolution,
        kind=job.kind,
        mirror=job.mirror,
        rescale=job.rescale,
        prompts=found.captions or job.prompts,
        captions=bool(found.captions),
        ignore_background=job.ignore_background,
        start_from=_start(job.start_from, base) if job.start_from else None,
        anchors=anchors,
    )


def _start(name: str, base: Path) -> Concept:
    if (base / name).is_file():
        return read_concept(base / name)
    named = folder_paths.get_full_path("embeddings", name)
    if named is None:
        raise ConfigError(f'start_from is "{quoted(name)}", neither a file nor a name in ComfyUI\'s embeddings folder.')
    return read_concept(Path(named))


def _mask(folder: Path, picture: Path) -> Path:
    found = next((f for f in folder.glob(f"{glob.escape(picture.stem)}.*") if f.suffix.lower() in READ), None)
    if found is None:
        raise ConfigError(f'The folder "{folder}" holds no mask for "{picture.name}".')
    return found
