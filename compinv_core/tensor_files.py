"""Files of tensors, whoever made them: what they hold is looked at before any of it is trusted, or given memory."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from torch import Tensor, nn

from .sentences import quoted

safe_open = cast(Any, safetensors.safe_open)  # its signature has no types
NUMBERS = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
ROOM = 64 * 2**20  # bytes; so much more than a file's size may come out of what is compressed in it
MAX_REASON = 120  # letters of another library's words


def read_tensors(path: Path) -> tuple[Any, dict[str, str]]:
    """What a file holds, and its metadata. Nothing that is in it is run.

    Returns:
        Of a `.safetensors` file, tensors by name; of any other, what `torch.save` was given; look at each with `dense`.

    Raises:
        ValueError: it cannot be read; in one sentence, why.
    """
    try:
        other = _what_else(path)
        if other:
            raise ValueError(other)
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                return tensors, dict(file.metadata() or {})
        with torch.serialization.safe_globals([nn.ParameterDict]):  # of the authors of textual inversion
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:  # whatever a damaged file makes torch, safetensors and Python raise
        raise ValueError(f'"{quoted(path.name, 60)}" cannot be read: {_reason(error)}.') from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a `.safetensors` file; none where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception:  # see `read_tensors`
        return {}


def dense(value: Any) -> Tensor | None:
    """A tensor of fractional numbers that are all in the file, as float32; None for anything else.

    A file may also hold tensors that are sparse or quantised, that have no numbers at all, or that say that one of theirs stands
    for thousands of millions.
    """
    if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
        return None
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_nested:
        return None
    if value.dtype not in NUMBERS or value.nbytes > value.untyped_storage().nbytes():
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
    is_zip, is_safetensors = begin.startswith(b"PK\x03\x04"), begin[8:9] == b"{" and begin[:1] != b"\x80"
    if path.suffix.lower() == ".safetensors":
        return "it is a .pt file, so give it that ending" if is_zip else ""
    if is_safetensors:
        return "it is a .safetensors file, so give it that ending"
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > size + ROOM:
            return f"it has {size} bytes and would take {unpacked} in memory"
    return ""


def _reason(error: Exception) -> str:
    text = str(error)
    if "weights_only" in text or "Weights only" in text:  # torch goes on to advise loading it unsafely
        code = re.search(r"GLOBAL ([\w.]+)", text)
        return (
            f"it holds Python code ({quoted(code[1], 60)}), which is not run"
            if code
            else "it is damaged, or of another kind"
        )
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    first = next((line for line in text.splitlines() if line.strip()), "")
    known = isinstance(error, ValueError) or "deserializing" in first
    return quoted(first, MAX_REASON).rstrip(".") if first and known else "it is damaged, or of another kind"
