"""Files that are whole or not there."""

import glob
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from .sentences import quoted

LEFT_BEHIND = 3600.0  # seconds without a byte more, after which a file that is being written is nobody's
HERE = secrets.token_hex(4)  # servers in two containers or on two machines may have the same process id


class Unwritable(OSError):
    """A file cannot be written: one sentence for the user."""


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Where to write, so that after a crash at any moment the file is the old one or the new one. Its folder is made.

    Raises:
        Unwritable: it cannot be written, whatever the writer makes of that.
    """
    new = path.with_name(f".{path.name}.{_writer()}.new")
    with _in_one_sentence(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_left_behind(path.parent)
            yield new
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            new.replace(path)
        finally:
            _unlink(new)


@contextmanager
def _in_one_sentence(path: Path) -> Generator[None]:
    try:
        yield
    except Unwritable:
        raise
    except Exception as error:  # of a full disk, torch makes a RuntimeError and safetensors one of its own
        why = error.strerror if isinstance(error, OSError) and error.strerror else quoted(str(error), 80)
        raise Unwritable(f'"{path}" cannot be written: {why}. See that its folder is writable and has room.') from error


def _writer() -> str:
    """Of this process alone, also among those that it was forked from."""
    return f"{os.getpid()}-{HERE}"


def clear_left_behind(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; one that lives goes on writing, so its file is younger."""
    for left in folder.glob(".*.new"):
        name = re.fullmatch(r"\..+\.(\d+(?:-[0-9a-f]{8})?)(\.old)?\.new", left.name)
        if name is None or (name[2] and name[1] == _writer()):  # our own, of which a link may be old
            continue
        with suppress(OSError):  # another process may remove it, too
            told = left.stat()
            if time.time() - max(told.st_mtime, told.st_ctime) > LEFT_BEHIND:
                left.unlink()


def remove(path: Path) -> None:
    """A file, and what writers that were killed have left beside it, which may be gigabytes."""
    _unlink(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        left.unlink(missing_ok=True)


TensorFile = tuple[Mapping[str, Tensor], Path, Mapping[str, str]]
"""Of a `.safetensors` file: its tensors, its path, its metadata."""


def write_tensors(*files: TensorFile) -> None:
    """Write `.safetensors` files, all of them or none: each is written beside its place before the first takes it."""
    with ExitStack() as stack:
        for _, path, _ in files:
            stack.enter_context(_taken_back(path))
        for tensors, path, metadata in files:
            new = stack.enter_context(whole_file(path))
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, new, dict(metadata))


@contextmanager
def _taken_back(path: Path) -> Generator[None]:
    """When its time ends in an error the file is what it was at first, or not there."""
    old = path.with_name(f".{path.name}.{_writer()}.old.new")  # an ending that `remove` knows
    with _in_one_sentence(path):
        _unlink(old)
        if path.exists():
            try:
                os.link(path, old)
            except OSError:  # a file system without links
                shutil.copy2(path, old)
    try:
        yield
    except BaseException:
        if old.exists():
            old.replace(path)
        else:
            _unlink(path)
        raise
    finally:
        _unlink(old)


def _unlink(path: Path) -> None:
    """A read-only disk refuses to remove even what is not there."""
    if path.exists():
        path.unlink(missing_ok=True)


def unused(path: Path) -> Path:
    """A `.safetensors` file that is not there yet: the path with the first free number."""
    number = 1
    while (file := path.with_name(f"{path.name}-{number}.safetensors")).exists():
        number += 1
    return file
