"""Training without a graph: concepts from a file of settings, in one process or in several that `accelerate launch` started,
and the layout predictor of a base model.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from comfy.cli_args import args as host_args
from PIL import Image, ImageOps
from torch import Tensor

if not torch.cuda.is_available() and not torch.backends.mps.is_available():
    host_args.cpu = True  # before anything of ComfyUI looks for a device
elif torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))

import comfy.sd
import folder_paths

from ..anchors import weigh
from ..concept import Concept, check_name, read_concept, write_concept
from ..layout.predictor_training import PredictorTraining as Recoveries
from ..training.loop import Progress, Recipe, Workers
from ..training.objective import NoiseLevels
from .predictor import train_predictor
from .text_encoder import check_new_placeholder, text_encoders, vocabulary
from .training import LIMITS, TEMPLATES, Request, Training, as_reference

log = logging.getLogger(__name__)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
DEFAULTS = Recipe()
KINDS = {
    str: ("a text", (str,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    bool: ("true or false", (bool,)),
    list[str]: ("a list of texts", (list,)),
    list[str] | None: ("a list of texts", (list,)),
}
"""Of values: in words, and what TOML makes of them."""


class ConfigError(Exception):
    """One sentence about the file of settings."""


@dataclass(frozen=True)
class Job:
    """A concept of the file, `[[concepts]]`. Paths are relative to the file, numbers keep to LIMITS.

    Attributes:
        pictures: a folder; where each picture has a `.txt` beside it, these are its caption, {} where the word goes.
        masks: a folder with a mask of the same name for each picture.
        ignore_background: without masks, whether the model's own attention to the class word takes their place.
        anchors: ordinary words; None is the class word alone, none of them plain textual inversion.
        learn_weights: whether how strongly each anchor pulls is learnt as well, with few left in the end.
        growing: whether the anchors pull ever more towards the end.
        start_from: an embedding to go on with, a path or a name in the embeddings folder; it says how many vectors there are.
        paper: whether to train as the reference implementation does, whatever else is set but the seed, growing and noise_levels.
        replace: whether a concept's file that is there already, and of another training, is written over.
    """

    placeholder: str
    class_word: str
    pictures: str
    masks: str = ""
    anchors: list[str] | None = None
    learn_weights: bool = False
    growing: bool = False
    start_from: str = ""
    paper: bool = False
    resolution: int = 512
    steps: int = DEFAULTS.steps
    batch: int = DEFAULTS.batch
    vectors: int = 3
    learning_rate: float = DEFAULTS.learning_rate
    anchor_weight: float = DEFAULTS.anchor_weight
    kind: str = "object"
    mirror: bool = True
    ignore_background: bool = True
    rescale: bool = False
    noise_levels: str = DEFAULTS.noise_levels
    prompts: list[str] = field(default_factory=list)
    seed: int = 0
    replace: bool = False

    def __post_init__(self) -> None:
        check_name(self.placeholder)
        if not self.class_word.strip():
            raise ValueError("class_word is empty; one ordinary word for what the pictures show is needed.")
        for name, limit in LIMITS.items():
            if not limit["min"] <= getattr(self, name) <= limit["max"]:
                raise ValueError(f"{name} is {getattr(self, name)}; {limit['min']} to {limit['max']} is allowed.")
        if self.resolution % 8:
            raise ValueError(f"resolution is {self.resolution}; a multiple of 8 is needed.")
        for name, known in (("kind", TEMPLATES), ("noise_levels", get_args(NoiseLevels))):
            if getattr(self, name) not in known:
                raise ValueError(f'{name} is "{getattr(self, name)}"; {", ".join(known)} are allowed.')


@dataclass(frozen=True)
class Config:
    """A file of settings.

    Attributes:
        checkpoint: a name in ComfyUI's `models/checkpoints`, or a path.
        output: a folder for the concepts; ComfyUI's embeddings folder when it is empty.
        together: whether several processes share every concept's batches; else each process takes concepts of its own.
    """

    checkpoint: str
    concepts: list[Job]
    output: str = ""
    together: bool = True


def read_config(path: Path) -> Config:
    """Raises ConfigError when the file cannot be read, lacks something, or holds a name or a value that means nothing."""
    try:
        import tomllib
    except ImportError as error:
        raise ConfigError("Training from a file needs Python 3.11 or later, which reads TOML.") from error
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f'"{path}" cannot be read as TOML: {error}.') from error
    entries = raw.pop("concepts", [])
    if not entries or not isinstance(entries, list):
        raise ConfigError(f'"{path}" lists no concept; write one or more [[concepts]].')
    jobs = [_made(Job, entry, f"Concept {i}", path) for i, entry in enumerate(entries, start=1)]
    names = [job.placeholder for job in jobs]
    if len(set(names)) < len(names):
        raise ConfigError(f'"{path}" names a placeholder twice: {", ".join(names)}; each needs its own.')
    return _made(Config, {**raw, "concepts": jobs}, "The file", path)


def _made(kind: Any, entry: Mapping[str, Any], what: str, path: Path) -> Any:
    known = {f.name: f.type for f in fields(kind)}
    for name, value in entry.items():
        if name not in known:
            raise ConfigError(f'{what} of "{path}" sets "{name}", which means nothing; {", ".join(known)} are known.')
        words, kinds = KINDS.get(known[name], ("", (type(value),)))
        fits = type(value) in kinds
        if fits and words == KINDS[list[str]][0]:
            fits = all(isinstance(item, str) for item in value)
        if not fits:
            raise ConfigError(f'{what} of "{path}" sets "{name}" to {value!r}; {words} is needed.')
    try:
        return kind(**entry)
    except TypeError as error:
        lacking = [name for name in known if name not in entry]
        raise ConfigError(f'{what} of "{path}" is not whole, it may lack one of {", ".join(lacking)}.') from error
    except ValueError as error:
        raise ConfigError(f'{what} of "{path}": {error}') from error


def train_all(path: Path) -> list[str]:
    """Train every concept of a file, one after the other, and write its embedding; those that are learnt already are not again.

    Returns:
        A sentence on each concept that could not be learnt. The last sound word of one that went astray is kept.

    Raises:
        ConfigError: see `read_config`; also a folder without pictures, a concept that exists, accelerate not installed.
        ValueError: an input that training refuses.
    """
    config = read_config(path)
    workers = _workers()
    if workers.rank == 0:
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    folder = path.parent / config.output if config.output else Path(folder_paths.get_folder_paths("embeddings")[0])
    jobs = config.concepts if config.together else config.concepts[workers.rank :: workers.count]
    model, clip, vae = _load(config.checkpoint, path.parent)
    runs = Path(folder_paths.get_user_directory()) / "compositional_inversion" / "runs"
    together = workers if config.together else Workers()
    if workers.count > 1:
        how = "every concept together" if config.together else "each its own concepts"
        log.info("%d processes, %s", workers.count, how)
    trainings = [_training(model, clip, vae, job, path.parent) for job in jobs]
    files = [folder / f"{job.placeholder}.safetensors" for job in jobs]
    learnt = together.told(
        [_learnt(*each) for each in zip(files, trainings, jobs, strict=True)] if together.rank == 0 else None
    )
    failures: list[str] = []
    for file, training, job, done in zip(files, trainings, jobs, learnt, strict=True):
        if done:
            log.info("%s: learnt already, %s", job.placeholder, file)
            continue

        def report(progress: Progress, training: Training = training) -> None:
            if progress.check is not None:
                log.info(
                    "%s: step %d/%d: loss %.4f, with the class word %.4f",
                    *(training.placeholder, progress.step, training.recipe.steps),
                    *(progress.check, progress.checkpoint.before),
                )

        try:
            end = training.run(runs, lambda: False, report, together)
            if together.rank == 0:
                write_concept(training.concept(end), file, job.replace)
                training.forget(runs)
                log.info("%s: %s", job.placeholder, file)
        except FloatingPointError as error:
            kept = f" It ended {training.keep(folder)}" if together.rank == 0 else ""
            failures.append(f"{job.placeholder}: {error}{kept}")
        except (OSError, MemoryError) as error:
            if together.count > 1:
                raise  # the others do not know of it
            failures.append(f"{job.placeholder}: {error}")
    return failures


def _learnt(file: Path, training: Training, job: Job) -> bool:
    """Whether a concept's file is what this very training gives.

    Raises:
        ConfigError: it is another, and must not be written over.
    """
    if not file.exists():
        return False
    try:
        run = read_concept(file).provenance.get("run")
    except ValueError:  # not one that we wrote
        run = None
    if run != training.name and not job.replace:
        raise ConfigError(f'The embedding "{file.name}" exists already; choose another placeholder, or set replace.')
    return run == training.name


def train_layouts(checkpoint: str, numbers: Mapping[str, Any]) -> None:
    """Train the layout predictor of a checkpoint.

    Args:
        numbers: those of `Recoveries` that are not to be its defaults.

    Raises:
        ConfigError: there is no such checkpoint.
        ValueError: a number out of its limits, or a checkpoint that cannot be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    wanted = Recoveries(**numbers)
    model, clip, _ = _load(checkpoint, Path())

    def report(number: int, *_: Any) -> None:
        if number % 10 == 0:
            log.info("prompt %d/%d", number, wanted.prompts)

    with torch.inference_mode():
        predictor, file = train_predictor(model, clip, wanted, lambda: None, report)
    log.info("%s\n%s", predictor.provenance.describe(), file)


