"""A word and a change of the model's weights together: Custom Diffusion and DreamBooth, with anchors on the word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from ...adapter import Adapter
from ...backbone import Backbone, Encoded, Vectors, WeightChange
from ..checkpoint import Parameters
from ..recipe import Recipe
from ..sphere import Sphere
from .textual_inversion import TextualInversion
from .weight_changes import FullChange, LowRank, Parametrisation, added

What = Literal["keys and values", "attention", "whole UNet"]
KINDS = {
    "keys and values": "cross-attention keys and values",
    "attention": "attention",
    "whole UNet": "all",
}  # fmt: skip
MAX_CHANGE = 10.0  # times a weight's own root mean square
UNET = "unet/"


@dataclass(frozen=True, eq=False)
class FineTune:
    """The cross-attention's keys and values (Kumari et al. 2023), a LoRA on all attention, or the whole UNet (Ruiz et al. 2023).

    Parameters of the weights are called "unet/" and their path.

    Attributes:
        of_words: what is learnt of the text.
        weights: path of a weight of the UNet -> how its change is parametrised.
        seed: of where changes of low rank begin.
    """

    of_words: TextualInversion
    weights: Mapping[str, Parametrisation]
    seed: int = 0

    @property
    def backbone(self) -> Backbone:
        return self.of_words.backbone

    def start(self) -> Parameters:
        found, generator = self.of_words.start(), torch.Generator().manual_seed(self.seed)
        for path, weight in self.weights.items():
            found |= weight.start(UNET + path, generator)
        return found

    def learning_rates(self, recipe: Recipe) -> dict[str, float]:
        rates = self.of_words.learning_rates(recipe)
        for path, weight in self.weights.items():
            for name, unit in weight.units(UNET + path).items():
                rates[name] = recipe.weights_learning_rate * (1.0 if recipe.lr_unit == "absolute" else unit)
        return rates

    def spheres(self, recipe: Recipe) -> Mapping[str, Sphere]:
        return self.of_words.spheres(recipe)

    def encode(self, prompts: Sequence[int], parameters: Parameters, timesteps: Tensor | None = None) -> Encoded:
        return self.of_words.encode(prompts, parameters)

    def encode_ordinary(self, prompts: Sequence[int]) -> Encoded:
        return self.of_words.encode_ordinary(prompts)

    def changes(self, parameters: Parameters) -> Mapping[str, WeightChange]:
        def changed(path: str, weight: Tensor) -> Tensor:
            return added(weight, self.weights[path].change(parameters, UNET + path))

        return {path: partial(changed, path) for path in self.weights}

    def penalty(self, parameters: Parameters, recipe: Recipe, prompts: Sequence[int]) -> Tensor | None:
        return self.of_words.penalty(parameters, recipe, prompts)

    def divergence(self, parameters: Parameters) -> tuple[float, str]:
        """Of the weights' changes, or of the words where these are nearer to it."""
        shares = [
            weight.change(parameters, UNET + path).delta.detach().square().mean().sqrt().item() / weight.typical
            for path, weight in self.weights.items()
            if len(weight.shape) > 1
        ]
        of_weights = max(shares) / MAX_CHANGE, f"a weight changed by {max(shares):.2f} times its own size"
        return max(self.of_words.divergence(parameters), of_weights)

    def remembered(self, parameters: Parameters) -> Parameters:
        """None: words without their weights say little, and a second copy of these is large."""
        return {}

    def words(self, parameters: Parameters) -> dict[str, Vectors]:
        return self.of_words.words(parameters)

    def adapter(self, parameters: Parameters) -> Adapter:
        changes = {path: weight.change(parameters, UNET + path) for path, weight in self.weights.items()}
        return Adapter(changes, self.backbone.family.name)


def parametrised(backbone: Backbone, what: What, rank: int) -> dict[str, Parametrisation]:
    """The weights that are learnt.

    Args:
        rank: of their changes; 0 learns each as large as the weight.

    Raises:
        ValueError: a rank larger than one of the matrices, or one for the whole UNet.
    """
    if what == "whole UNet" and rank:
        raise ValueError(
            f'"rank" is {rank}, but the whole UNet is learnt in full; only 0 is allowed, or choose LoRA on attention.'
        )
    found: dict[str, Parametrisation] = {}
    for path, (shape, typical) in _sizes(backbone, backbone.weights_of(KINDS[what])).items():
        if rank > min(shape):
            raise ValueError(
                f'"rank" is {rank}, but the smallest matrix that is learnt is {shape[0]} x {shape[1]}; 0 (full) to {min(shape)} '
                "is allowed."
            )
        found[path] = LowRank(shape, typical, rank) if rank else FullChange(shape, typical)
    return found


def _sizes(backbone: Backbone, paths: Sequence[str]) -> dict[str, tuple[tuple[int, ...], float]]:
    """Shapes and root mean squares; a weight that is all zero, which has no size of its own to move by, gets the median of the others
    with as many axes, biases among biases and matrices among matrices."""
    weights = {path: backbone.weight(path).detach() for path in paths}
    sizes = {path: weight.float().square().mean().sqrt().item() for path, weight in weights.items()}
    some = {
        weight.ndim: [sizes[p] for p, w in weights.items() if sizes[p] and w.ndim == weight.ndim]
        for weight in weights.values()
    }
    any_size = [size for size in sizes.values() if size] or [1.0]
    return {
        path: (tuple(weight.shape), sizes[path] or median(some[weight.ndim] or any_size))
        for path, weight in weights.items()
    }
