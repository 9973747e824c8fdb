"""CLIP text encoders of three layers: whole ones, which the stock loader always builds, take minutes for prompts alone."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LAYERS = 3  # SD 2.x and SDXL read the last but one
EXTENSION = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
from shallow_encoders import shallow_encoders
entered = shallow_encoders()  # which ends when nothing holds it
entered.__enter__()
NODE_CLASS_MAPPINGS = {{}}
"""  # of a server, for as long as it runs


@contextmanager
def shallow_encoders() -> Generator[None]:
    """For its time, ComfyUI builds no others."""
    import comfy.clip_model

    whole = comfy.clip_model.CLIPTextModel.__init__

    def shallow(self: Any, config_dict: dict[str, Any], *rest: Any) -> None:
        whole(self, {**config_dict, "num_hidden_layers": LAYERS}, *rest)

    comfy.clip_model.CLIPTextModel.__init__ = shallow
    try:
        yield
    finally:
        comfy.clip_model.CLIPTextModel.__init__ = whole
