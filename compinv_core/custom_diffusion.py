"""Custom Diffusion's own files: diffusers' `pytorch_custom_diffusion_weights.bin`, adobe's `delta.bin`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

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
    entries = cast("dict[str, Any]", raw.get("unet", raw))
    changes: dict[str, Change] = {}
    for key, value in entries.items():
        name = PROCESSOR.sub(lambda m: f".{m[1]}.{'0.' if m[1] == 'to_out' else ''}{m[3]}", key)
        path = paths.get(name)
        if path is None or "attn2" not in name:
            continue
        own = weight(path).detach().float().cpu()
        change = _change(value, own)
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
    return _words(raw, class_word), Adapter(changes)


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


def _change(value: Any, own: Tensor) -> Change:
    if isinstance(value, dict):
        parts = cast("dict[str, Tensor]", value)
        return Change(parts["u"].float(), parts["v"].float())
    new = cast(Tensor, value).float()
    return Change(new - own if new.shape == own.shape else new)


def _words(raw: Mapping[str, Any], class_word: str) -> list[Concept]:
    """Of adobe's files, which hold them; "<new1>" becomes "new1"."""
    found: list[Concept] = []
    for token, vector in cast("dict[str, Tensor]", raw.get("modifier_token", {})).items():
        vectors = vector.detach().float().reshape(-1, vector.shape[-1])
        key = WIDTHS.get(vectors.shape[1])
        if key is not None:
            name = re.sub(r"[^A-Za-z0-9_-]+", "-", token).strip("-") or "concept"
            found.append(Concept(name, {key: vectors}, class_word))
    return found
