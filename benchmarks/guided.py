"""What a guided pass takes of memory and time, and that leaving out its rest changes nothing (PERFORMANCE: S4 to S7); what
regional reading takes of memory (S10)."""

import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from host import SD15, SDXL, Architecture, goal
from sampling import CONCEPTS, Calls, Unet
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import compinv_core.host.sampler as host
from compinv_core.host.model import checkpointed, frozen_weights
from compinv_core.reading.regional import WHOLE_PROMPT
from compinv_core.sampling.guidance import Guidance
from compinv_core.sampling.schedules import Balance, Steering

REGIONAL_BYTES = 1.3
GOALS = {"sd15": (2.7, 0.8, "19.1 official"), "sdxl": (13, 2.7, "40 official")}


class Peak(TorchDispatchMode):
    """The most bytes at one time of the tensors that are made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_flatten((arguments, named))[0] if isinstance(t, Tensor)}
        result = function(*arguments, **(named or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if (
                    storage._cdata not in self.live and storage._cdata not in given
                ):  # views of weights are not made here
                    self.live[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata)
        self.most = max(self.most, self.now)
        return result

    def _gone(self, storage: int) -> None:
        self.now -= self.live.pop(storage)


def peak(run: Callable[[], Any]) -> int:
    with Peak() as counter:
        run()
    return counter.most


def regional_bytes(architecture: Architecture) -> dict[int, float]:
    """By number of concepts: peak bytes in half precision, weights excluded, of a pass with CFG that reads them by region,
    over those of a plain one."""
    with FakeTensorMode(), torch.no_grad():
        unet = Unet(architecture, "cpu", dtype=torch.float16)
        plain = peak(lambda: unet.forward(unet.latents(2), {}))
        return {concepts: peak(lambda n=concepts: unet.read_by_region(n)) / plain for concepts in CONCEPTS}


def activations(architecture: Architecture) -> tuple[int, int, int]:
    """Peak bytes in half precision, weights excluded, of a plain pass with CFG, of a guided pass, and of one with gradient
    checkpointing."""
    with FakeTensorMode():  # shapes alone, but as on a real device: the CPU's attention kernel, not its formula
        unet = Unet(architecture, "cpu", dtype=torch.float16)

        def guided() -> None:
            latents = unet.latents().requires_grad_()
            torch.autograd.grad(unet.energy(latents), latents)

        with torch.no_grad():
            plain = peak(lambda: unet.forward(unet.latents(2), {}))
        kept = peak(guided)
        with checkpointed(unet.module):
            twice = peak(guided)
    return plain, kept, twice


def swap(module: torch.nn.Module) -> tuple[int, float]:
    """Of making weights that were loaded under inference mode differentiable: further bytes, and milliseconds at best, as this thread was given them."""
    before = {tensor.data_ptr() for tensor in module.state_dict(keep_vars=True).values()}
    best, more = float("inf"), 0
    for _ in range(50):
        began = time.thread_time()
        with frozen_weights(module):
            entered = time.thread_time()
            state = module.state_dict(keep_vars=True).values()
            assert not any(tensor.is_inference() for tensor in state)
            more = sum(tensor.nbytes for tensor in state if tensor.data_ptr() not in before)
            leaving = time.thread_time()
        best = min(best, time.thread_time() - leaving + entered - began)
    return more, 1000 * best


def timed(unet: Unet, stop: bool) -> tuple[float, Tensor]:
    """Seconds of a guided pass, as this process was given them, for others share the machine; and the gradient."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(unet.latents().shape, generator=generator).requires_grad_()
    text = torch.randn(1, 77, unet.config["context_dim"], generator=generator)
    began = time.process_time()
    (gradient,) = torch.autograd.grad(unet.energy(latents, stop, text), latents)
    return time.process_time() - began, gradient


def samples() -> tuple[Tensor, Tensor]:
    """The micro world's latents, guided by passes that end at the last map, and by whole ones."""
    calls, watch = Calls(), host.watch
    guided = host.with_layout(
        calls.model, calls.layout, Steering(0), Guidance(threshold=0), balance=Balance(), regional=WHOLE_PROMPT
    )
    cut, _ = calls.sample(guided)
    host.watch = lambda options, captures, stop: watch(options, captures, stop=False)
    try:
        return cut, calls.sample(guided)[0]
    finally:
        host.watch = watch


def wall() -> None:
    """S5 to S7 on the whole architecture of SD 1.5 at 512 px, one thread; random weights of full size in float32, 3.4 GB."""
    torch.set_num_threads(1)
    with torch.inference_mode():  # as ComfyUI loads every checkpoint
        unet = Unet(SD15, "cpu")
        for weight in unet.module.parameters():
            torch.nn.init.uniform_(weight, -0.02, 0.02)
    more, milliseconds = swap(unet.module)
    goal("S5", "further bytes", more, 0, "3.4e9 cloned")
    goal("S5", "ms a swap", milliseconds, 10)
    with frozen_weights(unet.module):
        with torch.no_grad():
            unet.energy(unet.latents(), stop=False)  # the first pass of a process is slower
        runs = [[timed(unet, stop) for stop in (True, False)] for _ in range(3)]
    # Both of a pair meet the same neighbours on the machine, and two that do not are outvoted.
    ratio = statistics.median(cut / whole for (cut, _), (whole, _) in runs)
    cut, whole = (min(seconds for seconds, _ in way) for way in zip(*runs, strict=True))
    goal("S6", "sd15 512 px", ratio, 0.70, f"{cut:.1f} s against {whole:.1f} s")
    (_, ours), (_, theirs) = runs[0]
    goal("S7", "gradient, cut from whole", _apart(ours, theirs), 0)
    goal("S7", "samples, cut from whole", _apart(*samples()), 0)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    assert theirs.norm() > 0
    return ((ours - theirs).norm() / theirs.norm()).item()


def main() -> None:
    for architecture in (SD15, SDXL):
        plain, kept, twice = activations(architecture)
        most, least, anchor = GOALS[architecture.name]
        goal("S4", architecture.name, kept / plain, most, f"{kept / 1e9:.2f} GB in half precision; {anchor}")
        goal("S4", f"{architecture.name} checkpointed", twice / plain, least, f"{twice / 1e9:.2f} GB")
        for concepts, more in regional_bytes(architecture).items():
            goal("S10", f"{architecture.name} {concepts} by region", more, REGIONAL_BYTES)
    wall()
