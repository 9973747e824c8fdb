"""Save, Load and Apply Concept: the learnt word as a file, and in a CLIP."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..compinv_core.concept import Concept, check_name, lengthened, read_concept, write_concept
from ..compinv_core.host.text_encoder import towards_class_word, with_concept
from .types import CATEGORY, ConceptType

REFUSE, REPLACE, NUMBER = "refuse", "replace it", "add a number"


class CompInvSaveConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvSaveConcept",
            display_name="Save Concept",
            category=CATEGORY,
            description="Writes a learnt word into ComfyUI's embeddings folder, for every prompt as embedding:name.",
            is_output_node=True,
            inputs=[
                ConceptType.Input("concept", tooltip="From Compositional Inversion Train."),
                io.String.Input("name", default="", tooltip="The file's name without ending. Empty: the placeholder."),
                io.Combo.Input(
                    "if_it_exists",
                    options=[REFUSE, REPLACE, NUMBER],
                    tooltip="What to do when the file is there already.",
                ),
            ],
            outputs=[
                ConceptType.Output("SAVED", display_name="concept", tooltip="The concept, under the name of its file."),
                io.String.Output(
                    "NAME", display_name="name", tooltip='What to write in a prompt: "embedding:" and the name.'
                ),
            ],
        )

    @classmethod
    def execute(cls, concept: Concept, name: str, if_it_exists: str) -> io.NodeOutput:
        name = name.strip() or concept.name
        check_name(name)
        folder = Path(folder_paths.get_folder_paths("embeddings")[0])
        folder.mkdir(parents=True, exist_ok=True)
        chosen, number = name, 1
        while if_it_exists == NUMBER and (folder / f"{chosen}.safetensors").exists():
            number += 1
            chosen = f"{name}-{number}"
        saved = Concept(chosen, concept.vectors, concept.class_word, concept.provenance)
        write_concept(saved, folder / f"{chosen}.safetensors", replace=if_it_exists == REPLACE)
        return io.NodeOutput(saved, f"embedding:{chosen}")


class CompInvLoadConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvLoadConcept",
            display_name="Load Concept",
            category=CATEGORY,
            description="Reads an embedding: ours, other safetensors, A1111's .pt or diffusers' .bin.",
            inputs=[
                io.Combo.Input("file", options=_files(), tooltip="A file of the embeddings folder."),
                io.String.Input(
                    "class_word",
                    default="",
                    tooltip="One ordinary word for it, which stands in for it when a layout is recovered. Empty: what the file says.",
                ),
            ],
            outputs=[
                ConceptType.Output("CONCEPT", display_name="concept", tooltip="For Apply Concept."),
                io.String.Output(
                    "FOUND", display_name="found", tooltip="What the file holds, for which models, and what made it."
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
            description="Gives a CLIP the new word, without a file. Chain several for several concepts.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder; it is not changed."),
                ConceptType.Input("concept", tooltip="The learnt word."),
                io.Float.Input(
                    "anchor_mix",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="How far the word goes back to its class word, without training: 0 as learnt, 1 the class word. A quarter may save a "
                    "word that gives up its class beside others; it costs some of what is yours.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    tooltip="How long the word's vectors are, after anchor_mix: 1 as they are, 0 nothing of it. Text encoders even out most of "
                    "it: expect little between a half and 2.",
                ),
            ],
            outputs=[
                io.Clip.Output("APPLIED", display_name="clip", tooltip="A CLIP that also understands embedding:name."),
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


def _files() -> list[str]:
    """Without names that are markup: the menu of the page would run a script in them."""
    files = folder_paths.get_filename_list("embeddings")
    return [f for f in files if Path(f).suffix in (".safetensors", ".pt", ".bin") and "<" not in f]


NODES = [CompInvSaveConcept, CompInvLoadConcept, CompInvApplyConcept]
