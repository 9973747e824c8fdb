"""Embedding Doctor: what a file is, which models it is for, what to do about it, and a copy for another program."""

from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..compinv_core.files import first_free
from ..compinv_core.forms import FORMS, write_as
from ..compinv_core.host.backbone import ComfyBackbone
from ..compinv_core.host.text_encoder import text_encoders, vocabulary
from ..compinv_core.report.doctor import Examination, examine, with_dominance
from .concepts import NUMBER, embedding_files, endings
from .live_text import lasting
from .types import CATEGORY, found_by

NOTHING = "nothing"


class CompInvDoctor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvDoctor",
            display_name="Embedding Doctor",
            category=CATEGORY,
            **found_by("inspect embedding", "textual inversion", "convert embedding"),
            description="Says what an embedding's file is, which models it is for, how far it is from ordinary words and what to do about it; "
            "converts it for A1111, diffusers or kohya.",
            is_output_node=True,
            inputs=[
                io.Combo.Input("file", options=embedding_files(), tooltip="A file in ComfyUI's embeddings folders."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Measures how much the embedding dominates, on six or nine small images; needs clip. Unconnected: not measured.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that the embedding is compared with: family, norm, nearest words. Unconnected: the file alone.",
                ),
                io.String.Input(
                    "class_word",
                    default="",
                    optional=True,
                    tooltip="The class word that its dominance is measured against. Empty: the one stored in the file.",
                ),
                io.Combo.Input(
                    "convert_to",
                    options=[NOTHING, *FORMS],
                    optional=True,
                    tooltip="Writes a copy into output/embeddings. safetensors: every UI; A1111: .pt; diffusers: a file for each text encoder; XTI: kohya's "
                    "16 keys, of a concept per layer (P+). nothing: off.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "REPORT", display_name="report", tooltip="What was found, and what to do: a line for each finding."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **inputs: Any) -> tuple[int, int]:
        stat = Path(folder_paths.get_full_path_or_raise("embeddings", file)).stat()
        return stat.st_size, stat.st_mtime_ns

    @classmethod
    def execute(
        cls, file: str, model: Any = None, clip: Any = None, class_word: str = "", convert_to: str = NOTHING
    ) -> io.NodeOutput:
        if model is not None and clip is None:
            raise ValueError('The input "model" is connected without "clip"; connect both, or disconnect it.')
        path = Path(folder_paths.get_full_path_or_raise("embeddings", file))
        vocabularies = None if clip is None else {key: vocabulary(clip, key) for key in text_encoders(clip)}
        found = examine(path, vocabularies, class_word.strip())
        if model is not None:
            found = with_dominance(found, ComfyBackbone(model, clip), comfy.utils.ProgressBar(1).update_absolute)
        report = found.text()
        if convert_to != NOTHING:
            report += "".join(f"\nwritten: {copy}" for copy in _copies(found, convert_to))
        return io.NodeOutput(report, ui=lasting(report))


def _copies(found: Examination, form: str) -> list[Path]:
    """Written under a name that is free, beside what else this pack leaves there."""
    if found.concept is None:
        raise ValueError(found.fault)
    concept, folder = found.concept, Path(folder_paths.get_output_directory()) / "embeddings"
    copies: list[Path] = []

    def write(ending: str) -> None:
        copies[:] = write_as(concept, folder / f"{concept.name}{ending}{FORMS[form].ending}", form)

    first_free(endings(NUMBER), write)
    return copies


NODES = [CompInvDoctor]
