"""What we know of a loaded MODEL: its weights as autograd needs them, and what it predicts."""

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch
from comfy import model_management
from comfy.ldm.modules.attention import SpatialTransformer, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from ..backbone import Encoded, Predictor
from ..sentences import quoted
from .weights import own_weight

NO_GRADIENT = (
    "modified by an inplace operation",
    "Inference tensors cannot be saved for backward",
    "is being used in an in-place operation",
    "does not require grad and does not have a grad_fn",
    "Inplace update to inference tensor outside InferenceMode",
)
WITH_BACKWARD = ("attention_basic", "attention_pytorch", "attention_split", "attention_sub_quad", "attention_xformers")
"""Of the host's kernels; SageAttention, flash attention and those of 8 bits have none."""


@torch.inference_mode()
def load(model: Any, clip: Any, reserve: float = 0) -> None:
    """Bring both to their devices at once, their LoRAs applied, so that neither evicts the other.

    As everything that makes the host move a model it needs inference mode: weights that were made in it and are moved outside
    cannot be used any more, neither here nor by a sampler.

    Args:
        reserve: bytes to be left free, for which the host keeps weights elsewhere, to fetch them when they are needed.
    """
    model_management.load_models_gpu([model, clip.patcher], memory_required=reserve)


def non_dynamic(patcher: Any) -> Any:
    """A MODEL, or the patcher of a CLIP, with weights that stay where they are loaded.

    Newer versions of ComfyUI map weights into a GPU's memory while an operation reads them ("dynamic VRAM"); when a backward
    reads them again, others may be there. Such a model is loaded anew, as the host itself does for hooks.

    Raises:
        ValueError: it comes from a loader that cannot load it again.
    """
    if not (hasattr(patcher, "is_dynamic") and patcher.is_dynamic()):
        return patcher
    if patcher.cached_patcher_init is None:
        raise ValueError(
            f"This {type(patcher.model).__name__} comes from a loader of another pack, and its weights do not stay in memory as "
            "gradients need them; take it from one of ComfyUI's own loaders, or start ComfyUI with --disable-dynamic-vram."
        )
    return patcher.get_non_dynamic_delegate()


def max_batch(model: Any, latents: Tensor) -> int:
    """How many of such latents (B, C, h, w) go through a loaded MODEL at once, without a backward, by the host's estimate."""
    free = model_management.get_free_memory(model.load_device)
    return max(1, int(free / model.memory_required([1, *latents.shape[1:]])))


@contextmanager
def frozen_weights(*modules: nn.Module) -> Generator[None]:
    """For the time of a backward, every weight is a normal, frozen tensor over the same storage.

    ComfyUI loads checkpoints under inference mode, and "inference tensors cannot be saved for backward", nor can those that
    were moved to another device since and no longer say that they are any. The swap costs no memory and a few milliseconds; the
    original Parameters come back on exit, also on error. Buffers are swapped too. What the host puts in their place or moves
    elsewhere meanwhile stays.
    """
    swapped: list[tuple[dict[str, Any], str, Any]] = []
    seen: dict[int, Tensor] = {}
    try:
        with torch.inference_mode(False), torch.no_grad():
            for module in modules:
                for part in module.modules():
                    slots: dict[str, Any]
                    for slots in (part._parameters, part._buffers):
                        for name, original in slots.items():
                            if type(original) not in (Tensor, nn.Parameter):  # None, or another pack's quantised weight
                                continue
                            swapped.append((slots, name, original))
                            if id(original) not in seen:
                                seen[id(original)] = _over_same_storage(original)
                            slots[name] = seen[id(original)]
        yield
    finally:
        for slots, name, original in swapped:
            if slots[name] is seen[id(original)] and slots[name].device == original.device:
                slots[name] = original


@contextmanager
def other_forwards(modules: Sequence[nn.Module], other: Callable[[nn.Module], Callable[..., Any]]) -> Generator[None]:
    """For its time, these modules, and no others of their class, run another forward."""
    before = [module.__dict__.get("forward") for module in modules]  # of another pack, or of an outer use of this
    try:
        for module in modules:
            module.forward = other(module)
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            module.__dict__.pop("forward", None)
            if own is not None:
                module.forward = own


@contextmanager
def differentiable_forwards(*modules: nn.Module) -> Generator[None]:
    """For its time, forwards that others gave to single modules, as a LoRA in bypass mode does, go through `DifferentiablePatch`.

    Their weights are no module's, so `frozen_weights` does not see them.
    """
    parts = [part for module in modules for part in module.modules() if "forward" in vars(part)]
    with other_forwards(parts, lambda part: DifferentiablePatch(part.forward, writes=False)):
        yield


