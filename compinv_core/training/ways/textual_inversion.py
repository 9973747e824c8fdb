"""Textual inversion with anchors: the vectors of one word or of several, the model untouched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ...anchors import AnchorSet, anchor_loss, density, embedded_prompt_loss, sparsemax, text_feature_loss
from ...backbone import Backbone, Encoded, PreparedPrompts, Vectors, WeightChange
from ..checkpoint import Parameters
from ..recipe import Recipe
from ..sphere import Sphere

MAX_NORM = 100.0  # times a typical word's root mean square; learnt words of one to eight times work
SPARSITY = 0.1  # spreads; what all anchors instead of one cost at most, where their weights are learnt
ANCHOR_WEIGHT_RATE = 0.02  # an optimiser step of an anchor's weight


@dataclass(frozen=True)
class Word:
    """A placeholder that is learnt.

    Attributes:
        start: text-encoder key -> (n, E), where the search begins.
        anchors: ordinary words that regularise it; None is plain textual inversion.
    """

    name: str
    class_word: str
    start: Vectors
    anchors: AnchorSet | None = None


@dataclass(frozen=True)
class AnchorTarget:
    """Where one text encoder's vectors are drawn: a mixture of `anchors` (A, E), in units of `spread`."""

    anchors: Tensor
    spread: float


