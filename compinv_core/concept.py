"""A learnt word and its file: the embedding that every interface loads, with what made it in the metadata."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import __version__
from .cards import ENDING as CARD
from .cards import NAME
from .files import TensorFile, first_free, numbered, write_tensors
from .reading.table import MATTE, XTI, Table, layers_named, parsed
from .sentences import quoted
from .tensor_files import dense, read_metadata, read_tensors

WIDTHS = {768: "clip_l", 1280: "clip_g", 1024: "clip_h"}  # of a file that does not name its text encoder
FORMAT = "compositional inversion"
MAX_NAME = 100  # letters; of files beside it the names are longer
MAX_FILE = 2 * 2**30  # bytes; an embedding may come with a LoRA
MAX_TOLD, MOST_TOLD = 200, 20  # letters of each thing that a file says of itself, and how many things
MAX_VECTORS = 1000  # of a word; a prompt of that length is read in fourteen parts
OF_A_MODEL = re.compile(
    r"(^|\.)(weight|bias|alpha)$|(?<![A-Za-z])lora|hada_w|lokr_"
)  # names of weights, which are no embeddings
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
            has, named = (quoted(", ".join(names), 60) or "none" for names in (self.attributes, self.table.lines))
            raise ValueError(
                f'The concept "{quoted(self.name, 60)}" has the attributes {has}, but its table of cells names {named}; both must name the same.'
            )
        for attribute in self.attributes:
            own = self.of(attribute)
            if {k: v.shape[1] for k, v in own.vectors.items()} != {k: v.shape[1] for k, v in self.vectors.items()}:
                raise ValueError(
                    f'The concept "{quoted(self.name, 60)}" has vectors of another width for its {quoted(attribute, 60)}; all must be of one model.'
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
            has = quoted(", ".join(self.attributes))
            what = f"it has {has}" if has else "it was learnt as one word; learn it with Attribute Inversion Train"
            raise ValueError(
                f'The concept "{quoted(self.name, 60)}" has no attribute "{quoted(attribute, 40)}": {what}.'
            )
        return Concept(f"{self.name}-{attribute}", self.attributes[attribute], self.class_word)

    def _check_vectors(self) -> None:
        called = quoted(self.name, 60)
        if not self.vectors:
            raise ValueError(f'The concept "{called}" has no vectors; it needs those of one text encoder or more.')
        for key, vectors in self.vectors.items():
            if vectors.ndim != 2 or not vectors.numel():
                raise ValueError(
                    f'The concept "{called}" has vectors of shape {quoted(str(tuple(vectors.shape)), 60)} for {key}; the shape (vectors, width) '
                    "with one vector or more is allowed."
                )
            if not vectors.isfinite().all():
                raise ValueError(
                    f'The concept "{called}" holds NaN or infinite values for {key}, as a diverged training leaves them; '
                    "use another embedding, or train it again."
                )
        if len({len(vectors) for vectors in self.vectors.values()}) > 1:
            counts = ", ".join(f"{key}: {len(vectors)}" for key, vectors in self.vectors.items())
            raise ValueError(
                f'The concept "{called}" has another number of vectors for each text encoder ({counts}); '
                "all must have the same number."
            )

    @property
    def count(self) -> int:
        """How many vectors it has in each text encoder."""
        return len(next(iter(self.vectors.values())))

    @property
    def family(self) -> str:
        """The models whose text encoders it has vectors for."""
        return FAMILIES.get(", ".join(sorted(self.vectors)), "part of SDXL")

    def describe(self) -> str:
        """What it is, in one line."""
        sizes = " and ".join(f"{key} {vectors.shape[1]} wide" for key, vectors in self.vectors.items())
        known = {"class word": self.class_word, "attributes": ", ".join(self.attributes), **self.provenance}
        described = "".join(
            f"; {quoted(name, 30)} {quoted(value, MAX_TOLD)}" for name, value in [*known.items()][:MOST_TOLD] if value
        )
        return f'"{self.name}" is an embedding for {self.family}: {self.count} vector{"s"[: self.count > 1]}, {sizes}{described}.'


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
            f'The concept "{concept.name}" is for another family of models: its vectors have the widths {has}, '
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
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or len(name) > MAX_NAME:
        raise ValueError(
            f'The placeholder "{quoted(name)}" cannot be used; letters, digits, "-" and "_" are allowed, without spaces or folders, and at '
            f"most {MAX_NAME} of them."
        )


def prompt_name(stem: str) -> str:
    """A file's name as a prompt can write it: what ends a name there, or gives a weight, becomes a dash."""
    return re.sub(r"[\s()\\,{}|]+", "-", stem).strip("-") or "concept"


def card_name(text: str) -> str:
    """A name that a card gives, as a prompt can write it and a file can be called; "" where nothing is left of it."""
    return re.sub(r"[^\w.-]+", "-", text[:MAX_NAME]).strip("-.")


