"""The pretrained words of a text encoder: the core distribution that a learned word should stay close to."""

from __future__ import annotations

import difflib
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NEIGHBOURS = 8
SAMPLE = 512
"""So many words stand for all when neighbours are measured: 33,000 words of CLIP would take minutes."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The words that one text encoder knows whole, that is, as a single token."""

    words: tuple[str, ...]
    ids: Tensor
    """(V,) their tokens."""
    vectors: Tensor
    """(V, E) their input embeddings, float32 on the CPU."""

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and word.lower() in self._index

    def vector(self, word: str) -> Tensor:
        """(E,) the input embedding of a word. Raises ValueError with suggestions for a word that is not known whole."""
        word = word.strip().lower()
        if word not in self._index:
            known = [part for part in word.split() if part in self._index]
            known += difflib.get_close_matches(word, self.words, n=4)
            hint = f"; did you mean {', '.join(dict.fromkeys(known))}?" if known else "; use a more common word."
            raise ValueError(f'The text encoder has no single word "{word}"{hint}')
        return self.vectors[self._index[word]]

    def nearest(self, vector: Tensor, count: int, exclude: Container[str] = ()) -> list[tuple[str, float]]:
        """The words most like a vector (E,), with their cosine similarity, the most similar first."""
        similarities = self.similarities(vector)
        order: list[int] = similarities.argsort(descending=True, stable=True).tolist()
        chosen = (i for i in order if self.words[i] not in exclude)
        return [(self.words[i], float(similarities[i])) for i, _ in zip(chosen, range(count), strict=False)]

    def similarities(self, vector: Tensor) -> Tensor:
        """(V,) cosine similarity, -1 to 1, of every word to a vector (E,)."""
        vector = vector.detach().to(self.vectors)
        return (self.vectors @ vector) / (self._lengths * vector.norm()).clamp_min(1e-12)

    @property
    def spread(self) -> float:
        """The mean squared distance (summed over E) of a word to its nearest 8: the unit of the anchor loss."""
        return float(self._neighbour_distances.mean())

    def percentile(self, vector: Tensor) -> float:
        """How far from the core a vector (E,) lies: 0 among the densest words, 100 farther out than every word.

        It is the share of words that are nearer to their 8 nearest words than this vector is to its own. A vector that
        is a word itself is compared without that word.
        """
        distance = self._distance_to_nearest(vector.detach().to(self.vectors)[None])
        return float((self._neighbour_distances < distance).float().mean()) * 100

    def _distance_to_nearest(self, vectors: Tensor) -> Tensor:
        """(N, E) -> (N,): mean squared distance to the nearest 8 words that are not the vector itself."""
        squared = (
            vectors.square().sum(-1, keepdim=True) - 2 * vectors @ self.vectors.T + self._lengths.square()
        ).clamp_min(0)
        identical = 1e-6 * self._lengths.square().mean()  # rounding leaves a little of a distance that is zero
        squared = squared.masked_fill(squared <= identical, torch.inf)
        nearest = squared.topk(min(NEIGHBOURS, len(self.words) - 1), largest=False).values
        return nearest.where(nearest.isfinite(), 0).sum(-1) / nearest.isfinite().sum(-1).clamp_min(1)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def _lengths(self) -> Tensor:
        return self.vectors.norm(dim=-1)

    @cached_property
    def _neighbour_distances(self) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            shuffled = torch.randperm(len(self.words), generator=torch.Generator().manual_seed(0))
            return self._distance_to_nearest(self.vectors[shuffled[:SAMPLE]])
