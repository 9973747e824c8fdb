"""A UNet that runs with other weights for a while: which it has, what LoRA files call them, and functions put on them."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.utils
from torch import Tensor, nn

from ..backbone import WeightChange

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def weights_of(unet: nn.Module, kind: str) -> list[str]:
    """Paths of a UNet's weights of a kind, see `Backbone.weights_of`."""
    paths = [name for name, _ in unet.named_parameters()]
    if kind == "all":
        return [path for path in paths if hasattr(unet.get_submodule(path.rpartition(".")[0]), "weight_function")]
    blocks, projections = {
        "cross-attention keys and values": (("attn2",), ("to_k", "to_v")),
        "attention": (("attn1", "attn2"), ATTENTION),
    }[kind]
    endings = tuple(f".{block}.{name}.weight" for block in blocks for name in projections)
    return [path for path in paths if path.endswith(endings)]


def lora_names(model: Any) -> dict[str, str]:
    """Path of a MODEL's weight -> its name in LoRA files, without an ending, as kohya's scripts write it.

    For SD 1.x and 2.x the names are made of diffusers', for SDXL of the checkpoint's own.
    """
    unet = model.model.diffusion_model
    own = {name: name.rpartition(".")[0] for name, _ in unet.named_parameters()}
    if not model.model.adm_channels:
        for theirs, ours in diffusers_paths(model).items():
            if ours in own:
                own[ours] = theirs.rpartition(".")[0]
    return {path: f"lora_unet_{name.replace('.', '_')}" for path, name in own.items()}


def diffusers_paths(model: Any) -> dict[str, str]:
    """Diffusers' name of a weight of a MODEL's UNet -> the UNet's own."""
    return dict(comfy.utils.unet_to_diffusers(model.model.model_config.unet_config))


def own_weight(model: Any, path: str) -> Tensor:
    """A weight of a MODEL's UNet as its checkpoint has it, whatever patches of whichever clone are in the loaded weights."""
    kept = model.backup.get(f"diffusion_model.{path}")
    return model.model.diffusion_model.get_parameter(path) if kept is None else kept.weight


class Changes:
    """Functions on a UNet's weights, in ComfyUI's own place for them, for as long as they are attached."""

    def __init__(self) -> None:
        self.active = True

    @contextmanager
    def attached(self, unet: nn.Module, changes: Mapping[str, WeightChange]) -> Generator[None]:
        """For its time, each weight is what its change makes of it. Patches of the MODEL stay in force: a change is applied last."""
        placed: list[tuple[nn.Module, str, Any, bool]] = []
        try:
            for path, change in changes.items():
                owner, _, name = path.rpartition(".")
                module, slot = unet.get_submodule(owner), f"{name}_function"
                mine, own = _Change(self, change), slot in module.__dict__
                setattr(module, slot, [*getattr(module, slot), mine])  # a list of the class's own is not to grow
                placed.append((module, slot, mine, own))
            yield
        finally:
            for module, slot, mine, own in placed:
                left = [function for function in getattr(module, slot) if function is not mine]
                if left or own:
                    setattr(module, slot, left)
                else:
                    module.__dict__.pop(slot, None)

    @contextmanager
    def detached(self) -> Generator[None]:
        """For its time, weights are as they are without them."""
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before


class _Change:
    """What ComfyUI calls with a weight."""

    def __init__(self, of: Changes, change: WeightChange):
        self.of, self.change = of, change

    def __call__(self, weight: Tensor) -> Tensor:
        return self.change(weight) if self.of.active else weight
