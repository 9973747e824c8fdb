"""The spec of a world: one TOML file that says what it shows, what it calls things and how its models are made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tomllib

from .shapes import SHAPES

Hsv = tuple[float, float, float]
Prediction = Literal["epsilon", "v"]
TEXT_HEADS = 4  # attention heads of the text encoder
HERE = Path(__file__).parent
FIRST = "microworld"  # the world whose files lie in this folder itself


@dataclass(frozen=True)
class Look:
    """What an object or a wallpaper wears: a pattern in two colours.

    `primary` and `secondary` are (hue in degrees, saturation, value).
    """

    pattern: str
    primary: Hsv
    secondary: Hsv


@dataclass(frozen=True)
class ConceptSpec:
    """A look that no training scene shows, and the wallpaper in front of which its owner took the pictures."""

    name: str
    word: str
    look: Look
    room: Look
    split: str


@dataclass(frozen=True)
class ReferenceSpec:
    """What attributes are learnt from: a thing whose class, pattern, colour and size are each a word's, together in a way of their own.

    `extent` is half its size, as a fraction of the canvas.
    """

    name: str
    word: str
    look: Look
    extent: float
    split: str


@dataclass(frozen=True)
class ClassSpec:
    """A class of things: its silhouette, and what captions call it now and then instead of its own word."""

    shape: str
    synonyms: list[str]


@dataclass(frozen=True)
class ModelSpec:
    """The text encoder's width, what the diffusion model predicts, and the checkpoint of the world that training starts from.

    What depends on words, the text encoder and the keys and values of cross-attention, starts anew all the same.
    """

    width: int
    prediction: Prediction
    start: Path | None


@dataclass(frozen=True)
class World:
    name: str
    seed: int
    size: int
    model: ModelSpec
    words: dict[str, ClassSpec]
    colors: dict[str, Hsv]
    patterns: dict[str, dict[str, Any]]
    rooms: dict[str, dict[str, Any]]
    scenes: dict[str, Any]
    captions: dict[str, list[str]]
    concepts: dict[str, ConceptSpec]
    references: dict[str, ReferenceSpec]
    path: Path

    @property
    def classes(self) -> list[str]:
        return list(self.words)

    @property
    def folder(self) -> Path:
        """Where the trained files, the figures and the users' pictures lie."""
        return HERE if self.name == FIRST else HERE / self.name

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.safetensors"

    @property
    def judge(self) -> Path:
        return self.folder / "judge.safetensors"

    @property
    def describer(self) -> Path:
        return self.folder / "describer.safetensors"

    @property
    def host_folder(self) -> Path:
        """What ComfyUI needs to load the checkpoint: the text encoder's configuration, the tokenizer, preview colours."""
        nodes = HERE / "comfyui_microworld"
        return nodes if self.name == FIRST else nodes / self.name


def _look(entry: dict[str, Any]) -> Look:
    return Look(entry["pattern"], tuple(entry["primary"]), tuple(entry["secondary"]))


def load_world(path: Path) -> World:
    raw = tomllib.loads(path.read_text())
    concepts = {
        name: ConceptSpec(name, entry["word"], _look(entry), _look(entry["room"]), entry["split"])
        for name, entry in raw["concepts"].items()
    }
    for word, entry in raw["words"].items():
        if entry["shape"] not in SHAPES:
            raise ValueError(f'{path}: "{word}" has the shape "{entry["shape"]}"; there are {", ".join(SHAPES)}.')
    for concept in concepts.values():
        if concept.word not in raw["words"]:
            raise ValueError(f'{path}: concept "{concept.name}" is a "{concept.word}", which [words] does not list.')
    references = {
        name: ReferenceSpec(name, entry["word"], _look(entry), entry["extent"], entry["split"])
        for name, entry in raw.get("references", {}).items()
    }
    model = raw["model"]
    if model["prediction"] not in get_args(Prediction):
        raise ValueError(
            f'{path}: the prediction is "{model["prediction"]}"; there are {", ".join(get_args(Prediction))}.'
        )
    if model["width"] % TEXT_HEADS:
        raise ValueError(f"{path}: the width is {model['width']}, which is no multiple of {TEXT_HEADS}.")
    return World(
        name=raw["name"],
        seed=raw["seed"],
        size=raw["size"],
        model=ModelSpec(
            model["width"],
            model["prediction"],
            path.parent / model["start"] if model["start"] else None,
        ),
        words={word: ClassSpec(entry["shape"], entry["synonyms"]) for word, entry in raw["words"].items()},
        colors={name: tuple(hsv) for name, hsv in raw["colors"].items()},
        patterns=raw["patterns"],
        rooms=raw["rooms"],
        scenes=raw["scenes"],
        captions=raw["captions"],
        concepts=concepts,
        references=references,
        path=path,
    )


DEFAULT_WORLD = HERE / "world.toml"
