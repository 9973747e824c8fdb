"""Muon for matrices and convolutions, AdamW for the rest: fewer samples for the same loss than AdamW alone.

The update of a matrix is its momentum made orthogonal by five Newton-Schulz iterations (Jordan et al., 2024).
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest half-orthogonal matrix to (rows, columns), approximately: singular values in about 0.7..1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            flat = torch.zeros(sum(p.numel() for p in params))
            updates = [part.view_as(p) for part, p in zip(flat.split([p.numel() for p in params]), params, strict=True)]
            for i, (p, update) in enumerate(zip(params, updates, strict=True)):
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                if i % processes == rank:  # each process makes its share orthogonal
                    matrix = p.grad.lerp(momentum, group["momentum"]).reshape(p.shape[0], -1)
                    update.copy_(orthogonal(matrix).mul_(0.2 * max(matrix.shape) ** 0.5).view_as(p))
            if processes > 1:
                dist.all_reduce(flat)
            for p, update in zip(params, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"])  # its root mean square is about an AdamW step's


def optimizers(
    named: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Muon for every inner matrix, AdamW for embeddings, norms, biases and what is thinner than 16."""
    matrices, others = [], []
    for name, p in named:
        thin = p.ndim < 2 or min(p.shape[0], p[0].numel()) < 16
        (others if thin or "embedding" in name else matrices).append(p)
    return [
        Muon(matrices, lr, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
