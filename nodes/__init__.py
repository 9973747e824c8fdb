"""The pack's nodes: thin translations between ComfyUI's graph and `compinv_core`. One file per theme."""

from __future__ import annotations

from comfy_api.latest import io

NODES: list[type[io.ComfyNode]] = []
