"""ComfyUI's own classes, as this world needs them. Run with the host's folder in COMFYUI_PATH."""

import os
import sys


def use_host() -> None:
    """Make `comfy` importable on a machine without a GPU."""
    path = os.environ.get("COMFYUI_PATH")
    if path and path not in sys.path:
        sys.path.insert(0, path)
    from comfy.cli_args import args

    args.cpu = True
