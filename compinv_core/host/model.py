"""What we know of a loaded MODEL: its weights as autograd needs them, and what it predicts."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def frozen_weights(*modules: nn.Module) -> Generator[None]:
    """For the time of a backward, every weight is a normal, frozen tensor over the same storage.

    ComfyUI loads checkpoints under inference mode, and "inference tensors cannot be saved for backward". The swap costs
    no memory and a few milliseconds; the original Parameters come back on exit, also on error. Buffers are swapped too.
    """
    kept: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        with torch.inference_mode(False), torch.no_grad():
            seen: dict[int, Tensor] = {}
            for module in modules:
                for part in module.modules():
                    for slots in (part._parameters, part._buffers):
                        for name, held in slots.items():
                            if held is None or not (held.is_inference() or held.requires_grad):
                                continue
                            kept.append((slots, name, held))
                            if id(held) not in seen:
                                seen[id(held)] = _over_same_storage(held)
                            slots[name] = seen[id(held)]
        yield
    finally:
        for slots, name, held in kept:
            slots[name] = held


def _over_same_storage(held: Tensor) -> Tensor:
    view = torch.empty(0, dtype=held.dtype, device=held.device)
    view.set_(held.untyped_storage(), held.storage_offset(), held.size(), held.stride())
    return nn.Parameter(view, requires_grad=False) if isinstance(held, nn.Parameter) else view
