"""The wires that are ours. Everything else a node takes or gives is ComfyUI's own type, so that stock nodes connect."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "compositional inversion"

AnchorsType = io.Custom("COMPINV_ANCHORS")
ConceptType = io.Custom("COMPINV_CONCEPT")
LayoutType = io.Custom("COMPINV_LAYOUT")
OptionsType = io.Custom("COMPINV_OPTIONS")


def found_by(*words: str) -> dict[str, Any]:
    """What else users search a node by, as an argument of its schema; nothing on hosts that do not know it."""
    return {"search_aliases": list(words)} if "search_aliases" in {field.name for field in fields(io.Schema)} else {}
