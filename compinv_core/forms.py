"""The forms in which a concept's file can be written for other programs."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .cards import NoCard, save_card, texts_of
from .concept import Concept, file_of, prompt_name, read_concept, xti_file
from .files import File, Taken, tensor_file, write_files
from .sentences import quoted

A1111_TOKEN = 265  # "*" in CLIP's vocabulary, which A1111 writes and does not read


@dataclass(frozen=True)
class Form:
    """Attributes:
    ending: of its files' names.
    files: a concept's files, given the path of the first.
    whole: whether attributes are kept; else it has what programs read that know none.
    """

    ending: str
    files: Callable[[Concept, Path], Sequence[File]]
    whole: bool = False


def _safetensors(concept: Concept, path: Path) -> list[File]:
    return [tensor_file(*file_of(concept, path))]


def _xti(concept: Concept, path: Path) -> list[File]:
    return [tensor_file(*xti_file(concept, path))]


def _a1111(concept: Concept, path: Path) -> list[File]:
    return [(path, _pickled(_a1111_content(concept)))]


def _a1111_content(concept: Concept) -> dict[str, Any]:
    """What a `.pt` file has; of SDXL, the two keys by which A1111 knows one."""
    vectors = {key: value.float().cpu().clone() for key, value in concept.vectors.items()}
    if len(vectors) > 1:
        return vectors
    steps = concept.provenance.get("steps", "")
    return {
        "string_to_token": {"*": A1111_TOKEN},
        "string_to_param": {"*": next(iter(vectors.values()))},
        "name": concept.name,
        "step": int(steps) if steps.isdecimal() and len(steps) < 10 else None,
        "sd_checkpoint": None,
        "sd_checkpoint_name": concept.provenance.get("model"),
    }


def _pickled(content: Any) -> Callable[[Path], object]:
    def write(new: Path) -> None:
        buffer = io.BytesIO()  # given a path, torch puts its name into the file
        torch.save(content, buffer)
        new.write_bytes(buffer.getvalue())

    return write


def _diffusers(concept: Concept, path: Path) -> list[File]:
    """A file for each text encoder, whose key is the token that prompts write; of SDXL, `name_2` beside `name`."""
    _, _, metadata = file_of(replace(concept, attributes={}, cells=""), path)

    def of(key: str, file: Path) -> File:
        vectors: Tensor = concept.vectors[key].float()
        return tensor_file({concept.name: vectors}, file, metadata)

    first, *others = sorted(concept.vectors, reverse=True)  # clip_l before clip_g
    return [of(first, path), *(of(key, path.with_name(f"{path.stem}_2{path.suffix}")) for key in others)]


def card(concept: Concept, picture: Image.Image, texts: Mapping[str, str], path: Path) -> File:
    """A PNG that carries a concept, all of it, and other texts.

    Raises:
        ValueError: the concept is too large for a card.
    """
    tensors, _, metadata = file_of(concept, path)
    try:
        own = texts_of(_a1111_content(concept), tensors, metadata, concept.name)
    except NoCard as error:
        raise ValueError(
            f'The concept "{quoted(concept.name, 60)}" cannot be a card: {error}; save it with Save Concept.'
        ) from error
    return path, lambda new: save_card(picture, {**texts, **own}, new)


FORMS = {
    "safetensors": Form(".safetensors", _safetensors, whole=True),
    "A1111": Form(".pt", _a1111),
    "diffusers": Form(".safetensors", _diffusers),
    "XTI": Form(".safetensors", _xti, whole=True),
}


def write_as(concept: Concept, path: Path, form: str) -> list[Path]:
    """Write a concept in one of FORMS under a path that is free. Returns its files.

    Raises:
        Taken: one of its files is there.
        ValueError: it cannot be written in this form.
    """
    files = FORMS[form].files(replace(concept, name=prompt_name(path.stem)), path)
    write_files(*files, replace=False)
    return [file for file, _ in files]


def convert(source: Path, target: Path, form: str) -> list[Path]:
    """Read any embedding and write it in one of FORMS. Returns the files.

    Raises:
        Taken: a file is there that would be written over.
        ValueError: the source holds no embedding, the target has another ending than the form's files, or the form cannot hold it.
    """
    ending = FORMS[form].ending
    if target.suffix.lower() != ending:
        raise ValueError(f'The target is "{quoted(target.name, 60)}"; files of the form {form} end in {ending}.')
    try:
        return write_as(read_concept(source), target, form)
    except Taken as error:
        raise Taken(
            f'"{quoted(str(target), 150)}", or a file that belongs to it, exists already; name another target.'
        ) from error
