"""A training run that can be stopped at any moment: atomic checkpoints, data drawn from the step's number alone."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def join_processes() -> tuple[int, int]:
    """(rank, number of processes): one process a core is faster than one process of all cores."""
    torch.set_num_threads(1)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def share_gradients(parameters: list[nn.Parameter]) -> None:
    if dist.is_initialized():
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        at = 0
        for p in parameters:
            if p.grad is not None:
                p.grad.copy_(flat[at : at + p.numel()].view_as(p))
                at += p.numel()


def save_atomically(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    torch.save(state, new)
    new.replace(path)


def train(
    name: str,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss_of: Callable[[int], Tensor],
    steps: int,
    folder: Path,
    ema: nn.Module | None = None,
    ema_horizon: int = 300,
    warmup: int = 50,
    save_every: int = 200,
    log_every: int = 50,
    report: Callable[[int], None] | None = None,
) -> None:
    """Run `steps` steps, from the checkpoint in `folder` if there is one.

    The learning rate rises linearly for `warmup` steps, holds, and falls linearly to zero in the last 30 %.
    `loss_of(step)` draws its data from the step's number, so that a resumed run sees what an undisturbed one would.
    """
    rank, _ = join_processes()
    path = folder / f"{name}.ckpt"
    start = 0
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if ema is not None:
            ema.load_state_dict(state["ema"])
        start = state["step"]
    base = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    if start:
        base = state["base_lr"]
    parameters = [p for p in model.parameters() if p.requires_grad]
    began, losses = time.time(), []
    for step in range(start, steps):
        rate = min(1, (step + 1) / warmup, (steps - step) / (0.3 * steps))
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, lr in zip(groups, base, strict=True):
            group["lr"] = lr * rate
        loss = loss_of(step)
        model.zero_grad(set_to_none=True)
        loss.backward()
        share_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if ema is not None:
            weight = 1 / min(ema_horizon, step + 2)
            with torch.no_grad():
                for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, weight)
        losses.append(loss.item())
        done = step + 1
        if rank == 0 and (done % log_every == 0 or done == steps):
            mean = sum(losses[-log_every:]) / len(losses[-log_every:])
            print(f"{name} step {done}/{steps} loss {mean:.5f} {time.time() - began:.0f} s", flush=True)
        if rank == 0 and (done % save_every == 0 or done == steps):
            save_atomically(
                {
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "ema": ema.state_dict() if ema is not None else {},
                    "step": done,
                    "base_lr": base,
                },
                path,
            )
            if report is not None:
                report(done)
