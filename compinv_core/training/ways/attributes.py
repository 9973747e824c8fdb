"""A concept's attributes, each a word of its own that is read where it acts: MATTE, P+ and ProSpect, by the table of cells."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ...anchors import anchor_loss
from ...backbone import Backbone, Encoded, Vectors, WeightChange
from ...families.unet import Outline
from ...reading.table import Cells, noises_of
from ..checkpoint import Parameters
from ..recipe import Recipe
from ..sphere import Sphere
from .textual_inversion import TextualInversion

Acting = tuple[str, ...]
"""The attributes that act in a cell."""


@dataclass(frozen=True, eq=False)
class Attributes:
    """MATTE (Agarwal et al. 2023), with P+ (Voynov et al. 2023) and ProSpect (Zhang et al. 2023) as other tables.

    Every block reads, at each timestep, the prompt with the attributes that act there, and class words where none does.

    Attributes:
        of_words: an attribute each, called by `names`; its ordinary prompts are the training prompts in class words.
        names: attribute -> placeholder.
        cells: where each acts.
        places: (training prompt, the attributes in it) -> the index of its text among the prepared ones.
        colour_style: whether colour is held to its true words, and apart from style as these are.
        object_class: whether the object is held to its class word.
    """

    of_words: TextualInversion
    names: Mapping[str, str]
    cells: Cells
    places: Mapping[tuple[int, Acting], int]
    colour_style: bool = True
    object_class: bool = True

    @property
    def backbone(self) -> Backbone:
        return self.of_words.backbone

    def start(self) -> Parameters:
        return self.of_words.start()

    def learning_rates(self, recipe: Recipe) -> dict[str, float]:
        return self.of_words.learning_rates(recipe)

    def spheres(self, recipe: Recipe) -> Mapping[str, Sphere]:
        return self.of_words.spheres(recipe)

    def encode(
        self, prompts: Sequence[int], parameters: Parameters, timesteps: Tensor, only: Collection[str] | None = None
    ) -> Encoded:
        """See `Way`. Of a sample, as many texts are encoded as its blocks read different ones: three groups, three texts.

        Args:
            only: the attributes that are read; None for all.
        """
        noises = [t / len(self.backbone.schedule.alphas_cumprod) for t in cast("list[int]", timesteps.tolist())]
        ordinary = self.encode_ordinary(prompts)
        read: dict[str, list[tuple[int, Acting]]] = {}
        for place in self.backbone.outline.place_names:
            acting = [acting_in(self.cells, place, noise, only) for noise in noises]
            if any(acting):
                read[place] = list(zip(prompts, acting, strict=True))
        texts = {pair: self.places[pair] for own in read.values() for pair in own if pair[1]}
        if not texts:
            return ordinary
        learnt = self.backbone.encode(self.of_words.prepared, list(texts.values()), self.words(parameters)).context
        rows = {pair: learnt[i] for i, pair in enumerate(texts)}
        made: dict[tuple[tuple[int, Acting], ...], Tensor] = {}
        for own in map(tuple, read.values()):  # blocks that read the same share it
            if own not in made:
                plain = ordinary.context.to(learnt)
                made[own] = torch.stack([rows.get(pair, plain[i]) for i, pair in enumerate(own)])
        return Encoded(ordinary.context, ordinary.pooled, {place: made[tuple(own)] for place, own in read.items()})

    def encode_ordinary(self, prompts: Sequence[int]) -> Encoded:
        return self.of_words.encode_ordinary(prompts)

    def changes(self, parameters: Parameters) -> Mapping[str, WeightChange]:
        return {}

    def penalty(self, parameters: Parameters, recipe: Recipe, prompts: Sequence[int]) -> Tensor | None:
        """MATTE's L_cs and L_o, those that are switched on, added up; means over the text encoders, in spreads of the vocabulary."""
        losses: list[Tensor] = []
        for key in next(iter(self.of_words.all_words)).start:
            if self.colour_style and "colour" in self.names:
                colour, true, spread = self._held(parameters, "colour", key)
                losses.append(anchor_loss(colour, true, spread))
                if "style" in self.names:
                    style = parameters[f"{self.names['style']}/{key}"]
                    losses.append(disentanglement_loss(colour, style, true, spread))
            if self.object_class and "object" in self.names:
                losses.append(anchor_loss(*self._held(parameters, "object", key)))
        if not losses:
            return None
        return torch.stack(losses).sum() / len(next(iter(self.of_words.all_words)).start)

    def divergence(self, parameters: Parameters) -> tuple[float, str]:
        return self.of_words.divergence(parameters)

    def remembered(self, parameters: Parameters) -> Parameters:
        return self.of_words.remembered(parameters)

    def words(self, parameters: Parameters) -> dict[str, Vectors]:
        return self.of_words.words(parameters)

    def adapter(self, parameters: Parameters) -> None:
        return None

    def _held(self, parameters: Parameters, attribute: str, key: str) -> tuple[Tensor, Tensor, float]:
        """An attribute's vectors and the ordinary words that it is held to, which it began as, (n, E) both; the vocabulary's spread."""
        name = self.names[attribute]
        vectors = parameters[f"{name}/{key}"]
        word = next(word for word in self.of_words.all_words if word.name == name)
        return vectors, word.start[key].to(vectors), self.backbone.vocabularies[key].spread


def disentanglement_loss(colour: Tensor, style: Tensor, true: Tensor, spread: float) -> Tensor:
    """How much nearer to the style, or farther from it, a colour is than its true words: the second half of MATTE's L_cs.

    Args:
        colour, style: (n, E) and (m, E), vectors.
        true: (n, E), the colour's ordinary words.
        spread: `Vocabulary.spread`, the unit of squared distances.

    Returns:
        A scalar: 0 where both are as far from the style.
    """
    learnt, words = ((own[:, None] - style).square().sum(dim=-1).mean() / spread for own in (colour, true))
    return (learnt - words).square()


def acting_in(cells: Cells, place: str, noise: float, only: Collection[str] | None = None) -> Acting:
    """The attributes that act in a block at a timestep, of those that are asked for."""
    return tuple(name for name in cells.acting(place, noise) if only is None or name in only)


def combinations(cells: Cells, outline: Outline, only: Collection[str] | None = None) -> list[Acting]:
    """What acts together in some cell of a model, each once."""
    found = [acting_in(cells, place, noise, only) for place in outline.place_names for noise in noises_of(cells.cuts)]
    return [acting for acting in dict.fromkeys(found) if acting]
