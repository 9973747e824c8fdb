"""A learned word: its vectors for each text encoder, where they come from, and the embedding files that hold them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "1"
FILE_SUFFIXES = (".safetensors", ".pt", ".bin")
IfExists = Literal["refuse", "replace", "new number"]

_OURS = "compinv."
_ENCODER_BY_WIDTH = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
_RESERVED_BY_WINDOWS = {"con", "prn", "aux", "nul"} | {f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10)}


@dataclass(frozen=True)
class Concept:
    """What was learned about one concept.

    Prompts mention it as `embedding:<name>`, and a file that holds it is called after it.
    """

    name: str
    vectors: Mapping[str, Tensor]
    """Text encoder ("clip_l", "clip_g", "clip_h") -> (n, E) float32 on the CPU. Every encoder has the same n."""
    class_word: str = ""
    """The ordinary word for its kind, "cat"; empty when unknown (a file made elsewhere)."""
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
    """How it was made: steps, seed, anchors, hash of the base model, version."""

    def __post_init__(self) -> None:
        check_placeholder(self.name)
        if not self.vectors:
            raise ValueError(f'The concept "{self.name}" holds no vectors.')
        for encoder, vectors in self.vectors.items():
            if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype != torch.float32:
                raise ValueError(
                    f'The concept "{self.name}" needs one or more float32 vectors as (n, E) for {encoder}, '
                    f"but got {vectors.dtype} of shape {tuple(vectors.shape)}."
                )
            if not vectors.isfinite().all():
                raise ValueError(
                    f'The concept "{self.name}" has values for {encoder} that are not finite (NaN or infinity): '
                    "train it again with a lower learning rate, or choose another file."
                )
        if len({len(vectors) for vectors in self.vectors.values()}) > 1:
            counts = ", ".join(f"{encoder} {len(vectors)}" for encoder, vectors in self.vectors.items())
            raise ValueError(
                f'The concept "{self.name}" has different numbers of vectors ({counts}), '
                "but every text encoder must have the same number."
            )

    @property
    def count(self) -> int:
        """How many of the prompt's tokens it takes."""
        return len(next(iter(self.vectors.values())))


def check_placeholder(name: str, words: Container[str] = (), taken: Container[str] = ()) -> None:
    """Refuses a name that prompts or folders would misread, with one sentence.

    Args:
        words: the text encoder's ordinary words; a `Vocabulary` will do.
        taken: names that embedding files have already.
    """
    problem = _problem_with(name)
    if problem is None and name.lower() in words:
        problem = "is an ordinary word of the text encoder; add something to it"
    if problem is None and name in taken:
        problem = "is already an embedding; choose another or remove its file"
    if problem is not None:
        raise ValueError(f'The placeholder "{name}" {problem}, for example "my-{_letters(name) or "cat"}".')


def _problem_with(name: str) -> str | None:
    if not name:
        return "is empty; write a name"
    if name.lower().startswith("embedding:"):
        return 'starts with "embedding:", which prompts add by themselves; write the name alone'
    if any(c.isspace() for c in name):
        return "contains a space; write it as one word"
    if "/" in name or "\\" in name or name.startswith("."):
        return "would leave the embeddings folder; use no slashes and no dot at the start"
    if not all(c.isalnum() or c in "-_.+" for c in name):
        return 'has a character that prompts or file names cannot hold; use letters, digits and "-", "_", "+", "."'
    if name.endswith((".", *FILE_SUFFIXES)):
        return "ends like a file name; write the name alone"
    if name.split(".")[0].lower() in _RESERVED_BY_WINDOWS:
        return "is a device name on Windows; choose another"
    return None


def _letters(name: str) -> str:
    return "".join(c for c in name.lower().removeprefix("embedding:") if c.isalpha())[:20]


