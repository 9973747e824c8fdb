"""The wires that are ours. Everything else a node takes or gives is ComfyUI's own type, so that stock nodes connect."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "compositional inversion"

AnchorsType = io.Custom("COMPINV_ANCHORS")
ConceptType = io.Custom("COMPINV_CONCEPT")
LayoutType = io.Custom("COMPINV_LAYOUT")
OptionsType = io.Custom("COMPINV_OPTIONS")
