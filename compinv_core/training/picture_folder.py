"""A folder of a concept's pictures: the same for the graph and the command line."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..sentences import check_letters, quoted
from .images import SMALLEST_SIDE

READ = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OTHERS = (".heic", ".heif", ".avif", ".gif", ".tif", ".tiff", ".jxl")  # pictures that Pillow, or not every one, reads
MAX_CAPTION = 20_000  # bytes


@dataclass(frozen=True)
class Picture:
    """One picture of a folder.

    Attributes:
        file: its path.
        pixels: (1, H, W, 3) in 0..1, turned upright, what is transparent laid on white.
        alpha: (1, H, W) in 0..1, white where it shows something; None where nothing is transparent.
    """

    file: Path
    pixels: Tensor
    alpha: Tensor | None


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, by name.

    Attributes:
        captions: of each, the text of the `.txt` beside it; none where one of them has none.
        notices: sentences on what was left out, and why.
    """

    pictures: list[Picture]
    captions: list[str]
    notices: list[str]

    @property
    def masks(self) -> list[Tensor]:
        """What each shows, (1, H, W), as its alpha channel says; none where no picture has any."""
        if all(picture.alpha is None for picture in self.pictures):
            return []
        return [
            torch.ones(picture.pixels.shape[:3]) if picture.alpha is None else picture.alpha
            for picture in self.pictures
        ]


def read_folder(folder: Path) -> PictureFolder:
    """All pictures of a folder that can be learnt from.

    Raises:
        ValueError: there is none, or a caption that cannot be read; one sentence, which names the file.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in (*READ, *OTHERS) and file.is_file())
    pictures: list[Picture] = []
    notices: list[str] = []
    for file in files:
        try:
            pictures.append(read_picture(file))
        except ValueError as error:
            notices.append(f"Left out: {error}")
    if not pictures:
        raise ValueError(
            f'The folder "{quoted(str(folder))}" holds no image that can be used ({", ".join(READ)}). {" ".join(notices[:2])}'.strip()
        )
    captions = {picture.file: _caption(picture.file) for picture in pictures}
    without = [file.name for file, caption in captions.items() if caption is None]
    if 0 < len(without) < len(pictures):
        notices.append(
            f"{len(pictures) - len(without)} of {len(pictures)} images have a caption, so captions are not used: "
            f"{quoted(', '.join(without))} has none."
        )
    own = [caption for caption in captions.values() if caption is not None]
    return PictureFolder(pictures, [] if without else own, notices)


def read_picture(file: Path) -> Picture:
    """Raises ValueError when a picture cannot be read, or is too small; one sentence, which names the file."""
    name = quoted(file.name, 60)
    if file.suffix.lower() in OTHERS:
        raise ValueError(f'"{name}" is of a format that is not read; save it as PNG or JPEG.')
    image = _opened(file)
    if min(image.size) < SMALLEST_SIDE:
        raise ValueError(
            f'"{name}" has {image.width} x {image.height} pixels; each side needs {SMALLEST_SIDE} or more.'
        )
    if image.mode.startswith("I") or (
        "transparency" not in image.info and image.mode not in ("RGBA", "LA", "PA", "RGBa", "La")
    ):
        return Picture(file, _numbers(image, "RGB"), None)
    numbers = _numbers(image, "RGBA")
    colours, alpha = numbers[..., :3], numbers[..., 3:]
    return Picture(file, colours * alpha + (1 - alpha), alpha[..., 0] if alpha.min() < 1 else None)


def read_mask(file: Path) -> Tensor:
    """(1, H, W) in 0..1, the brightness of a picture. Raises ValueError when it cannot be read; see `read_picture`."""
    return _numbers(_opened(file), "L")[..., 0]


def _opened(file: Path) -> Image.Image:
    """A picture turned upright, all of it read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is large, but not dangerous
            image = Image.open(file)
            image.load()
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise ValueError(f'"{quoted(file.name, 60)}" has more pixels than are read; scale it down.') from error
    except Exception as error:  # of many kinds, as many as there are decoders
        raise ValueError(f'"{quoted(file.name, 60)}" is damaged or incomplete; open it and save it again.') from error


def _numbers(image: Image.Image, mode: str) -> Tensor:
    """(1, H, W, C) in 0..1; of 16 bits a channel, too, which Pillow itself cuts off at white."""
    if image.mode.startswith("I"):
        grey = torch.from_numpy(np.asarray(image, np.float32) / 65535).clamp(0, 1)
        return grey[None, ..., None].expand(1, *grey.shape, len(mode)).clone()
    array = np.asarray(image.convert(mode), np.float32) / 255
    return torch.from_numpy(array.reshape(1, *array.shape[:2], -1))


def _caption(picture: Path) -> str | None:
    """The text beside a picture, None where there is none."""
    file = picture.with_suffix(".txt")
    if not file.is_file():
        return None
    name = quoted(file.name, 60)
    if file.stat().st_size > MAX_CAPTION:
        raise ValueError(f'The caption "{name}" has {file.stat().st_size} bytes; {MAX_CAPTION} or fewer are allowed.')
    try:
        text = file.read_text("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f'The caption "{name}" is no UTF-8 text; save it as UTF-8.') from error
    check_letters(text, f'"{name}"')
    return text
