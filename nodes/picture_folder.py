"""Load Concept Pictures: a folder of training images, as the command line reads it."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..compinv_core.sentences import quoted
from ..compinv_core.training.picture_folder import PictureFolder, read_folder
from .live_text import lasting
from .pictures import from_image, picture_sheet
from .types import CATEGORY, found_by


class CompInvLoadPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvLoadPictures",
            display_name="Load Concept Pictures",
            category=CATEGORY,
            **found_by("image folder", "dataset"),
            description="Loads a folder of training images: sorted by name, turned upright, transparency on white and as masks, with "
            "the captions beside them.",
            inputs=[
                io.Combo.Input("folder", options=_folders(), tooltip="A folder within ComfyUI's input folder."),
            ],
            outputs=[
                io.Image.Output(
                    "IMAGES", display_name="images", is_output_list=True, tooltip="The images, for a training node."
                ),
                io.Mask.Output(
                    "MASKS",
                    display_name="masks",
                    is_output_list=True,
                    tooltip="One mask per image, from its alpha channel; none where no image is transparent anywhere.",
                ),
                io.String.Output(
                    "CAPTIONS",
                    display_name="captions",
                    is_output_list=True,
                    tooltip="For Training Options: the text of the .txt file beside each image; none where one image has none.",
                ),
                io.Image.Output("SHEET", display_name="sheet", tooltip="All images with their names."),
                io.String.Output(
                    "FOUND", display_name="found", tooltip="How many images there are, what was left out, and why."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str) -> list[tuple[str, int, int]]:
        files = [file for file in sorted(_path(folder).glob("*")) if file.is_file()]
        return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        found = read_folder(_path(folder))
        text = _described(found)
        images = [picture.pixels for picture in found.pictures]
        sheet = picture_sheet([(picture.file.name, picture.pixels[0]) for picture in found.pictures])
        return io.NodeOutput(images, found.masks, found.captions, from_image(sheet), text, ui=lasting(text))


def _folders() -> list[str]:
    """Without names that are markup: the menu of the page would run a script in them."""
    return [name for name in folder_paths.get_input_subfolders() if "<" not in name]


def _path(folder: str) -> Path:
    """Raises ValueError when it is no folder within the input folder."""
    root = Path(folder_paths.get_input_directory()).resolve()
    path = (root / folder).resolve()
    if not path.is_dir() or not path.is_relative_to(root):
        raise ValueError(
            f'The input "folder" is "{quoted(folder)}"; a folder within ComfyUI\'s input folder is needed.'
        )
    return path


def _described(found: PictureFolder) -> str:
    count, masked = len(found.pictures), sum(picture.alpha is not None for picture in found.pictures)
    line = f"{count} image{'s'[: count > 1]}"
    line += f", {masked} with a mask from the alpha channel" if masked else ""
    line += ", with captions" if found.captions else ""
    return "\n".join([f"{line}.", *found.notices])


NODES = [CompInvLoadPictures]
