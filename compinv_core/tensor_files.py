"""Files of tensors, whoever made them: what they hold is looked at before any of it is trusted, or given memory."""

import hashlib
import io
import json
import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import safetensors
import torch
from torch import Tensor, nn

from .cards import ENDING, read_card
from .sentences import quoted

safe_open = cast(Any, safetensors.safe_open)  # its signature has no types
MOST_DIMENSIONS = 8  # of a tensor that is read; weights have up to 5
NUMBERS = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
ROOM = 64 * 2**20  # bytes; so much more than a file's size may come out of it
PICKLES = 5  # in torch's older form: a number, a version, the system, what was saved, and the names of its storages
MAX_GLOBAL = 200  # letters of the name of a class or function
UNKNOWN = "it is damaged, or of another kind"
SEAL = 64  # letters
ABOUT = "about.json"  # the part of a file of ours that says what it is
MAX_REASON = 120  # letters of another library's words


def read_tensors(path: Path) -> tuple[Any, dict[str, str]]:
    """What a file holds, and its metadata. Nothing that is in it is run.

    Returns:
        Of a `.safetensors` file, tensors by name; of a card, what `read_card` finds; of any other, what `torch.save` was given; look
        at each with `dense`.

    Raises:
        ValueError: it cannot be read; in one sentence, why.
    """
    try:
        other = _what_else(path)
        if other:
            raise ValueError(other)
        if path.suffix.lower() == ENDING:
            return read_card(path)
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                return tensors, dict(file.metadata() or {})
        with torch.serialization.safe_globals([nn.ParameterDict]):  # of the authors of textual inversion
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
        _check_extent(found, path.stat().st_size)
        return found, {}
    except Exception as error:  # whatever a damaged file makes torch, safetensors and Python raise
        raise ValueError(f'"{quoted(path.name, 60)}" cannot be read: {_reason(error)}.') from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a `.safetensors` file; none where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception:  # see `read_tensors`
        return {}


def write_sealed(state: Mapping[str, Any], path: Path, about: Mapping[str, Any]) -> None:
    """A file of ours by `torch.save`, with a checksum at its end of all that its parts' own checksums say.

    Args:
        about: what it is, for `read_about`.
    """
    torch.save(dict(state), path)
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].split("/")[0]  # torch wants all parts in one
        archive.writestr(zipfile.ZipInfo(f"{folder}/{ABOUT}"), json.dumps(about))  # without the time
    with zipfile.ZipFile(path) as archive:
        seal = _seal(archive)
    with path.open("ab") as file:
        file.write(seal)


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` has written; of anything else nothing is looked at.

    Raises:
        ValueError: it is damaged, or of somebody else.
        OSError: it cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - SEAL))
            seal = file.read()
        with zipfile.ZipFile(path) as archive:
            if seal != _seal(archive):
                raise ValueError("it is damaged, or no file of this version")
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"its part {damaged} is damaged")
    except OSError:
        raise
    except Exception as error:  # see `read_tensors`
        raise ValueError(str(error) if isinstance(error, ValueError) else "it is damaged") from error
    return cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))


def read_about(path: Path) -> dict[str, Any]:
    """What `write_sealed` was told of a file, without reading the rest of it; nothing where it is none of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = next(name for name in archive.namelist() if name.endswith(f"/{ABOUT}"))
            return dict(json.loads(archive.read(part)))
    except Exception:  # see `read_tensors`
        return {}


def _seal(archive: zipfile.ZipFile) -> bytes:
    parts = [(part.filename, part.header_offset, part.file_size, part.CRC) for part in archive.infolist()]
    return hashlib.sha256(repr(parts).encode()).hexdigest().encode()


def _check_extent(found: Any, size: int) -> None:
    """Raises ValueError when what a file of so many bytes holds goes on and on, as by naming one thing a million times."""
    left, parts, room = [found], 0, 4 * size + ROOM  # the least of our numbers are float8; they become float32
    while left:
        value = left.pop()
        parts += 1
        if isinstance(value, Tensor):
            room -= 4 * value.numel()
        elif isinstance(value, (dict, nn.ParameterDict)):
            left += cast("dict[Any, Any]", value).values()
        elif isinstance(value, (list, tuple, set)):
            left += cast("list[Any]", value)
        if room < 0 or parts > size or len(left) > size:
            raise ValueError(f"it has {size} bytes and would take far more in memory")


def dense(value: Any) -> Tensor | None:
    """A tensor of fractional numbers that are all in the file, as float32; None for anything else.

    A file may also hold tensors that are sparse or quantised, that have no numbers at all, or that say that one of theirs stands
    for thousands of millions, and a few numbers in more dimensions than torch can count with.
    """
    if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
        return None
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_nested:
        return None
    if value.dtype not in NUMBERS or value.ndim > MOST_DIMENSIONS or value.nbytes > value.untyped_storage().nbytes():
        return None
    return value.detach().float()


def _what_else(path: Path) -> str:
    """What a file is that is none of tensors, in words; "" where that does not show."""
    size = path.stat().st_size
    if not size:
        return "it is empty, so download it again"
    with path.open("rb") as file:
        begin = file.read(256)
    if begin.startswith(b"version https://git-lfs"):
        return f"it is a Git LFS pointer of {size} bytes, so download the file that it stands for"
    if re.match(rb"\s*<(!doctype|html|\?xml)", begin, re.IGNORECASE):
        return "it is a web page, so download the file itself, not the page about it"
    if path.suffix.lower() == ENDING:
        return ""
    is_zip, is_safetensors = begin.startswith(b"PK\x03\x04"), begin[8:9] == b"{" and begin[:1] != b"\x80"
    if path.suffix.lower() == ".safetensors":
        return "it is a .pt file, so give it that ending" if is_zip else ""
    if is_safetensors:
        return "it is a .safetensors file, so give it that ending"
    if not is_zip:  # torch's older form, of several pickles one behind the other
        with path.open("rb") as file:
            for _ in range(PICKLES):
                _check_pickle(file)
        return ""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size + ROOM:
            return f"it has {size} bytes and would take {unpacked} in memory"
        for entry in archive.infolist():
            if entry.filename.endswith("data.pkl"):
                _check_pickle(io.BytesIO(archive.read(entry)))
    return ""


def _check_pickle(stream: IO[bytes]) -> None:
    """Raises ValueError for what torch's reader would do before it refuses a pickle, or without refusing it: fill as much memory as a
    `bytearray` is said to have, which no tensor needs, or search a long name in a time that grows with the square of its length.
    """
    try:
        names = [str(value) for operation, value, _ in pickletools.genops(stream) if operation.name == "GLOBAL"]
    except Exception as error:  # see `read_tensors`
        raise ValueError(UNKNOWN) from error
    if any(len(name) > MAX_GLOBAL for name in names):
        raise ValueError(UNKNOWN)
    if any(name.endswith(" bytearray") for name in names):
        raise ValueError("it holds a bytearray, which is no tensor")


def _reason(error: Exception) -> str:
    text = str(error)
    if "weights_only" in text or "Weights only" in text:  # torch goes on to advise loading it unsafely
        code = re.search(r"GLOBAL ([\w.]+)", text)
        return f"it holds Python code ({quoted(code[1], 60)}), which is not run" if code else UNKNOWN
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    first = next((line for line in text.splitlines() if line.strip()), "")
    known = isinstance(error, ValueError) or "deserializing" in first
    return quoted(first, MAX_REASON).rstrip(".") if first and known else UNKNOWN
