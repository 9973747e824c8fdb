"""A pretended accelerator: tensors of the CPU that say they lie elsewhere, and operations that refuse to mix the two.

Neither a GPU nor a driver is needed, and every number is the CPU's own. What it cannot show is what kernels do differently.
And models whose weights come and go, as newer versions of ComfyUI have them on GPUs.
"""

import copy
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("mps", 0)  # of what is not in this machine, the one for which ComfyUI asks no driver

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}  # take indices of the CPU, too


@dataclass
class Pretended:
    """What lies on the pretended device, and how often the CPU waited for it.

    Attributes:
        storages: weak references keep an address from being used again.
        undecided: what torch made for itself without saying where; it lies where it is first used.
        waits: numbers read back, and copies that do not go on by themselves.
    """

    storages: dict[int, StorageWeakRef] = field(default_factory=dict[int, StorageWeakRef])
    undecided: dict[int, StorageWeakRef] = field(default_factory=dict[int, StorageWeakRef])
    waits: int = 0

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages

    def put(self, tensor: Tensor, there: bool) -> None:
        storage = tensor.untyped_storage()
        self.undecided.pop(storage._cdata, None)
        if there:
            self.storages[storage._cdata] = StorageWeakRef(storage)
        else:
            self.storages.pop(storage._cdata, None)

    def leave_open(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.undecided[storage._cdata] = StorageWeakRef(storage)

    def is_open(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.undecided


@contextmanager
def pretended_device() -> Generator[Pretended]:
    """For its time, DEVICE can be named wherever torch takes a device."""
    device = Pretended()
    with _Operations(device), _Names(device):
        yield device


class _Names(TorchFunctionMode):
    """Devices as Python code names and asks for them."""

    def __init__(self, device: Pretended):
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if func == Tensor.device.__get__:
            return DEVICE if self.device.holds(args[0]) else func(*args)
        if func in (Tensor.to, Tensor.cpu):
            return self._moved(first, *args[1:], **kwargs, **({"device": "cpu"} if func is Tensor.cpu else {}))
        if func is Tensor.numpy and self.device.holds(first):
            raise TypeError("A tensor of the pretended device has no numpy array; copy it to the CPU first.")
        if kwargs.get("device") is None:
            result = func(*args, **kwargs)
            if isinstance(result, Tensor) and self.device.is_open(result):
                self.device.put(result, False)
            return result
        there = torch.device(kwargs["device"]).type == DEVICE.type
        result = func(*args, **{**kwargs, "device": "cpu"})
        self.device.put(result, there)
        return result

    def _moved(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`Tensor.to` in all its forms."""
        here, given = self.device.holds(tensor), [*args, *kwargs.values()]
        like = next((value for value in given if isinstance(value, Tensor)), None)
        where = next((value for value in given if isinstance(value, (torch.device, str))), None)
        dtype = next((value for value in given if isinstance(value, torch.dtype)), tensor.dtype)
        there = here if where is None else torch.device(where).type == DEVICE.type
        if like is not None:
            there, dtype = self.device.holds(like), like.dtype
        flags = [value for value in args if isinstance(value, bool)] + [False, False]
        waiting, copy = not kwargs.get("non_blocking", flags[0]), kwargs.get("copy", flags[1])
        if here == there:
            return tensor.to(dtype, copy=copy)
        self.device.waits += waiting or here
        return _Move.apply(tensor, dtype, self.device, there)


class _Move(torch.autograd.Function):
    """A copy to the other device, whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dtype: torch.dtype, device: Pretended, there: bool) -> Tensor:
        ctx.dtype, ctx.device, ctx.there = tensor.dtype, device, there
        result = tensor.to(dtype, copy=True)
        device.put(result, there)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        back = gradient.to(ctx.dtype, copy=True)
        ctx.device.put(back, not ctx.there)
        return back, None, None, None


class _Operations(TorchDispatchMode):
    """Operations as autograd and a backward call them."""

    def __init__(self, device: Pretended):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        indices = tree_leaves(args[1]) if func in INDEXING else []
        there = [tensor for tensor in given if self.device.holds(tensor)]
        # A number of the CPU can be mixed in everywhere.
        here = [
            tensor
            for tensor in given
            if tensor.ndim
            and not self.device.holds(tensor)
            and not self.device.is_open(tensor)
            and not any(tensor is index for index in indices)
        ]
        result = func(*args, **kwargs)
        if func is aten._has_compatible_shallow_copy_type.default:  # asked where weights are moved
            return result
        if func is aten.copy_.default:
            self.device.waits += bool(there and here) and not (len(args) > 2 and args[2])
            return result
        if there and here:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in here)
            raise RuntimeError(f"{func} was given tensors of the pretended device and, of the CPU, {shapes}.")
        moved = func in INDEXING and there and not all(i is None or self.device.holds(i) for i in indices)
        if moved or (there and func in (aten._local_scalar_dense.default, aten.nonzero.default)):
            self.device.waits += 1
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and there:
                self.device.put(made, True)
            elif isinstance(made, Tensor) and not given:
                self.device.leave_open(made)
        return result


def dynamic(patcher: Any) -> Any:
    """A patcher as newer versions of ComfyUI have on a GPU: its weights come and go, and another has ones that stay."""

    class Dynamic(type(patcher)):
        asked = 0

        def is_dynamic(self) -> bool:
            return True

        def get_non_dynamic_delegate(self) -> Any:
            Dynamic.asked += 1
            other = self.clone()
            same = {id(config): config for config in [getattr(self.model, "model_config", None)]}
            other.__class__, other.model = type(patcher), copy.deepcopy(self.model, same)
            return other

    clone = patcher.clone()
    clone.__class__ = Dynamic
    clone.cached_patcher_init = (None, ())
    return clone
