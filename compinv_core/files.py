"""Files that are whole or not there."""

import glob
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Where to write, so that after a crash at any moment the file is the old one or the new one. Its folder is made.

    Raises:
        OSError: it cannot be written, whatever the writer makes of that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        raise
    except Exception as error:  # of a full disk, torch makes a RuntimeError and safetensors one of its own
        raise OSError(f'"{path}" cannot be written: {error}') from error
    finally:
        new.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """A file, and what writers that were killed have left beside it, which may be gigabytes."""
    path.unlink(missing_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        left.unlink(missing_ok=True)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a `.safetensors` file, whole or not at all."""
    with whole_file(path) as new:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, new, dict(metadata))


def unused(path: Path) -> Path:
    """A `.safetensors` file that is not there yet: the path with the first free number."""
    number = 1
    while (file := path.with_name(f"{path.name}-{number}.safetensors")).exists():
        number += 1
    return file
