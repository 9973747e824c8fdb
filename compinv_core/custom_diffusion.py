"""Custom Diffusion's own files: diffusers' `pytorch_custom_diffusion_weights.bin`, adobe's `delta.bin`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from .adapter import Adapter, Change
from .concept import WIDTHS, Concept
from .sentences import quoted
from .tensor_files import dense, read_tensors

PROCESSOR = re.compile(r"\.processor\.(to_[kqv]|to_out)_custom_diffusion\.(0\.)?(weight|bias)$")


def read_custom_diffusion(
    file: Path, paths: Mapping[str, str], weight: Callable[[str], Tensor], class_word: str = ""
) -> tuple[list[Concept], Adapter]:
    """The words and the change of the model that a file holds.

    Both write the new weights, not the change of the old ones; adobe's compressed files write the change as a product u @ v.

    Args:
        paths: diffusers' name of a weight of the UNet -> the model's own.
        weight: of the model that the file was trained for, by its own name.

    Raises:
        ValueError: a file of another kind, or of another family of models.
    """
    raw = _read(file)
    entries = _named(raw.get("unet", raw), file, '"unet"')
    changes: dict[str, Change] = {}
    for key, value in entries.items():
        name = PROCESSOR.sub(lambda m: f".{m[1]}.{'0.' if m[1] == 'to_out' else ''}{m[3]}", key)
        path = paths.get(name)
        if path is None or "attn2" not in name:
            continue
        own = weight(path).detach().float().cpu()
        change = _change(value, own)
        if change is None:
            raise ValueError(
                f'"{quoted(file.name, 60)}" is damaged: its "{quoted(name)}" is no finite tensor, nor a product of two.'
            )
        if change.shape != own.shape:
            raise ValueError(
                f'"{quoted(file.name, 60)}" is for another family of models: its "{quoted(name)}" has the shape {quoted(str(tuple(change.shape)), 40)}, the model\'s '
                f"weight {tuple(own.shape)}."
            )
        changes[path] = change
    if not changes:
        some = ", ".join(quoted(name, 40) for name in list(entries)[:2]) or "nothing"
        raise ValueError(
            f'"{quoted(file.name, 60)}" is no Custom Diffusion of this model (it holds {some}); diffusers\' pytorch_custom_diffusion_weights and '
            "adobe's delta.bin are read."
        )
    return _words(_named(raw.get("modifier_token", {}), file, '"modifier_token"'), file, class_word), Adapter(changes)


def _read(file: Path) -> dict[str, Any]:
    raw, _ = read_tensors(file)
    if not isinstance(raw, dict):
        raise ValueError(
            f'"{quoted(file.name, 60)}" holds a {type(raw).__name__}, not the named weights of a Custom Diffusion.'
        )
    return _by_text(cast("dict[Any, Any]", raw))


def _by_text(raw: dict[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in raw.items()}


def _named(value: Any, file: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(
            f'"{quoted(file.name, 60)}" is damaged: its {what} is a {type(value).__name__}, not named tensors.'
        )
    return _by_text(cast("dict[Any, Any]", value))


def _change(value: Any, own: Tensor) -> Change | None:
    """None where it says nothing that can be added."""
    if isinstance(value, dict):
        u, v = (_finite(cast("dict[str, Any]", value).get(name)) for name in ("u", "v"))
        if u is None or v is None or not (u.ndim == v.ndim == 2 and u.shape[1] == v.shape[0]):
            return None
        return Change(u, v)
    new = _finite(value)
    if new is None:
        return None
    return Change(new - own if new.shape == own.shape else new)


def _finite(value: Any) -> Tensor | None:
    found = dense(value)
    return found if found is not None and bool(found.isfinite().all()) else None


def _words(tokens: Mapping[str, Any], file: Path, class_word: str) -> list[Concept]:
    """Of adobe's files, which hold them; "<new1>" becomes "new1"."""
    found: list[Concept] = []
    for token, vector in ((str(name), value) for name, value in tokens.items()):
        numbers = _finite(vector)
        if numbers is None or not numbers.ndim or not numbers.numel():
            raise ValueError(
                f'"{quoted(file.name, 60)}" is damaged: its word "{quoted(token, 60)}" is no finite vector.'
            )
        vectors = numbers.reshape(-1, numbers.shape[-1])
        key = WIDTHS.get(vectors.shape[1])
        if key is not None:
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", token).strip("-") or "concept"
            found.append(Concept(name, {key: vectors}, class_word))
    return found
