"""A learnt word and its file: the embedding that every interface loads, with what made it in the metadata."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from torch import Tensor

from . import __version__
from .files import TensorFile, unused, write_tensors
from .reading.table import MATTE, Table, layers_named, parsed

safe_open = cast(Any, safetensors.safe_open)  # its signature has no types
WIDTHS = {768: "clip_l", 1280: "clip_g", 1024: "clip_h"}  # of a file that does not name its text encoder
FORMAT = "compositional inversion"
FAMILIES = {"clip_l": "SD 1.x", "clip_h": "SD 2.x", "clip_g, clip_l": "SDXL"}


@dataclass(frozen=True)
class Concept:
    """A placeholder and its vectors.

    Attributes:
        name: typed in prompts as `embedding:name`; the file's stem.
        vectors: text-encoder key ("clip_l", "clip_g", "clip_h") -> (n, E) float32.
        class_word: the ordinary word for it, "" when unknown.
        provenance: what made it, as text.
        attributes: of one that was learnt by attribute, each one's vectors as `vectors` has them; the latter are then what
            interfaces read that know no attributes.
        cells: where each of these is read, the text of a `Table`.
    """

    name: str
    vectors: Mapping[str, Tensor]
    class_word: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
    attributes: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict[str, Mapping[str, Tensor]])
    cells: str = ""

    def __post_init__(self) -> None:
        self._check_vectors()
        if set(self.table.lines) != set(self.attributes):
            has, named = ", ".join(self.attributes) or "none", ", ".join(self.table.lines) or "none"
            raise ValueError(
                f'The concept "{self.name}" has the attributes {has}, but its table of cells names {named}; both must name the same.'
            )
        for attribute in self.attributes:
            own = self.of(attribute)
            if {k: v.shape[1] for k, v in own.vectors.items()} != {k: v.shape[1] for k, v in self.vectors.items()}:
                raise ValueError(
                    f'The concept "{self.name}" has vectors of other widths for its {attribute}; those of one model are allowed.'
                )

    @property
    def table(self) -> Table:
        """Where its attributes are read."""
        return parsed(self.cells)

    def of(self, attribute: str) -> "Concept":
        """One of its attributes as a concept of its own.

        Raises:
            ValueError: it has no such attribute.
        """
        if attribute not in self.attributes:
            has = ", ".join(self.attributes)
            what = f"it has {has}" if has else "it was learnt as one word; learn it with Attribute Inversion Train"
            raise ValueError(f'The concept "{self.name}" has no attribute "{attribute}": {what}.')
        return Concept(f"{self.name}-{attribute}", self.attributes[attribute], self.class_word)

    def _check_vectors(self) -> None:
        if not self.vectors:
            raise ValueError(f'The concept "{self.name}" has no vectors; it needs those of one text encoder or more.')
        for key, vectors in self.vectors.items():
            if vectors.ndim != 2 or not vectors.numel():
                raise ValueError(
                    f'The concept "{self.name}" has vectors of shape {tuple(vectors.shape)} for {key}; the shape (vectors, width) '
                    "with one vector or more is allowed."
                )
            if not vectors.isfinite().all():
                raise ValueError(
                    f'The concept "{self.name}" holds NaN or infinity for {key}, as a training that diverged leaves behind; '
                    "take another embedding, only finite numbers are allowed."
                )
        if len({len(vectors) for vectors in self.vectors.values()}) > 1:
            counts = ", ".join(f"{key}: {len(vectors)}" for key, vectors in self.vectors.items())
            raise ValueError(
                f'The concept "{self.name}" has another number of vectors for each text encoder ({counts}); '
                "the same number is allowed, for their tokens stand side by side."
            )

    @property
    def count(self) -> int:
        """How many vectors it has in each text encoder."""
        return len(next(iter(self.vectors.values())))

    def describe(self) -> str:
        """What it is, in one line."""
        family = FAMILIES.get(", ".join(sorted(self.vectors)), "part of SDXL")
        sizes = " and ".join(f"{key} {vectors.shape[1]} wide" for key, vectors in self.vectors.items())
        known = {"class word": self.class_word, "attributes": ", ".join(self.attributes), **self.provenance}
        described = "".join(f"; {name} {value}" for name, value in known.items() if value)
        return f'"{self.name}" is an embedding for {family}: {self.count} vector{"s"[: self.count > 1]}, {sizes}{described}.'


def check_family(concept: Concept, widths: Mapping[str, int]) -> None:
    """Raises ValueError when a concept's vectors are not of these text encoders, no more and no less.

    The refiner of SDXL, which has one of the two, takes SDXL's concepts.

    Args:
        widths: text-encoder key -> the width of its input embeddings.
    """
    given = {key: vectors.shape[1] for key, vectors in concept.vectors.items()}
    if given != widths and not (set(widths) == {"clip_g"} and widths.items() <= given.items()):
        has, needs = (", ".join(f"{key}: {width}" for key, width in w.items()) for w in (given, widths))
        raise ValueError(
            f'The concept "{concept.name}" is for another family of models: it has vectors of width ({has}), '
            f"but this CLIP needs {needs}."
        )


def mixed(vectors: Tensor, word: Tensor, mix: float) -> Tensor:
    """Vectors (n, E) part of the way to an ordinary word's (E,): at 0 as they are, at 1 that word, below 0 away from it."""
    return vectors + mix * (word - vectors)


