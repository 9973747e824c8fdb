"""Files that are whole or not there."""

import glob
import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from .sentences import quoted

LEFT_BEHIND = 3600.0  # seconds without a byte more, after which a file that is being written is nobody's
HERE = secrets.token_hex(4)  # servers in two containers or on two machines may have the same process id


class Unwritable(OSError):
    """A file cannot be written: one sentence for the user."""


class Taken(FileExistsError):
    """A file is there that must not be replaced: one sentence for the user."""


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Where to write, so that after a crash at any moment the file is the old one or the new one. Its folder is made.

    Raises:
        Unwritable: it cannot be written, whatever the writer makes of that.
    """
    with _beside(path) as new:
        yield new
        with _placed(new, path, replace=True):
            pass


@contextmanager
def _beside(path: Path) -> Generator[Path]:
    """Where to write what shall become a file; it is gone in the end."""
    new = path.with_name(f".{path.name}.{_writer()}.new")
    with _in_one_sentence(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_left_behind(path.parent)
            yield new
        finally:
            _unlink(new)


@contextmanager
def _in_one_sentence(path: Path) -> Generator[None]:
    try:
        yield
    except (Unwritable, Taken):
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
File = tuple[Path, Callable[[Path], object]]
"""Any file: its path, and what writes it at the path that it is given."""


def tensor_file(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> File:
    """A `.safetensors` file."""

    def write(new: Path) -> None:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, new, dict(metadata))

    return path, write


def write_tensors(*files: TensorFile, replace: bool = True) -> None:
    """Write `.safetensors` files as `write_files` does."""
    write_files(*(tensor_file(*file) for file in files), replace=replace)


def write_files(*files: File, replace: bool = True) -> None:
    """Write files, all of them or none: each is written beside its place before the first takes it.

    Raises:
        Taken: one is there, and `replace` is off; that of another process that comes to be meanwhile is safe as well.
        Unwritable: one cannot be written.
    """
    with ExitStack() as stack:
        for path, _ in files:
            if not replace and path.exists():  # before its tensors, of which there may be gigabytes, are written
                raise _taken(path)
        written: list[tuple[Path, Path]] = []
        for path, write in files:
            new = stack.enter_context(_beside(path))
            write(new)
            written.append((new, path))
        for new, path in written:
            stack.enter_context(_placed(new, path, replace))


@contextmanager
def _placed(new: Path, path: Path, replace: bool) -> Generator[None]:
    """The new file takes its place; when its time ends in an error, what is there is what was at first, or nothing."""
    old = path.with_name(f".{path.name}.{_writer()}.old.new")  # an ending that `remove` knows
    try:
        with _in_one_sentence(path):
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            if replace:
                _keep_as(path, old)
                new.replace(path)
            else:
                _take(new, path)
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


def _keep_as(path: Path, old: Path) -> None:
    """What is there gets a second name."""
    _unlink(old)
    if path.exists():
        try:
            os.link(path, old)
        except OSError:  # a file system without links
            shutil.copy2(path, old)


def _taken(path: Path) -> Taken:
    return Taken(f'"{quoted(str(path), 150)}" exists already; choose another name, or "replace it" at "if_it_exists".')


def _take(new: Path, path: Path) -> None:
    """A place that is free, in one step: of two processes one gets it."""
    try:
        os.link(new, path)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:  # a file system without links, where two processes may both find it free
        if path.exists():
            raise _taken(path) from error
        new.replace(path)


def _unlink(path: Path) -> None:
    """A read-only disk refuses to remove even what is not there."""
    if path.exists():
        path.unlink(missing_ok=True)


T = TypeVar("T")


def first_free(candidates: Iterable[T], write: Callable[[T], None]) -> T:
    """Write under the first candidate that is free. Returns it.

    Raises:
        Taken: none of them is.
    """
    taken: Taken | None = None
    for candidate in candidates:
        try:
            write(candidate)
            return candidate
        except Taken as error:
            taken = error
    raise taken or ValueError("There are no candidates.")


def numbered(stem: Path) -> Iterator[Path]:
    """`.safetensors` files with numbers from 1 on."""
    return (stem.with_name(f"{stem.name}-{number}.safetensors") for number in itertools.count(1))
