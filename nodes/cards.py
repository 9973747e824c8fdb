"""Save Concept Card: a picture that carries an embedding, its workflow and its figures, for others to load."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui

from ..compinv_core.concept import Concept
from ..compinv_core.files import first_free, write_files
from ..compinv_core.forms import card
from ..compinv_core.sentences import check_letters, quoted
from .card_picture import card_picture
from .inputs import first_values
from .types import CATEGORY, ConceptType, found_by

REPORT = "compinv_report"  # what a card calls the text of its figures
MAX_REPORT = 100_000  # letters


class CompInvSaveCard(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvSaveCard",
            display_name="Save Concept Card",
            category=CATEGORY,
            **found_by("share embedding", "save embedding", "textual inversion", "preview image"),
            description="Saves a picture to share: a grid of images that carries the embedding and the workflow. Load Concept and A1111 read the "
            "embedding; dragged into ComfyUI, it opens the workflow.",
            is_output_node=True,
            is_input_list=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                ConceptType.Input("concept", tooltip="From Compositional Inversion Train or Load Concept."),
                io.Image.Input(
                    "images", tooltip="What the concept looks like: a batch or a list, of which the first 9 are shown."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="concept_card",
                    tooltip="Beginning of the file's name in ComfyUI's output folder; a number is added. May name a folder: cards/my-cat.",
                ),
                io.String.Input(
                    "report",
                    optional=True,
                    force_input=True,
                    tooltip="Figures below the images: the report of Embedding Doctor, or json or verdict of Concept Report. Unconnected: none.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, **inputs: list[Any]) -> io.NodeOutput:
        one = first_values(inputs)
        concept: Concept = one["concept"]
        prefix: str = one["filename_prefix"]
        report: str = one.get("report") or ""
        check_letters(report, "report")
        pictures = [picture for images in inputs["images"] for picture in images]
        if not pictures:
            raise ValueError('The input "images" holds no image; connect one or more.')
        picture = card_picture(concept, pictures, report)
        texts = {**_workflow(cls), **({REPORT: report[:MAX_REPORT]} if report else {})}
        output = Path(folder_paths.get_output_directory())
        if not (output / prefix).resolve().is_relative_to(output.resolve()):
            raise ValueError(
                f'The input filename_prefix is "{quoted(prefix, 60)}", which leads out of the output folder; name a file or a folder in it.'
            )
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
            prefix, str(output), picture.width, picture.height
        )
        files = (Path(folder) / f"{name}_{i:05}_.png" for i in itertools.count(number))
        file = first_free(files, lambda path: write_files(card(concept, picture, texts, path), replace=False))
        return io.NodeOutput(ui=ui.SavedImages([ui.SavedResult(file.name, subfolder, io.FolderType.output)]))


def _workflow(cls: type[io.ComfyNode]) -> Mapping[str, str]:
    """What ComfyUI's own Save Image puts into its files, so that a page opens the workflow of one that is dragged there."""
    if args.disable_metadata or cls.hidden is None:
        return {}
    given = {**({"prompt": cls.hidden.prompt} if cls.hidden.prompt else {}), **(cls.hidden.extra_pnginfo or {})}
    return {key: json.dumps(value) for key, value in given.items()}


NODES = [CompInvSaveCard]