def _workers() -> Workers:
    """All processes that were started together."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ConfigError(
            "Several processes need the package accelerate, which is not installed; install it, or start one process."
        ) from error
    state = PartialState(cpu=not torch.cuda.is_available())

    def told(own: Any) -> Any:
        box = [own]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    return Workers(state.process_index, state.num_processes, torch.distributed.all_reduce, told)


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


def _training(model: Any, clip: Any, vae: Any, job: Job, base: Path) -> Training:
    files = sorted(f for f in (base / job.pictures).glob("*") if f.suffix.lower() in PICTURES)
    if not files:
        raise ConfigError(
            f'The folder "{job.pictures}" of "{job.placeholder}" holds no picture ({", ".join(PICTURES)}).'
        )
    check_new_placeholder(clip, job.placeholder)
    known = vocabulary(clip, next(iter(text_encoders(clip))))
    words = tuple([job.class_word] if job.anchors is None else job.anchors)
    anchors = weigh(job.class_word, words, known) if words and job.anchor_weight else None
    if anchors is not None:
        anchors = replace(anchors, learnt=job.learn_weights)
    texts = [f.with_suffix(".txt") for f in files]
    captions = all(text.is_file() for text in texts)
    request = Request(
        job.placeholder,
        job.class_word,
        job.vectors,
        [_pixels(f) for f in files],
        [_pixels(_mask(base / job.masks, f), "L")[..., 0] for f in files] if job.masks else [],
        job.resolution,
        job.kind,
        job.mirror,
        job.rescale,
        [text.read_text().strip() for text in texts] if captions else job.prompts,
        captions,
        job.ignore_background,
        start_from=_start(job.start_from, base) if job.start_from else None,
    )
    recipe = Recipe(
        job.steps,
        job.batch,
        job.learning_rate,
        1 - job.anchor_weight,
        job.anchor_weight,
        job.seed,
        job.growing,
        job.noise_levels,
    )
    if job.paper:
        request, recipe, anchors = as_reference(request, recipe, anchors)
    return Training(model, clip, vae, request, anchors, recipe)


def _start(name: str, base: Path) -> Concept:
    if (base / name).is_file():
        return read_concept(base / name)
    named = folder_paths.get_full_path("embeddings", name)
    if named is None:
        raise ConfigError(f'start_from is "{name}", neither a file nor a name in ComfyUI\'s embeddings folder.')
    return read_concept(Path(named))


def _mask(folder: Path, picture: Path) -> Path:
    found = next((f for f in folder.glob(f"{picture.stem}.*") if f.suffix.lower() in PICTURES), None)
    if found is None:
        raise ConfigError(f'The folder "{folder}" holds no mask for "{picture.name}".')
    return found


def _pixels(file: Path, mode: str = "RGB") -> Tensor:
    """(1, H, W, C) in 0..1, turned upright; alpha is laid on white where a picture has it."""
    image = ImageOps.exif_transpose(Image.open(file))
    if mode == "RGB" and image.mode in ("RGBA", "LA", "PA"):
        mode = "RGBA"
    array = np.asarray(image.convert(mode), np.float32) / 255
    return torch.from_numpy(array.reshape(1, *array.shape[:2], -1))