@dataclass(frozen=True, eq=False)
class TextualInversion:
    """Gal et al. (2022), with the anchors of semantic inversion (Zhang et al. 2024).

    Parameters are called "placeholder/clip_l" and "placeholder/anchors"; the latter (A,) are scores, whose `sparsemax` is the
    anchors' weights.

    Attributes:
        all_words: learnt together; each prompt holds one of their placeholders.
        prepared: the training prompts.
        ordinary_prompts: the same prompts with class words in place of the placeholders.
    """

    backbone: Backbone
    all_words: tuple[Word, ...]
    prepared: PreparedPrompts
    ordinary_prompts: tuple[str, ...] = ()

    def start(self) -> Parameters:
        found: Parameters = {}
        for word in self.all_words:
            found |= {f"{word.name}/{key}": vectors.clone() for key, vectors in word.start.items()}
            found[f"{word.name}/anchors"] = torch.tensor(word.anchors.weights if word.anchors else (1.0,))
        return found

    def learning_rates(self, recipe: Recipe) -> dict[str, float]:
        rates: dict[str, float] = {}
        for word in self.all_words:
            for key in word.start:
                unit = 1.0 if recipe.lr_unit == "absolute" or recipe.optimizer == "sphere" else self._typical[key]
                rates[f"{word.name}/{key}"] = recipe.learning_rate * unit
            if word.anchors is not None and word.anchors.learnt:
                rates[f"{word.name}/anchors"] = ANCHOR_WEIGHT_RATE
        return rates

    def spheres(self, recipe: Recipe) -> Mapping[str, Sphere]:
        return self._spheres if recipe.optimizer == "sphere" else {}

    def encode(self, prompts: Sequence[int], parameters: Parameters, timesteps: Tensor | None = None) -> Encoded:
        return self.backbone.encode(self.prepared, prompts, self.words(parameters))

    def encode_ordinary(self, prompts: Sequence[int]) -> Encoded:
        asked = list(prompts)
        return Encoded(self._ordinary.context[asked], self._ordinary.pooled[asked])

    def changes(self, parameters: Parameters) -> Mapping[str, WeightChange]:
        return {}

    def penalty(self, parameters: Parameters, recipe: Recipe, prompts: Sequence[int]) -> Tensor | None:
        """Semantic inversion: the mean over the words that have anchors."""
        losses = [
            self._text_features(parameters, prompts, word)
            if recipe.anchor_loss == "text features"
            else self._pull(parameters, recipe, word)
            for word in self.all_words
            if word.anchors is not None
        ]
        return torch.stack(losses).mean() if losses else None

    def divergence(self, parameters: Parameters) -> tuple[float, str]:
        norms = [
            vectors.detach().square().mean(dim=1).max().sqrt().item() / self._typical[key]
            for own in self.words(parameters).values()
            for key, vectors in own.items()
        ]
        return max(norms) / MAX_NORM, f"embedding norm {max(norms):.0f} times a typical word's"

    def remembered(self, parameters: Parameters) -> Parameters:
        return {name: value for name, value in parameters.items() if not name.endswith("/anchors")}

    def words(self, parameters: Parameters) -> dict[str, Vectors]:
        return {word.name: {key: parameters[f"{word.name}/{key}"] for key in word.start} for word in self.all_words}

    def adapter(self, parameters: Parameters) -> None:
        return None

    def anchor_weights(self, parameters: Parameters, word: Word) -> list[tuple[str, float]]:
        """The anchors that pull, the strongest first."""
        if word.anchors is None:
            return []
        weights = cast("list[float]", sparsemax(parameters[f"{word.name}/anchors"]).tolist())
        pairs = sorted(zip(weights, word.anchors.words, strict=True), reverse=True)
        return [(anchor, weight) for weight, anchor in pairs if weight > 0]

    def _pull(self, parameters: Parameters, recipe: Recipe, word: Word) -> Tensor:
        """How far a word is from its anchors, a mean over the text encoders."""
        weights = sparsemax(parameters[f"{word.name}/anchors"])
        losses: list[Tensor] = []
        for key, target in self.targets[word.name].items():
            vectors, towards = parameters[f"{word.name}/{key}"], weights @ target.anchors.to(weights.device)
            losses.append(
                embedded_prompt_loss(vectors, towards)
                if recipe.anchor_loss == "embedded prompt"
                else anchor_loss(vectors, towards, target.spread)
            )
        loss = torch.stack(losses).mean()
        return loss + SPARSITY * density(weights) if word.anchors is not None and word.anchors.learnt else loss

    def _text_features(self, parameters: Parameters, prompts: Sequence[int], word: Word) -> Tensor:
        """How far prompts with a word are from the same in ordinary words, by the text encoder's pooled output."""
        own = [i for i in prompts if self.prepared.placeholders[i] == word.name]
        if not own:
            return torch.zeros((), device=self.backbone.device)
        learnt, ordinary = self.encode(own, parameters).pooled, self.encode_ordinary(own).pooled
        return text_feature_loss(learnt, ordinary.to(learnt)).to(self.backbone.device)

    @cached_property
    def _ordinary(self) -> Encoded:
        """Encoded at the first use, which is to be before a run begins: a text encoder that is loaded may evict the UNet."""
        with torch.inference_mode():
            encoded = [self.backbone.encode_text(prompt) for prompt in self.ordinary_prompts]
        with torch.inference_mode(False):  # or autograd could not save them
            context, pooled = (
                torch.cat([getattr(one, name) for one in encoded]).clone() for name in ("context", "pooled")
            )
        return Encoded(context, pooled).to(self.backbone.device)

    @cached_property
    def targets(self) -> dict[str, dict[str, AnchorTarget]]:
        """Placeholder -> text-encoder key -> where its anchors are."""
        known = self.backbone.vocabularies
        return {
            word.name: {k: AnchorTarget(word.anchors.vectors(known[k]).to(self.backbone.device), known[k].spread) for k in word.start}
            for word in self.all_words
            if word.anchors is not None
        }  # fmt: skip

    @cached_property
    def _spheres(self) -> dict[str, Sphere]:
        known = self.backbone.vocabularies
        lengths = {key: v.vectors.square().sum(dim=1).sqrt().mean().item() for key, v in known.items()}
        return {
            f"{word.name}/{key}": Sphere(
                lengths[key], F.normalize(known[key].vector(word.class_word), dim=0).to(self.backbone.device)
            )
            for word in self.all_words
            for key in word.start
        }

    @cached_property
    def _typical(self) -> dict[str, float]:
        """Of each text encoder's words, the root mean square per coordinate."""
        return {key: v.vectors.square().mean().sqrt().item() for key, v in self.backbone.vocabularies.items()}
