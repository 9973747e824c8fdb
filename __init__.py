"""Compositional Inversion for ComfyUI: the pack's door."""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """What ComfyUI calls. The nodes are imported here, so that importing the pack needs no ComfyUI."""
    try:
        from comfy_api.latest import ComfyExtension

        from .nodes import NODES
    except ImportError:
        logging.getLogger(__name__).exception("Compositional Inversion could not be loaded.")  # ComfyUI prints one line
        raise

    class CompositionalInversion(ComfyExtension):
        async def get_node_list(self):
            return NODES

    return CompositionalInversion()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
