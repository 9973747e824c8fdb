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


def folded(schema: io.Schema, *names: str) -> io.Schema:
    """The same schema; Nodes 2.0 shows its inputs of these names behind the button "Show advanced inputs" where it has one.

    The classic canvas and older front ends show them among the others. The flag goes past the inputs' arguments, as ComfyUI 0.3.75 has
    none for it.
    """
    for one in schema.inputs:
        if one.id in names:
            one.extra_dict["advanced"] = True
    return schema