def write_concept(
    concept: Concept, path: Path, replace: bool = False, form: Callable[[Concept, Path], TensorFile] | None = None
) -> None:
    """Write a `.safetensors` embedding, whole or not at all.

    Args:
        form: `file_of`, which is the default, or `xti_file`.

    Raises:
        Taken: the file is there and `replace` is off.
        ValueError: it cannot be written in this form.
    """
    write_tensors((form or file_of)(concept, path), replace=replace)


def _metadata(concept: Concept) -> dict[str, str]:
    return {**concept.provenance, "class_word": concept.class_word, "format": FORMAT, "written_by": __version__}


def xti_file(concept: Concept, path: Path) -> TensorFile:
    """A concept of SD 1.x with a vector or more for each block as kohya's scripts write and read them: 16 keys and no others.

    Raises:
        ValueError: it was not learnt per layer, or is for other models.
    """
    if set(concept.attributes) != set(XTI) or set(concept.vectors) != {"clip_l"}:
        has = ", ".join(concept.attributes) or "one word for all blocks"
        raise ValueError(
            f'The concept "{concept.name}" cannot be saved for kohya\'s XTI, which has the {len(XTI)} blocks of SD 1.x, {XTI[0]} to {XTI[-1]}; '
            f"it has {quoted(has, 60)}. Train it per layer (P+) on SD 1.x."
        )
    return {name: concept.attributes[name]["clip_l"].float().clone() for name in XTI}, path, _metadata(concept)


def file_of(concept: Concept, path: Path) -> TensorFile:
    """Its embedding as a `.safetensors` file."""
    metadata = _metadata(concept)
    tensors = {key: vectors.float() for key, vectors in concept.vectors.items()}
    for attribute, own in concept.attributes.items():
        tensors |= {
            f"{key}.{attribute}": vectors.float().clone() for key, vectors in own.items()
        }  # no two may share memory
    return tensors, path, metadata | ({"cells": concept.cells} if concept.attributes else {})


def write_unfinished(concept: Concept, folder: Path) -> Path:
    """Write the word of a run that did not end well, beside those of earlier ones. Returns its file."""
    return first_free(numbered(folder / f"{concept.name}-unfinished"), partial(write_concept, concept))


def read_concept(path: Path) -> Concept:
    """Read our own embeddings and all that ComfyUI reads: other safetensors, A1111's and textual inversion's `.pt`, diffusers'
    `.bin`, lists, embeddings bundled with a LoRA; kohya's XTI, with a vector for each block; and cards, ours and A1111's. Of several
    words, those that ComfyUI would take.

    Diffusers writes SDXL's second text encoder to a file of its own, `name_2` beside `name`; both are read together.

    Raises:
        ValueError: the file holds no embedding that we know.
    """
    vectors, attributes, told = _read(path)
    second = path.with_name(f"{path.stem}_2{path.suffix}")
    is_card = path.suffix.lower() == CARD
    if set(vectors) == {"clip_l"} and second.exists() and not is_card:
        others, _, _ = _read(second)
        if set(others) == {"clip_g"}:
            vectors |= others
    class_word, cells, name = told.pop("class_word", ""), told.pop("cells", ""), prompt_name(path.stem)
    if is_card:
        name = card_name(told.pop(NAME, "")) or name
    elif name != path.stem:
        told = {"file": path.name, **told}
    if not cells and attributes:
        table = layers_named(list(attributes)) or Table(
            MATTE.cuts, {name: MATTE.lines.get(name, ()) for name in attributes}
        )
        cells = str(table)
    order = list(parsed(cells).lines)  # a file has its keys in another
    attributes = dict(
        sorted(attributes.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
    )
    return Concept(name, vectors, class_word, told, attributes, cells)


def read_content(path: Path) -> tuple[Any, dict[str, str]]:
    """What a file holds and its metadata, as `read_tensors` has them, of one that is small enough for an embedding.

    Raises:
        ValueError: it is not, or cannot be read.
    """
    if path.exists() and (size := path.stat().st_size) > MAX_FILE:
        raise ValueError(
            f'"{quoted(path.name, 60)}" is {size / 2**30:.1f} GB large, a model and no embedding; choose the file of an embedding.'
        )
    return read_tensors(path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, str]]:
    """(vectors by text encoder, those of attributes, what is known of them) of one file."""
    raw, told = read_content(path)
    named = cast("dict[Any, Any]", raw) if isinstance(raw, dict) else {}
    attributes = _attributes(named, path)
    vectors: dict[str, Tensor] = {}
    for width, key in WIDTHS.items():
        for word, value in _chosen(raw, key, width).items():
            found = _dense(word, value, path)
            if found.ndim in (1, 2) and found.shape[-1] and (key in named or found.shape[-1] == width):
                own = found.reshape(-1, found.shape[-1])
                vectors[key] = torch.cat([vectors[key], own]) if key in vectors else own
                if len(vectors[key]) > MAX_VECTORS:
                    raise ValueError(
                        f'"{quoted(path.name, 60)}" holds more than {MAX_VECTORS} vectors for {key}; choose the file of an embedding.'
                    )
    if attributes and not {*WIDTHS.values()} & {*named}:  # for interfaces that read a concept in all blocks alike
        vectors = mean_of(list(attributes.values()))
    if not vectors:
        holds = ", ".join(quoted(str(name), 30) for name in [*named][:3]) or f"a {type(cast(object, raw)).__name__}"
        raise ValueError(
            f'"{quoted(path.name, 60)}" holds no embedding, but {holds}; safetensors, A1111 .pt, diffusers .bin and cards are read.'
        )
    return vectors, attributes, {**_history(named), **told}


