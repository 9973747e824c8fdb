"""Concept cards: pictures that carry an embedding, in a PNG's text or, as A1111 once did, in the pixels of strips beside the picture."""

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

ENDING = ".png"
OWN, A1111 = "compinv", "sd-ti-embedding"  # what a PNG calls its texts
NAME = "name"  # of the concept, which the file need not be called by
TENSOR = "TORCHTENSOR"  # as A1111's JSON marks one
MAX_TEXT = 32 * 2**20  # letters of an embedding, a thousand vectors of SD 1.x; Pillow reads 64 MB of text in all
MAX_LISTS = 10_000  # in A1111's JSON, one for each vector and few more
MAX_PIXELS = 2**24  # of a picture that may hide an embedding
LOW = 0x0F  # the bits of a colour that hide something; the others draw a pattern
DAMAGED = "it is damaged, or no PNG file"
NO_EMBEDDING = "it is a picture that holds no embedding; chats and editors drop it, so get the original file"

Pixels = NDArray[np.uint8]


class NoCard(ValueError):
    """A file carries no embedding that can be read: why, as a part of a sentence."""


def texts_of(
    concept: Mapping[str, Any], tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str
) -> dict[str, str]:
    """A card's texts: what A1111 reads, and the bytes of a `.safetensors` file, which has all that a concept has.

    Args:
        concept: what A1111's `.pt` file has.
        tensors, metadata: what ours has.

    Raises:
        NoCard: that is more than a card can carry.
    """
    a1111 = json.dumps(concept, default=_marked).encode()
    own = safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()}, {**metadata, NAME: name})
    texts = {A1111: base64.b64encode(a1111).decode(), OWN: base64.b64encode(own).decode()}
    if (size := sum(map(len, texts.values()))) > MAX_TEXT:
        raise NoCard(f"it takes {size / 2**20:.0f} MB of text, and a card carries {MAX_TEXT / 2**20:.0f} MB")
    return texts


def _marked(tensor: Tensor) -> dict[str, Any]:
    return {TENSOR: cast(Any, tensor).tolist()}


def save_card(picture: Image.Image, texts: Mapping[str, str], path: Path) -> None:
    """A PNG with texts, before its pixels, where every reader finds them."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    picture.save(path, "PNG", pnginfo=info, compress_level=4)


def read_card(path: Path) -> tuple[Any, dict[str, str]]:
    """What `read_tensors` has of other files; the metadata has the concept's NAME, where the card says one.

    Raises:
        NoCard: it carries no embedding, or is damaged.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return _content(image)
    except NoCard:
        raise
    except Exception as error:  # whatever a damaged file makes Pillow, safetensors, torch and Python raise
        raise NoCard(DAMAGED) from error


def _content(image: Image.Image) -> tuple[Any, dict[str, str]]:
    if OWN in image.info:
        return _own(_decoded(image.info[OWN]))
    if A1111 in image.info:
        return _a1111(_decoded(image.info[A1111]))
    if image.width * image.height > MAX_PIXELS:
        raise NoCard(NO_EMBEDDING)
    hidden = _hidden(np.asarray(image.convert("RGB")))
    if A1111 in image.info:  # behind the pixels
        return _a1111(_decoded(image.info[A1111]))
    if hidden is None:
        raise NoCard(NO_EMBEDDING)
    return _a1111(hidden)


def _decoded(text: str) -> bytes:
    if len(text) > MAX_TEXT:
        raise NoCard(f"its embedding takes {len(text) / 2**20:.0f} MB of text, more than {MAX_TEXT / 2**20:.0f} MB")
    return base64.b64decode(text)


def _own(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors = safetensors.torch.load(data)
    size = int.from_bytes(data[:8], "little")
    return tensors, json.loads(data[8 : 8 + size]).get("__metadata__", {})


def _a1111(data: bytes) -> tuple[Any, dict[str, str]]:
    if data.count(b"[") + data.count(b"{") > MAX_LISTS:
        raise NoCard(DAMAGED)
    found: Any = json.loads(data, object_hook=_tensor)
    name = cast("dict[str, Any]", found).get(NAME) if isinstance(found, dict) else None
    return cast(Any, found), {NAME: name} if isinstance(name, str) else {}


def _tensor(entries: dict[str, Any]) -> Any:
    return torch.tensor(entries[TENSOR], dtype=torch.float32) if TENSOR in entries else entries


def _hidden(pixels: Pixels) -> bytes | None:
    """What is hidden in the strips at the left and right of a picture (h, w, 3), each behind a black line; None where nothing is.

    The strip at the left has the lower half of each byte, that at the right the upper half, row by row, both mixed with the same
    noise; the bytes are compressed JSON. A black frame about it all does not count.
    """
    lit = np.asarray((pixels > 0).all(axis=2))
    rows, columns = np.flatnonzero(lit.any(axis=-1)), np.flatnonzero(lit.any(axis=0))
    if not len(rows):
        return None
    halves = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & LOW
    lines = np.flatnonzero(~halves.any(axis=(0, 2)))
    if len(lines) < 2:
        return None
    lower, upper = halves[:, : lines[0]].ravel(), halves[:, lines[-1] + 1 :].ravel()
    if not len(lower) or len(lower) != len(upper):
        return None
    noise = _noise(len(lower))
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(((upper ^ noise) << 4 | (lower ^ noise)).tobytes(), MAX_TEXT)
    except zlib.error:  # any picture with two black lines
        return None
    return found if unpacking.eof else None


def _noise(count: int) -> Pixels:
    """The lower bits of a linear congruential generator's first numbers: x <- 1664525 x + 1013904223 modulo 2^32, from 0."""
    powers = np.full(count, 1664525, np.uint32)
    powers[0] = 1
    sums = np.add.accumulate(np.multiply.accumulate(powers, dtype=np.uint32), dtype=np.uint32)
    return (sums * np.uint32(1013904223) % 255 & LOW).astype(np.uint8)
