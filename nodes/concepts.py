"""Save, Load and Apply Concept: the embedding as a file, and in a CLIP."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..compinv_core.cards import ENDING as CARD
from ..compinv_core.concept import Concept, check_name, file_of, lengthened, read_concept, write_concept, xti_file
from ..compinv_core.files import first_free, numbered
from ..compinv_core.host.text_encoder import towards_class_word, with_concept
from ..compinv_core.tensor_files import read_metadata
from .types import CATEGORY, ConceptType, found_by

REFUSE, REPLACE, NUMBER = "refuse", "replace it", "add a number"
FORMS = {"embedding": file_of, "kohya's XTI": xti_file}


class CompInvSaveConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvSaveConcept",
            display_name="Save Concept",
            category=CATEGORY,
            **found_by("save embedding", "textual inversion"),
            description="Saves a concept's embedding (textual inversion) in ComfyUI's embeddings folder; prompts use it as embedding:name.",
            is_output_node=True,
            inputs=[
                ConceptType.Input("concept", tooltip="From Compositional Inversion Train or Repair Concept."),
                io.String.Input("name", default="", tooltip="File name without extension. Empty: the placeholder."),
                io.Combo.Input(
                    "if_it_exists",
                    options=[REFUSE, REPLACE, NUMBER],
                    tooltip="When the file exists: stop with an error, overwrite it, or add a number to the name.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMS),
                    optional=True,
                    tooltip="embedding: a file that every UI loads. kohya's XTI: the 16 keys that kohya's scripts read, of a concept trained per layer "
                    "(P+) on SD 1.x.",
                ),
            ],
            outputs=[
                ConceptType.Output("SAVED", display_name="concept", tooltip="The concept, named as its file."),
                io.String.Output(
                    "NAME", display_name="name", tooltip='What to write in a prompt: "embedding:" and the name.'
                ),
            ],
        )

    @classmethod
    def execute(cls, concept: Concept, name: str, if_it_exists: str, format: str = next(iter(FORMS))) -> io.NodeOutput:
        name = name.strip() or concept.name
        check_name(name)
        folder = Path(folder_paths.get_folder_paths("embeddings")[0])

        def write(ending: str) -> None:
            file = folder / f"{name}{ending}.safetensors"
            write_concept(replace(concept, name=file.stem), file, if_it_exists == REPLACE, FORMS[format])

        try:
            saved = replace(concept, name=f"{name}{first_free(endings(if_it_exists), write)}")
        except (OSError, ValueError) as error:  # it exists, its folder cannot be written, or it has not this form
            raise type(error)(f"{error}{_kept(replace(concept, name=name))}") from error
        return io.NodeOutput(saved, f"embedding:{saved.name}")


class CompInvLoadConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvLoadConcept",
            display_name="Load Concept",
            category=CATEGORY,
            **found_by("load embedding", "textual inversion"),
            description="Loads an embedding: .safetensors (this pack's or others'), A1111's .pt, diffusers' .bin, and concept cards (.png).",
            inputs=[
                io.Combo.Input("file", options=embedding_files(), tooltip="A file in ComfyUI's embeddings folders."),
                io.String.Input(
                    "class_word",
                    default="",
                    tooltip="The class word, which takes the concept's place when a layout is recovered. Empty: the one stored in the file.",
                ),
            ],
            outputs=[
                ConceptType.Output(
                    "CONCEPT",
                    display_name="concept",
                    tooltip="The concept, for Apply Concept, Concept Report or Repair Concept.",
                ),
                io.String.Output(
                    "FOUND",
                    display_name="found",
                    tooltip="The file's contents: vectors, model family and what trained it.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, class_word: str) -> tuple[str, str, int, int]:
        stat = Path(folder_paths.get_full_path_or_raise("embeddings", file)).stat()
        return file, class_word, stat.st_size, stat.st_mtime_ns

    @classmethod
    def execute(cls, file: str, class_word: str) -> io.NodeOutput:
        concept = read_concept(Path(folder_paths.get_full_path_or_raise("embeddings", file)))
        concept = replace(concept, class_word=class_word.strip() or concept.class_word)
        return io.NodeOutput(concept, concept.describe())


class CompInvApplyConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvApplyConcept",
            display_name="Apply Concept",
            category=CATEGORY,
            **found_by("embedding", "textual inversion"),
            description="Adds a concept's embedding to a CLIP, without a file. Chain one node per concept.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder. It is not changed."),
                ConceptType.Input("concept", tooltip="The concept to add."),
                io.Float.Input(
                    "anchor_mix",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Interpolates the vectors towards the class word's, without training: 1 is the class word, 0 switches it off. 0.25 may "
                    "restore the class of a one-vector embedding, at the cost of some of its appearance.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    tooltip="Scales the vectors' norm, after anchor_mix: 0 removes the concept, 1 switches the scaling off. Text encoders normalise "
                    "their input, so expect little effect between 0.5 and 2.",
                ),
            ],
            outputs=[
                io.Clip.Output("APPLIED", display_name="clip", tooltip="A CLIP that also knows embedding:name."),
                io.String.Output(
                    "NAME", display_name="name", tooltip='What to write in a prompt: "embedding:" and the name.'
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, concept: Concept, anchor_mix: float = 0.0, strength: float = 1.0) -> io.NodeOutput:
        if anchor_mix:
            concept = towards_class_word(clip, concept, anchor_mix)
        if strength != 1:
            concept = lengthened(concept, strength)
        return io.NodeOutput(with_concept(clip, concept), f"embedding:{concept.name}")


def endings(if_it_exists: str) -> Iterator[str]:
    """What may follow a name, the first one first, until one is found that is free."""
    yield ""
    if if_it_exists == NUMBER:
        yield from (f"-{number}" for number in itertools.count(2))


def _kept(concept: Concept) -> str:
    """Where a concept is that was learnt here and is not saved as its user asked, once for each run: hours may be in it."""
    run = concept.provenance.get("run")
    if run is None:
        return ""
    folder = Path(folder_paths.get_output_directory()) / "embeddings"
    files = sorted(folder.glob(f"{concept.name}-*.safetensors"))
    file = next((one for one in files if read_metadata(one).get("run") == run), None)
    if file is None:
        try:
            file = first_free(numbered(folder / concept.name), partial(write_concept, concept))
        except OSError:  # on the same disk, say
            return ""
    return f" What was learnt is in {file}."


def embedding_files() -> list[str]:
    """What embeddings there are. Without names that are markup: the menu of the page would run a script in them."""
    files = folder_paths.get_filename_list("embeddings")
    embeddings = [f for f in files if Path(f).suffix.lower() in (".safetensors", ".pt", ".bin")]
    return [f for f in (*embeddings, *_cards(embeddings)) if "<" not in f]


def _cards(embeddings: Sequence[str]) -> list[str]:
    """The pictures beside embeddings by their names alone, without previews, which are called as an embedding is."""
    folders = folder_paths.get_folder_paths("embeddings")
    found = {file for folder in folders for file in folder_paths.recursive_search(folder, [".git"])[0]}
    named = {f"{Path(f).with_suffix('')}{preview}" for f in embeddings for preview in ("", ".preview")}
    pictures = [f for f in sorted(found) if Path(f).suffix.lower() == CARD]
    return [f for f in pictures if str(Path(f).with_suffix("")) not in named]


NODES = [CompInvSaveConcept, CompInvLoadConcept, CompInvApplyConcept]