def _dense(name: str, value: Any, path: Path) -> Tensor:
    found = dense(value)
    if found is None:
        what = f'its "{quoted(name, 60)}" is no dense tensor of fractional numbers'
        raise ValueError(f'"{quoted(path.name, 60)}" holds no embedding that can be used: {what}.')
    return found


def _chosen(raw: Any, key: str, width: int) -> dict[str, Any]:
    """What ComfyUI takes of a file for one text encoder, by name; several values are put one behind the other.

    It takes the first word of those that are read whole, and the last of textual inversion's own files, of which it only sees
    the numbers.
    """
    if isinstance(raw, list):
        entries = [cast("dict[Any, Any]", entry) for entry in cast("list[Any]", raw) if isinstance(entry, dict)]
        every = [(str(name), value) for entry in entries for name, value in entry.items()]
        tensors = [(name, value) for name, value in every if isinstance(value, Tensor) and not value.is_nested]
        fitting = [(name, value) for name, value in tensors if value.shape[-1:] == (width,)]
        return {f"{name} of entry {i}": value for i, (name, value) in enumerate(fitting, start=1)}
    if not isinstance(raw, dict):
        return {}
    entries = {str(name): value for name, value in cast("dict[Any, Any]", raw).items()}
    words = entries.get("string_to_param")
    if isinstance(words, nn.ParameterDict):
        return dict(list(words.named_parameters())[-1:])
    if isinstance(words, dict):
        return {str(name): value for name, value in list(cast("dict[Any, Any]", words).items())[:1]}
    if key in entries:
        return {key: entries[key]}
    for ending in (".string_to_param.*", f".{key}"):
        bundled = {n: value for n, value in entries.items() if n.startswith("bundle_emb.") and n.endswith(ending)}
        if bundled:
            return bundled
    if any(OF_A_MODEL.search(name) for name in entries):
        return {}
    return dict([(name, value) for name, value in entries.items() if isinstance(value, Tensor)][:1])


def _history(entries: Mapping[Any, Any]) -> dict[str, str]:
    """What a `.pt` file says of its training, as A1111 writes it, and which of its words are not read."""
    told: dict[str, str] = {}
    if isinstance(entries.get("step"), int):
        told["steps"] = str(entries["step"])
    if isinstance(entries.get("sd_checkpoint_name"), str):
        told["model"] = entries["sd_checkpoint_name"]
    words: Any = entries.get("string_to_param", entries)
    last, named = False, dict[Any, Any]()
    if isinstance(words, nn.ParameterDict):
        last, named = True, dict(words.named_parameters())
    elif isinstance(words, dict):
        named = cast("dict[Any, Any]", words)
    own = [str(name) for name, value in named.items() if isinstance(value, Tensor)]
    if len(own) > 1 and not {*WIDTHS.values()} & {*own} and not any(name.startswith("bundle_emb.") for name in own):
        told["words not read"] = ", ".join(own[:-1] if last else own[1:])
    return told


def is_ours(path: Path) -> bool:
    """Whether we wrote this file."""
    return path.suffix == ".safetensors" and read_metadata(path).get("format") == FORMAT


def _attributes(entries: Mapping[Any, Any], path: Path) -> dict[str, dict[str, Tensor]]:
    """Attribute -> text-encoder key -> its vectors."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in ((str(name), value) for name, value in entries.items()):
        key, dot, attribute = name.partition(".")
        if not (dot and key in WIDTHS.values()) and not layers_named([name]):
            continue
        vectors = _dense(name, value, path)
        if vectors.ndim not in (1, 2) or not vectors.numel():
            raise ValueError(
                f'"{quoted(path.name, 60)}" has vectors of shape {quoted(str(tuple(vectors.shape)), 60)} for {quoted(name)}.'
            )
        vectors = vectors.reshape(-1, vectors.shape[-1])
        if dot:
            found.setdefault(attribute, {})[key] = vectors
        elif vectors.shape[1] in WIDTHS:
            found[name] = {WIDTHS[vectors.shape[1]]: vectors}
    if len({tuple((key, vectors.shape[1]) for key, vectors in sorted(own.items())) for own in found.values()}) > 1:
        raise ValueError(
            f'"{quoted(path.name, 60)}" has attributes with vectors of different widths; all must be of one model.'
        )
    return found


def mean_of(words: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several words, as many vectors as the shortest has."""
    count = min(len(vectors) for word in words for vectors in word.values())
    return {key: torch.stack([word[key][:count] for word in words]).mean(dim=0) for key in words[0]}