def read_concept(path: Path | str, class_word: str = "") -> Concept:
    """Reads an embedding file: ours, kohya's and OneTrainer's .safetensors, A1111's .pt, diffusers' .bin.

    Args:
        class_word: replaces what the file says, or says what a file made elsewhere does not.
    """
    path = Path(path)
    name = path.name.removesuffix(path.suffix)
    if path.suffix not in FILE_SUFFIXES:
        raise ValueError(f'The embedding "{path.name}" must be one of {", ".join(FILE_SUFFIXES)}.')
    with torch.inference_mode(False):  # a concept may be trained on, whoever read it
        try:
            tensors, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_pickle(path), {})
            vectors = {
                encoder: tensor.detach().reshape(-1, tensor.shape[-1]).to("cpu", torch.float32, copy=True)
                for encoder, tensor in _by_encoder(tensors).items()
            }
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f'The file "{path.name}" holds no embedding that can be read: {error}') from error
    ours = {key.removeprefix(_OURS): value for key, value in metadata.items() if key.startswith(_OURS)}
    file_word = ours.pop("class_word", "")
    return Concept(name, vectors, class_word or file_word, {k: v for k, v in ours.items() if k != "format"})


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt", device="cpu") as file:  # pyright: ignore[reportUnknownVariableType]
        tensors = {key: cast(Tensor, file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
        return tensors, cast("dict[str, str]", file.metadata() or {})


def _read_pickle(path: Path) -> dict[str, Tensor]:
    content = cast("dict[str, object]", torch.load(path, map_location="cpu", weights_only=True))
    content = cast("dict[str, object]", content.get("string_to_param", content))
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _by_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are named after a text encoder; else the file's only ones, told apart by their width."""
    named = {key: tensor for key, tensor in tensors.items() if key in _ENCODER_BY_WIDTH.values()}
    if named:
        return named
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        encoder = _ENCODER_BY_WIDTH.get(tensor.shape[-1] if tensor.ndim in (1, 2) else 0)
        if encoder is None or encoder in found:
            allowed = ", ".join(f"{width} ({encoder})" for width, encoder in _ENCODER_BY_WIDTH.items())
            raise ValueError(
                f'"{key}" of shape {tuple(tensor.shape)} is not one embedding of a supported width: {allowed}.'
            )
        found[encoder] = tensor
    if not found:
        raise ValueError("it holds no tensors.")
    return found


def write_concept(concept: Concept, path: Path | str, if_exists: IfExists = "refuse") -> Concept:
    """Writes the file that every UI loads as `embedding:<name>`: all of it or nothing.

    Args:
        path: `<folder>/<concept.name>.safetensors`.
        if_exists: what to do when the name is taken. "new number" appends -2, -3, ... to the name.

    Returns:
        The concept under the name it was written with.
    """
    path = Path(path)
    assert path.name == f"{concept.name}.safetensors"
    for candidate in _numbered(concept) if if_exists == "new number" else [concept]:
        target = path.with_name(f"{candidate.name}.safetensors")
        if if_exists == "replace" or not any(_beside(target, s).exists() for s in FILE_SUFFIXES):
            try:
                _write(candidate, target, overwrite=if_exists == "replace")
                return candidate
            except FileExistsError:  # somebody else took the name this instant
                pass
    raise FileExistsError(
        f'An embedding "{concept.name}" exists already in "{path.parent.name}": choose another name, or let it be replaced.'
    )


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name.removesuffix(".safetensors") + suffix)  # a name may hold dots


def _numbered(concept: Concept) -> Iterator[Concept]:
    yield concept
    number = 2
    while True:
        yield replace(concept, name=f"{concept.name}-{number}")
        number += 1


def _write(concept: Concept, target: Path, overwrite: bool) -> None:
    metadata = {"format": FORMAT, **concept.provenance, "class_word": concept.class_word}
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{concept.name}-", suffix=".partial")
    os.close(handle)
    try:
        save_file(
            {encoder: vectors.detach().contiguous() for encoder, vectors in concept.vectors.items()},
            scratch,
            {_OURS + key: value for key, value in metadata.items()},
        )
        os.chmod(scratch, 0o644)  # mkstemp makes files that only their owner can read
        if overwrite:
            os.replace(scratch, target)
        else:
            _rename_to_free_name(scratch, target)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _rename_to_free_name(scratch: str, target: Path) -> None:
    try:
        os.link(scratch, target)  # fails when the target exists, which a rename does not
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(target) from None
        os.replace(scratch, target)
