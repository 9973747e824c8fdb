"""Custom Diffusion's own files: diffusers' `pytorch_custom_diffusion_weights.bin`, adobe's `delta.bin`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard, cast

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from .adapter import Adapter, Change
from .concept import WIDTHS, Concept

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
            raise ValueError(f'"{file.name}" is damaged: its "{name}" is no finite tensor, nor a product of two.')
        if change.delta.shape != own.shape:
            raise ValueError(
                f'"{file.name}" is for another family of models: its "{name}" has the shape {tuple(change.delta.shape)}, the model\'s '
                f"weight {tuple(own.shape)}."
            )
        changes[path] = change
    if not changes:
        some = ", ".join(list(entries)[:2]) or "nothing"
        raise ValueError(
            f'"{file.name}" is no Custom Diffusion of this model (it holds {some}); diffusers\' pytorch_custom_diffusion_weights and '
            "adobe's delta.bin are read."
        )
    return _words(_named(raw.get("modifier_token", {}), file, '"modifier_token"'), file, class_word), Adapter(changes)


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        raw: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f'"{file.name}" cannot be read: {said}') from error
    if not isinstance(raw, dict):
        raise ValueError(f'"{file.name}" holds a {type(raw).__name__}, not the named weights of a Custom Diffusion.')
    return cast("dict[str, Any]", raw)


def _named(value: Any, file: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'"{file.name}" is damaged: its {what} is a {type(value).__name__}, not named tensors.')
    return cast("dict[str, Any]", value)


def _change(value: Any, own: Tensor) -> Change | None:
    """None where it says nothing that can be added."""
    if isinstance(value, dict):
        u, v = (cast("dict[str, Any]", value).get(name) for name in ("u", "v"))
        if not (_is_sound(u) and _is_sound(v) and u.ndim == v.ndim == 2 and u.shape[1] == v.shape[0]):
            return None
        return Change(u.float(), v.float())
    if not _is_sound(value):
        return None
    new = value.float()
    return Change(new - own if new.shape == own.shape else new)


def _is_sound(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and bool(value.isfinite().all())


def _words(tokens: Mapping[str, Any], file: Path, class_word: str) -> list[Concept]:
    """Of adobe's files, which hold them; "<new1>" becomes "new1"."""
    found: list[Concept] = []
    for token, vector in tokens.items():
        if not _is_sound(vector) or not vector.ndim:
            raise ValueError(f'"{file.name}" is damaged: its word "{token}" is no finite vector.')
        vectors = vector.detach().float().reshape(-1, vector.shape[-1])
        key = WIDTHS.get(vectors.shape[1])
        if key is not None:
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", token).strip("-") or "concept"
            found.append(Concept(name, {key: vectors}, class_word))
    return found
