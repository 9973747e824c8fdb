"""How the change of one weight is parametrised: as large as the weight itself, or as a product of low rank."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...adapter import Change
from ..checkpoint import Parameters


@dataclass(frozen=True)
class FullChange:
    """w + d, with d zero at first. `typical` is the weight's root mean square, the unit of the learning rate."""

    shape: tuple[int, ...]
    typical: float

    def start(self, path: str, generator: torch.Generator) -> Parameters:
        return {path: torch.zeros(self.shape)}

    def units(self, path: str) -> dict[str, float]:
        return {path: self.typical}

    def change(self, parameters: Parameters, path: str) -> Change:
        return Change(parameters[path])


@dataclass(frozen=True)
class LowRank:
    """w + up @ down (LoRA, Hu et al. 2022), with up zero at first; alpha is the rank, so nothing is scaled.

    A row of `down` has about unit length. In units of the learning rate, one step of `up` changes the weight by about as much,
    measured by its own root mean square, as a step of `FullChange`.
    """

    shape: tuple[int, ...]
    typical: float
    rank: int

    def start(self, path: str, generator: torch.Generator) -> Parameters:
        rows, columns = self.shape
        down = torch.randn(self.rank, columns, generator=generator) / columns**0.5
        return {f"{path}/up": torch.zeros(rows, self.rank), f"{path}/down": down}

    def units(self, path: str) -> dict[str, float]:
        columns = self.shape[1]
        return {f"{path}/up": self.typical * (columns / self.rank) ** 0.5, f"{path}/down": columns**-0.5}

    def change(self, parameters: Parameters, path: str) -> Change:
        return Change(parameters[f"{path}/up"], parameters[f"{path}/down"])


Parametrisation = FullChange | LowRank


def added(weight: Tensor, change: Change) -> Tensor:
    """A weight with a change, in the weight's own dtype; the sum is taken in float32."""
    up, down = change.up.to(weight.device), None if change.down is None else change.down.to(weight.device)
    return (weight.float() + Change(up, down).delta.reshape(weight.shape)).to(weight.dtype)
