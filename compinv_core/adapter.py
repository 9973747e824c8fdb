"""A learnt change of a model's weights, and its form as a LoRA file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .sentences import quoted

UP, DOWN, ALPHA, DIFF, DIFF_BIAS = ".lora_up.weight", ".lora_down.weight", ".alpha", ".diff", ".diff_b"


@dataclass(frozen=True)
class Change:
    """What is added to one weight: `up` itself, or `up @ down` where it is of low rank.

    Attributes:
        up: of the weight's shape, or (out, rank).
        down: (rank, in), or None.
    """

    up: Tensor
    down: Tensor | None = None

    def __post_init__(self) -> None:
        if self.down is not None and (self.up.ndim < 2 or self.down.ndim < 2 or self.up.shape[1] != len(self.down)):
            shapes = " and ".join(quoted(str(tuple(part.shape)), 40) for part in (self.up, self.down))
            raise ValueError(f"A change of low rank is a product of (out, rank) and (rank, in), but got {shapes}.")

    @property
    def delta(self) -> Tensor:
        """Of the weight's shape, float32."""
        if self.down is None:
            return self.up.float()
        delta = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return delta.reshape(len(delta), *self.down.shape[1:])  # a convolution's has two axes more

    @property
    def shape(self) -> torch.Size:
        """Of the weight. A product may be far larger than its parts, so it is not made for this."""
        if self.down is None:
            return self.up.shape
        return torch.Size((len(self.up), *self.down.shape[1:]))

    @property
    def rank(self) -> int:
        """0 when it is not of low rank."""
        return 0 if self.down is None else len(self.down)

    @property
    def numbers(self) -> int:
        return self.up.numel() + (0 if self.down is None else self.down.numel())


@dataclass(frozen=True)
class Adapter:
    """A change of a UNet.

    Attributes:
        changes: by path, a UNet's own name of a weight ("….attn2.to_k.weight").
        family: of the model that it is for, see `Family`; "" when it is not known.
    """

    changes: Mapping[str, Change]
    family: str = ""

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return sum(change.numbers for change in self.changes.values())

    def reduced(self, rank: int) -> tuple["Adapter", float]:
        """The nearest adapter of a rank (Eckart & Young 1936), matrix by matrix, and what of the change is lost: 0 nothing, 1 all.

        Weights that are no matrices, as of convolutions, stay as they are. Changes of that rank or less do, too. A matrix that is
        smaller than the rank loses nothing.

        Raises:
            ValueError: a rank below 1, or above that of every matrix.
        """
        if rank < 1:
            raise ValueError(f"The rank is {rank}; 1 or more is needed.")
        full = [min(change.up.shape) for change in self.changes.values() if not change.rank and change.up.ndim == 2]
        if full and rank > max(full):
            raise ValueError(
                f"The rank is {rank}, but no matrix of the change has a rank above {max(full)}; 1 to {max(full)} is allowed, or 0 for "
                "the change as it was learnt."
            )
        found: dict[str, Change] = {}
        lost = total = 0.0
        for path, change in self.changes.items():
            delta = change.delta
            found[path] = change
            total += delta.square().sum().item()
            if delta.ndim != 2 or 0 < change.rank <= rank:
                continue
            u, s, v = cast("tuple[Tensor, Tensor, Tensor]", torch.linalg.svd(delta, full_matrices=False))
            root = s[:rank].sqrt()
            found[path] = Change(u[:, :rank] * root, root[:, None] * v[:rank])
            lost += s[rank:].square().sum().item()
        return Adapter(found, self.family), (lost / total) ** 0.5 if total else 0.0

    def to_lora(self, names: Mapping[str, str], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """The tensors of a LoRA file.

        Args:
            names: path -> the weight's name in such files, without an ending.
        """
        found: dict[str, Tensor] = {}
        for path, change in self.changes.items():
            name = names[path]
            if change.down is None:
                ending = DIFF_BIAS if path.endswith(".bias") else DIFF
                found[name + ending] = change.up.detach().to("cpu", dtype).contiguous()
            else:
                found[name + UP] = change.up.detach().to("cpu", dtype).contiguous()
                found[name + DOWN] = change.down.detach().to("cpu", dtype).contiguous()
                found[name + ALPHA] = torch.tensor(float(change.rank))
        return found