def lengthened(concept: Concept, strength: float) -> Concept:
    """The concept with all its vectors so many times as long: at 1 as they are, at 0 nothing."""
    return replace(concept, vectors={key: strength * vectors for key, vectors in concept.vectors.items()})


def check_name(name: str) -> None:
    """Raises ValueError unless `name` can be typed in a prompt and is a file's plain name."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(
            f'The placeholder "{name}" cannot be used; letters, digits, "-" and "_" are allowed, without spaces or folders.'
        )


def write_concept(concept: Concept, path: Path, replace: bool = False) -> None:
    """Write a `.safetensors` embedding, whole or not at all.

    Raises:
        FileExistsError: the file is there and `replace` is off.
    """
    if path.exists() and not replace:
        raise FileExistsError(f'The embedding "{path.name}" exists already; choose another name, or to replace it.')
    write_tensors(file_of(concept, path))


def file_of(concept: Concept, path: Path) -> TensorFile:
    """Its embedding as a `.safetensors` file."""
    metadata = {**concept.provenance, "class_word": concept.class_word, "format": FORMAT, "written_by": __version__}
    tensors = {key: vectors.float() for key, vectors in concept.vectors.items()}
    for attribute, own in concept.attributes.items():
        tensors |= {
            f"{key}.{attribute}": vectors.float().clone() for key, vectors in own.items()
        }  # no two may share memory
    return tensors, path, metadata | ({"cells": concept.cells} if concept.attributes else {})


def write_unfinished(concept: Concept, folder: Path) -> Path:
    """Write the word of a run that did not end well, beside those of earlier ones. Returns its file."""
    path = unused(folder / f"{concept.name}-unfinished")
    write_concept(concept, path)
    return path


def read_concept(path: Path) -> Concept:
    """Read our own embeddings, other safetensors, A1111's `.pt` and diffusers' `.bin`, and kohya's XTI, with a vector for each block.

    Diffusers writes SDXL's second text encoder to a file of its own, `name_2` beside `name`; both are read together.

    Raises:
        ValueError: the file holds no embedding that we know.
    """
    tensors, attributes, metadata = _read(path)
    second = path.with_name(f"{path.stem}_2{path.suffix}")
    if set(tensors) == {"clip_l"} and second.exists():
        others, _, _ = _read(second)
        if set(others) == {"clip_g"}:
            tensors |= others
    class_word, cells = metadata.pop("class_word", ""), metadata.pop("cells", "")
    if not cells and attributes:
        table = layers_named(list(attributes)) or Table(
            MATTE.cuts, {name: MATTE.lines.get(name, ()) for name in attributes}
        )
        cells = str(table)
    order = list(parsed(cells).lines)  # a file has its keys in another
    attributes = dict(
        sorted(attributes.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
    )
    return Concept(path.stem, tensors, class_word, metadata, attributes, cells)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, str]]:
    """(vectors by text encoder, those of attributes, metadata) of one file."""
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                raw: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        else:
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f'"{path.name}" cannot be read as an embedding: {error}.') from error
    attributes = _attributes(raw)
    tensors = _tensors(raw) or _mean(attributes)
    if not tensors:
        raise ValueError(f'"{path.name}" holds no embedding; safetensors, A1111 .pt and diffusers .bin are read.')
    return tensors, attributes, metadata


def is_ours(path: Path) -> bool:
    """Whether we wrote this file."""
    if path.suffix != ".safetensors":
        return False
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    return metadata.get("format") == FORMAT


def _attributes(raw: Any) -> dict[str, dict[str, Tensor]]:
    """Attribute -> text-encoder key -> its vectors."""
    found: dict[str, dict[str, Tensor]] = {}
    if not isinstance(raw, dict):
        return found
    for name, value in cast("dict[str, Any]", raw).items():
        if not (isinstance(value, Tensor) and value.ndim in (1, 2) and value.shape[-1]):
            continue
        vectors = value.detach().float().reshape(-1, value.shape[-1])
        key, dot, attribute = name.partition(".")
        if dot and key in WIDTHS.values():
            found.setdefault(attribute, {})[key] = vectors
        elif layers_named([name]) and vectors.shape[1] in WIDTHS:
            found[name] = {WIDTHS[vectors.shape[1]]: vectors}
    return found


def _mean(attributes: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of all attributes, for interfaces that read a concept in all blocks alike."""
    return mean_of(list(attributes.values())) if attributes else {}


def mean_of(words: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several words of as many vectors."""
    return {key: torch.stack([word[key] for word in words]).mean(dim=0) for key in words[0]}


def _tensors(raw: Any) -> dict[str, Tensor]:
    if not isinstance(raw, dict):
        return {}
    entries = cast("dict[str, Any]", raw)
    if isinstance(entries.get("string_to_param"), dict):
        entries = cast("dict[str, Any]", entries["string_to_param"])
    tensors = {
        key: value.detach().float().reshape(-1, value.shape[-1])
        for key, value in entries.items()
        if isinstance(value, Tensor) and value.ndim in (1, 2) and value.shape[-1] and not layers_named([key])
    }
    named = {key: vectors for key, vectors in tensors.items() if key in WIDTHS.values()}
    if named:  # OneTrainer keeps vectors of another kind beside them, "clip_l_out"
        return named
    return {WIDTHS[vectors.shape[1]]: vectors for vectors in tensors.values() if vectors.shape[1] in WIDTHS}
