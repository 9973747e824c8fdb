"""What can be learnt: one file a way, all with the same parts."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from ...adapter import Adapter
from ...backbone import Encoded, Vectors, WeightChange
from ..checkpoint import Parameters
from ..recipe import Recipe
from ..sphere import Sphere


class Way(Protocol):
    """What is learnt, and what becomes of it. It has no state: all that moves is in `Parameters`."""

    def start(self) -> Parameters:
        """Where the search begins: float32, on the CPU."""
        ...

    def learning_rates(self, recipe: Recipe) -> Mapping[str, float]:
        """Of every parameter that moves, an optimiser step in its own numbers."""
        ...

    def spheres(self, recipe: Recipe) -> Mapping[str, Sphere]:
        """Those of them that keep their length, and the sphere that their vectors stay on; their learning rates are in radians."""
        ...

    def encode(self, prompts: Sequence[int], parameters: Parameters, timesteps: Tensor) -> Encoded:
        """The training prompts with these indices, as what is learnt makes the text encoder read them.

        Args:
            timesteps: of each, where in the noise schedule it is read.
        """
        ...

    def encode_ordinary(self, prompts: Sequence[int]) -> Encoded:
        """The same prompts in ordinary words: the class word in place of each placeholder."""
        ...

    def changes(self, parameters: Parameters) -> Mapping[str, WeightChange]:
        """Paths of the UNet's weights -> what they become."""
        ...

    def penalty(self, parameters: Parameters, recipe: Recipe, prompts: Sequence[int]) -> Tensor | None:
        """What holds the search back, a scalar that is not weighted yet: the anchors; None where there are none."""
        ...

    def divergence(self, parameters: Parameters) -> tuple[float, str]:
        """How large what is learnt is, as a part of the most that can be sound, and in words."""
        ...

    def remembered(self, parameters: Parameters) -> Parameters:
        """Those that are kept of the best evaluation."""
        ...

    def words(self, parameters: Parameters) -> dict[str, Vectors]:
        """Placeholder -> its vectors."""
        ...

    def adapter(self, parameters: Parameters) -> Adapter | None:
        """The change of the model's weights; None where nothing of it is learnt."""
        ...
