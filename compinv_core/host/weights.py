"""A UNet that runs with other weights for a while: which it has, what LoRA files call them, and functions put on them."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.lora
import comfy.utils
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor, nn

from ..adapter import Adapter, Change
from ..backbone import WeightChange
from ..sentences import quoted
from .latents import family_of

PREFIX = "diffusion_model."  # of a UNet's weights among a MODEL's
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


def adapter_of(model: Any, lora: Mapping[str, Tensor]) -> Adapter:
    """What a LoRA file's tensors change of a MODEL, under any of the names that ComfyUI loads.

    Raises:
        ValueError: nothing, or as no LoRA does.
    """
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    return _read(lora, {name: key.removeprefix(PREFIX) for name, key in names.items()}, family_of(model).name)


def adapter_of_any(lora: Mapping[str, Tensor]) -> tuple[Adapter, dict[str, str]]:
    """What a LoRA file's tensors change of any model, its own names in place of paths; and these, for `to_lora`.

    Raises:
        ValueError: it holds something else.
    """
    possible = {key: _possible_names(key) for key in lora}
    adapter = _read(lora, {name: f"{name}.weight" for names in possible.values() for name in names})
    names = {path: path.rpartition(".")[0] for path in adapter.changes}
    for key, own in possible.items():
        if set(own).isdisjoint(names.values()):
            raise ValueError(f'The adapter holds "{quoted(key)}", which is no part of a LoRA that ComfyUI loads.')
    return adapter, names


def _possible_names(key: str) -> list[str]:
    """Of the weight that a LoRA file's tensor belongs to: all that ends before a dot, or before diffusers' "_lora."."""
    parts = key.split(".")
    return [".".join(parts[:count]).removesuffix("_lora") for count in range(1, len(parts))]


def _read(lora: Mapping[str, Tensor], paths: Mapping[str, str], family: str = "") -> Adapter:
    """By ComfyUI's own reader. Args: paths: name in the file -> path of its weight."""
    found: dict[str, Change] = {}
    for path, patch in comfy.lora.load_lora(lora, paths, log_missing=False).items():
        if isinstance(patch, LoRAAdapter):
            up, down, alpha, *others = patch.weights  # others: of LoCon, of DoRA, of another shape
            if all(other is None for other in others):
                scale = 1.0 if alpha is None else alpha / len(down)
                found[path] = Change(up.float() * scale, down.float())
        elif isinstance(patch, tuple) and patch[0] == "diff":
            found[path] = Change(patch[1][0].float())
        if path not in found:
            raise ValueError(
                f'The adapter changes "{path.rpartition(".")[0]}" in a way that cannot be used here; only LoRAs and full changes can, '
                "no LoHa, LoKr, DoRA or others."
            )
    if not found:
        raise ValueError(
            f"The adapter changes no weight of this model (it holds {quoted(', '.join(list(lora)[:3])) or 'nothing'}); it is for another "
            "family of models."
        )
    return Adapter(found, family)


def diffusers_paths(model: Any) -> dict[str, str]:
    """Diffusers' name of a weight of a MODEL's UNet -> the UNet's own."""
    return dict(comfy.utils.unet_to_diffusers(model.model.model_config.unet_config))


def own_weight(model: Any, path: str) -> Tensor:
    """A weight of a MODEL's UNet as the checkpoint has it.

    All clones of a MODEL share one UNet, into which ComfyUI writes the patches of the one that ran last; what was there before is
    kept in a backup, which they share, too.
    """
    name = PREFIX + path
    if name in model.backup:
        return model.backup[name].weight
    if name in model.hook_backup:
        return model.hook_backup[name][0]
    return model.model.diffusion_model.get_parameter(path)


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