@contextmanager
def checkpointed(unet: nn.Module) -> Generator[None]:
    """Gradient checkpointing: for its time, residual blocks and transformers save their inputs alone, and a backward computes the rest
    again.

    A quarter of the memory for four tenths more time, and the gradient is the same, bit for bit. Each block gets a copy of
    the transformer options: ComfyUI changes them while it runs, and a block that is computed again would see another's.
    """
    blocks = [module for module in unet.modules() if isinstance(module, (ResBlock, SpatialTransformer))]

    def checkpointing(once: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*inputs: Any, **named: Any) -> Any:
            named = {key: dict(value) if isinstance(value, dict) else value for key, value in named.items()}
            inputs = tuple(dict(value) if isinstance(value, dict) else value for value in inputs)
            return checkpoint(once, *inputs, use_reentrant=False, preserve_rng_state=False, **named)

        return forward

    with other_forwards(blocks, lambda block: checkpointing(block.forward)):
        yield


@contextmanager
def measuring_saved_activations(*modules: nn.Module) -> Generator[Callable[[], int]]:
    """For its time, a forward saves nothing for a backward; what it would have saved is counted instead.

    Yields:
        How many bytes, the modules' own weights not among them.
    """
    weights = {StorageWeakRef(t.untyped_storage()) for m in modules for t in m.state_dict(keep_vars=True).values()}
    saved: dict[StorageWeakRef, int] = {}  # weak references, which no later storage at the same address can equal

    def count(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        saved[StorageWeakRef(storage)] = storage.nbytes()

    def refuse(_: None) -> Tensor:
        raise RuntimeError("What was measured was not saved.")

    with saved_tensors_hooks(count, refuse):
        yield lambda: sum(size for storage, size in saved.items() if storage not in weights)


def fingerprint_of(model: Any) -> str:
    """A short name of a MODEL's own weights, the same whether they are loaded in float32 or float16.

    The UNet's first and last convolution are looked at, which fine-tuning changes and LoRAs leave alone.
    """
    digest = hashlib.sha256()
    for name in ("input_blocks.0.0.weight", "out.2.weight"):
        digest.update(own_weight(model, name).detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _over_same_storage(weight: Tensor) -> Tensor:
    view = torch.empty(0, dtype=weight.dtype, device=weight.device).set_(weight)  # pyright: ignore[reportArgumentType]
    return nn.Parameter(view, requires_grad=False) if isinstance(weight, nn.Parameter) else view


def with_backward(transformer_options: dict[str, Any]) -> dict[str, Any]:
    """A clone of transformer options for passes that need gradients, under which the model says the same.

    A kernel of attention that may have no backward gives way to torch's own; which ones another pack put there is not known, so
    the host's own choice is taken instead. Patches may write into what they get, and have weights that were loaded under
    inference mode, as those of hypernetworks: see `DifferentiablePatch`.
    """
    patches = transformer_options.get("patches", {})
    replaced = transformer_options.get("patches_replace", {})
    return {
        **transformer_options,
        "optimized_attention_override": _differentiable,
        "patches": {name: [DifferentiablePatch(patch) for patch in own] for name, own in patches.items()},
        "patches_replace": {
            name: {place: _with_backward(patch) for place, patch in own.items()} for name, own in replaced.items()
        },
    }


def _with_backward(patch: Any) -> Any:
    """A replacement of attention. Ours have a backward, and are known again by their class."""
    return patch if getattr(patch, "has_backward", False) else DifferentiablePatch(patch, writes=False)


@dataclass(frozen=True)
class DifferentiablePatch:
    """A patch of another pack in a pass that needs gradients.

    What it gets is a copy, and what autograd saves within it are copies, too, so that it may write in place; tensors of inference
    mode stand in as normal ones over the same storage.

    Attributes:
        writes: whether it may write in place: patches are handed what the UNet goes on with, replacements of attention are not.
    """

    patch: Callable[..., Any]
    writes: bool = True

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.patch(*inputs, **named)
        with _NormalTensors() as normal:
            if not self.writes:
                return self.patch(*inputs, **named)
            copies = [value.clone() if isinstance(value, Tensor) else value for value in inputs]
            with saved_tensors_hooks(normal.saved, lambda tensor: tensor):
                return self.patch(*copies, **named)


class _NormalTensors(TorchFunctionMode):
    """For its time, functions of torch are given normal tensors in place of those of inference mode, over the same storages."""

    def __init__(self) -> None:
        super().__init__()
        self.storages = set[int]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*self._normal(args), **{name: self._normal(value) for name, value in (kwargs or {}).items()})

    def _normal(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
            return type(value)(self._normal(part) for part in value)
        if not isinstance(value, Tensor) or not value.is_inference():
            return value
        self.storages.add(value.untyped_storage().data_ptr())
        return _over_same_storage(value)

    def saved(self, tensor: Tensor) -> Tensor:
        """What autograd keeps of a tensor: a copy, but of weights, into which nobody writes."""
        return tensor if tensor.untyped_storage().data_ptr() in self.storages else tensor.detach().clone()


class NoGradient(RuntimeError):
    """A patch of a MODEL stands in a gradient's way."""


def is_of_gradients(error: RuntimeError) -> bool:
    """Whether torch says that it cannot go back through what was computed."""
    return not isinstance(error, NoGradient) and any(part in str(error) for part in NO_GRADIENT)


def no_gradient(what: str, instead: str, model_options: Mapping[str, Any], error: Exception | None) -> NoGradient:
    """What to say of the patches of a MODEL through which there is no gradient.

    Args:
        error: torch's own; None where the UNet was not asked at all.
    """
    options = model_options.get("transformer_options", {})
    found = [patch for own in options.get("patches", {}).values() for patch in own]
    found += [patch for own in options.get("patches_replace", {}).values() for patch in own.values()]
    found += [one for kinds in options.get("wrappers", {}).values() for own in kinds.values() for one in own]
    found += [model_options[name] for name in ("model_function_wrapper",) if name in model_options]
    names = list(dict.fromkeys(name for patch in found if (name := _name_of(patch))))
    told = f" ({quoted(', '.join(names), 60)})" if names else ""
    why = f": {quoted(str(error).split(':')[0])}" if error else ""
    return NoGradient(f"{what} needs gradients, and there are none through a patch of this MODEL{told}{why}. {instead}")


def _name_of(patch: Any) -> str:
    """Of another pack's function or object: its module and what it was defined in; "" for ours."""
    patch = patch.patch if isinstance(patch, DifferentiablePatch) else patch
    kind = patch if hasattr(patch, "__qualname__") else type(patch)
    module = str(kind.__module__)
    if "compinv_core" in module.split("."):
        return ""
    return f"{module.rpartition('.')[2]}.{kind.__qualname__.partition('.')[0]}"


def _differentiable(host: Any, *inputs: Any, **named: Any) -> Tensor:
    kernel = host if host.__name__ in WITH_BACKWARD else attention_pytorch
    return kernel(*inputs, **named)


def predictor(model: Any) -> Predictor:
    """The raw output of the UNet, as the checkpoint predicts, in the dtype in which the host runs it.

    SDXL also reads the prompts' pooled output and the picture's size: that of the latents, nothing cropped away, as
    ComfyUI's samplers tell it. What patches of the MODEL may ask for is what a sampler would tell them: all prompts are of
    one conditioning, and the run is along the whole schedule.
    """
    base = model.model
    dtype = base.manual_cast_dtype or base.get_dtype()
    sigmas = model.get_model_object("model_sampling").sigmas.clone()  # ascending
    options = {
        "cond_or_uncond": [0],
        "uuids": [uuid4()],
        "sample_sigmas": torch.cat([sigmas.flip(0), sigmas.new_zeros(1)]),
        **with_backward(model.model_options.get("transformer_options", {})),
    }

    def predict(noisy: Tensor, timesteps: Tensor, prompts: Encoded) -> Tensor:
        height, width = (8 * side for side in noisy.shape[-2:])
        # The host makes it on the CPU, where it would have the prompts' own part come, too.
        size = base.encode_adm(pooled_output=torch.zeros(1, 0), height=height, width=width)
        if size is not None:
            size = size.to(noisy.device, non_blocking=True).expand(len(noisy), -1)
            size = torch.cat([prompts.pooled.to(noisy.device), size], dim=1).to(dtype)
        timesteps = timesteps.to(noisy.device)
        own = {**options, "sigmas": sigmas.to(noisy.device)[timesteps]}
        if prompts.elsewhere:
            own = _reading_elsewhere(own, prompts.elsewhere, noisy.device, dtype)
        return base.diffusion_model(
            noisy.to(dtype),
            timesteps.float(),
            context=prompts.context.to(device=noisy.device, dtype=dtype),
            y=size,
            transformer_options=own,
        )

    return predict


def _reading_elsewhere(
    transformer_options: dict[str, Any], elsewhere: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """A clone of transformer options under which blocks read other contexts (B, L, E), by the names of their places.

    Before all patches of others, which find these contexts as if they were the prompt's.
    """
    made = {id(own): own.to(device=device, dtype=dtype) for own in elsewhere.values()}

    def read(n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        own = elsewhere.get("{} {}".format(*extra["block"]))
        return (n, context, value) if own is None else (n, made[id(own)], made[id(own)])

    patches = transformer_options.get("patches", {})
    return {**transformer_options, "patches": {**patches, "attn2_patch": [read, *patches.get("attn2_patch", [])]}}
