"""The file of settings, read and checked before anything is loaded."""

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin

from ..concept import check_name
from ..reading.table import MATTE
from ..sentences import quoted
from ..training.attribute_training import KINDS as ATTRIBUTES
from ..training.attribute_training import Kind
from ..training.objective import NoiseLevels
from ..training.recipe import Optimizer, Recipe
from ..training.request import LIMITS, TEMPLATES, WHAT, FineTuneRequest, PriorKind
from ..training.ways.fine_tune import What

DEFAULTS, FINE_TUNE = Recipe(), FineTuneRequest()
KINDS: dict[object, tuple[str, tuple[type, ...]]] = {
    str: ("a text", (str,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    bool: ("true or false", (bool,)),
    list: ("a list of texts", (list,)),
}
"""Of values: in words, and what TOML makes of them."""


class ConfigError(Exception):
    """One sentence about the file of settings."""


@dataclass(frozen=True)
class Job:
    """A concept of the file, `[[concepts]]`. Paths are relative to the file, numbers keep to LIMITS.

    Attributes:
        pictures: a folder; where each image has a `.txt` beside it, these are its caption, {} where the placeholder goes.
        masks: a folder with a mask of the same name for each image.
        ignore_background: without masks, whether the model's own attention to the class word takes their place.
        anchors: ordinary words; None is the class word alone, none of them plain textual inversion.
        learn_weights: whether the anchors' weights are learnt as well, sparse in the end.
        growing: whether the anchor weight warms up linearly from 0.
        start_from: an embedding to go on with, a path or a name in the embeddings folder; it says how many vectors there are.
        paper: whether to train as the reference implementation does, whatever else is set but what, the seed, growing, noise_levels,
            rescale, prompts and the rank of a LoRA.
        what: "word" (the embedding alone), "attributes" (embeddings of its colour, style, object and layout), or what of the model is
            learnt as well: "keys and values" (Custom Diffusion), "attention" (LoRA) or "whole UNet" (DreamBooth). The change is
            written to a LoRA file of the same name.
        rank: of the change; 0 learns each weight's in full, as the whole UNet always is.
        weights_learning_rate: of the change; in units of the weights' own size.
        prior: "none", "DCO" or "class images": what keeps it from forgetting the class.
        prior_images: a folder of images of the class; "" lets the model draw prior_count of them.
        prior_weight: of the class images' loss; of DCO, its strength (10 is the paper's beta).
        anchor_loss: "embedding", or "text features" of whole prompts (ClassDiffusion).
        optimizer: "AdamW", or "sphere": vectors keep a typical word's length, and learning_rate is in radians a step (Directional
            Textual Inversion).
        replace: whether files of the same name that are there already, and of another training, are written over.
        attributes: which ones what = "attributes" learns: "colour, style, object, layout" (MATTE), "per layer (P+)" or
            "per stage (ProSpect)". Their defaults of vectors, mirror and ignore_background are `OF_ATTRIBUTES`.
        table: where colour, style, object and layout act, a line for each.
        colour_words: the true colours, separated by commas; "" finds them in the images.
        style_word: the ordinary word that the search for a style starts from.
        colour_style_loss, object_loss: whether each of MATTE's two losses is there, both weighted by anchor_weight.
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
    noise_levels: NoiseLevels = DEFAULTS.noise_levels
    prompts: list[str] = field(default_factory=list[str])
    seed: int = 0
    what: Literal["word", "attributes"] | What = "word"
    rank: int = 16
    weights_learning_rate: float = DEFAULTS.weights_learning_rate
    prior: PriorKind = "DCO"
    prior_images: str = ""
    prior_count: int = FINE_TUNE.prior_count
    prior_weight: float = FINE_TUNE.prior_weight
    anchor_loss: Literal["embedding", "text features"] = "embedding"
    optimizer: Optimizer = "AdamW"
    replace: bool = False
    attributes: Kind = ATTRIBUTES[0]
    table: str = str(MATTE)
    colour_words: str = ""
    style_word: str = "style"
    colour_style_loss: bool = True
    object_loss: bool = True

    def __post_init__(self) -> None:
        check_name(self.placeholder)
        if not self.class_word.strip():
            raise ValueError("class_word is empty; one ordinary word for what the images show is needed.")
        for name, limit in LIMITS.items():
            if not limit["min"] <= getattr(self, name) <= limit["max"]:
                raise ValueError(
                    f"{name} is {quoted(str(getattr(self, name)), 40)}; {limit['min']} to {limit['max']} is allowed."
                )
        if self.rank < 0 or not 0 < self.weights_learning_rate <= 1:
            raise ValueError(
                f"rank is {self.rank} and weights_learning_rate {self.weights_learning_rate}; 0 or more and 0 to 1 are allowed."
            )
        if self.resolution % 8:
            raise ValueError(f"resolution is {self.resolution}; a multiple of 8 is needed.")
        choices = {
            "kind": TEMPLATES,
            "noise_levels": get_args(NoiseLevels),
            "what": ("word", "attributes", *WHAT),
            "attributes": ATTRIBUTES,
            "prior": get_args(PriorKind),
            "anchor_loss": ("embedding", "text features"),
            "optimizer": get_args(Optimizer),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f'{name} is "{quoted(getattr(self, name))}"; {", ".join(known)} are allowed.')


OF_ATTRIBUTES: dict[str, Any] = {"vectors": 1, "mirror": False, "ignore_background": False}
"""Defaults for what = "attributes", as on the node: a layout has a left and a right, and with the style it is of the whole image."""

NOT_OF_ATTRIBUTES = (
    "anchors", "learn_weights", "start_from", "paper", "kind", "rescale", "rank", "weights_learning_rate", "prior", "prior_images",
    "prior_count", "prior_weight", "anchor_loss",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """A file of settings.

    Attributes:
        checkpoint: a name in ComfyUI's `models/checkpoints`, or a path.
        output: a folder for concepts and adapters; ComfyUI's embeddings and loras folders when it is empty.
        together: whether several processes share every concept's batches; else each process takes concepts of its own.
        jointly: whether all concepts are learnt in one run, with the first one's settings for the run, and one adapter for all of
            them.
    """

    checkpoint: str
    concepts: list[Job]
    output: str = ""
    together: bool = True
    jointly: bool = False


def read_config(path: Path) -> Config:
    """Raises ConfigError when the file cannot be read, lacks something, or holds a name or a value that means nothing."""
    try:
        import tomllib
    except ImportError as error:
        raise ConfigError("Training from a file needs Python 3.11 or later, which reads TOML.") from error
    try:
        raw = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f'"{path}" cannot be read as TOML: {quoted(str(error)).rstrip(".")}.') from error
    except RecursionError as error:
        raise ConfigError(f'"{path}" cannot be read as TOML: its lists lie too deep in each other.') from error
    entries = raw.pop("concepts", [])
    if not entries or not isinstance(entries, list) or not all(type(one) is dict for one in cast("list[Any]", entries)):
        raise ConfigError(f'"{path}" lists no concept; write one or more [[concepts]].')
    numbered = enumerate(cast("list[Any]", entries), start=1)
    jobs = [cast(Job, _made(Job, _by_attribute(entry, i, path), f"Concept {i}", path)) for i, entry in numbered]
    names = [job.placeholder for job in jobs]
    if len(set(names)) < len(names):
        raise ConfigError(f'"{path}" names a placeholder twice: {quoted(", ".join(names))}; each needs its own.')
    config = _made(Config, {**raw, "concepts": jobs}, "The file", path)
    if config.jointly and any(job.what == "attributes" for job in jobs):
        raise ConfigError(
            f'"{path}" sets jointly, but attributes are learnt one concept after the other; leave it out.'
        )
    return config


def _by_attribute(entry: Mapping[str, Any], number: int, path: Path) -> Mapping[str, Any]:
    """What a concept sets, with the defaults of attributes where it is learnt by these."""
    if entry.get("what") != "attributes":
        return entry
    needless = [name for name in NOT_OF_ATTRIBUTES if name in entry]
    if needless:
        raise ConfigError(
            f'Concept {number} of "{path}" sets "{needless[0]}", which attributes do not have; leave it out.'
        )
    return {**OF_ATTRIBUTES, **entry}


def _made(kind: Any, entry: Mapping[str, Any], what: str, path: Path) -> Any:
    known = {f.name: f.type for f in fields(kind)}
    for name, value in entry.items():
        if name not in known:
            raise ConfigError(
                f'{what} of "{path}" sets the unknown key "{quoted(name)}"; valid keys: {", ".join(known)}.'
            )
        words, kinds = KINDS.get(_plain(known[name]), ("", (type(value),)))
        fits = type(value) in kinds
        if fits and kinds == (list,) and name != "concepts":
            fits = all(isinstance(item, str) for item in value)
        if not fits:
            raise ConfigError(f'{what} of "{path}" sets "{name}" to {quoted(repr(value))}; {words} is needed.')
    try:
        return kind(**entry)
    except TypeError as error:
        lacking = [name for name in known if name not in entry]
        raise ConfigError(f'{what} of "{path}" is incomplete; it may lack one of {", ".join(lacking)}.') from error
    except ValueError as error:
        raise ConfigError(f'{what} of "{path}": {error}') from error


def _plain(kind: Any) -> Any:
    """The class of a field's values: list of `list[str] | None`, str of a literal."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = get_args(kind)[0]
    return str if get_origin(kind) is Literal else get_origin(kind) or kind
