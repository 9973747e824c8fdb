"""The pretrained words of one text encoder, and how far something lies from them."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from ..sentences import quoted

NEIGHBOURS = 8
SAMPLE = 1000  # words whose neighbours are looked up; all of a small vocabulary


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Whole words only.

    Attributes:
        words: V of them.
        ids: (V,), their tokens.
        vectors: (V, E) float32, their input embeddings.
    """

    words: tuple[str, ...]
    ids: Tensor
    vectors: Tensor

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def __contains__(self, word: str) -> bool:
        return word.lower() in self._index

    def vector(self, word: str, wanted: str = "") -> Tensor:
        """(E,), the input embedding of a word.

        Args:
            wanted: where the word was written, such as '"class_word"', for the error's sentence.

        Raises:
            ValueError: the word is not a single token of this text encoder.
        """
        index = self._index.get(word.lower())
        if index is None:
            near = difflib.get_close_matches(word.lower()[:40], self.words, n=3)  # slow on long ones
            hint = f"; similar words: {', '.join(near)}" if near else ""
            place = f" for {wanted}" if wanted else ""
            raise ValueError(
                f'"{quoted(word)}" is not a single token of this text encoder{hint}. Choose one ordinary word{place}.'
            )
        return self.vectors[index]

    def phrase(self, text: str, wanted: str = "") -> Tensor:
        """(E,), a word's input embedding, or the mean of those of a phrase's words ("teddy bear").

        Args:
            wanted: as for `vector`.

        Raises:
            ValueError: one of its words is not a single token of this text encoder.
        """
        return torch.stack([self.vector(word, wanted) for word in text.split()]).mean(dim=0)

    def nearest(self, vector: Tensor, count: int, exclude: Collection[str] = ()) -> list[tuple[str, float]]:
        """The `count` words most similar to a vector (E,), with their cosine similarities."""
        similarity = torch.cosine_similarity(self.vectors, vector.float()[None], dim=1)
        order = cast("list[int]", similarity.argsort(descending=True).tolist())
        return [(self.words[i], similarity[i].item()) for i in order if self.words[i] not in exclude][:count]

    @cached_property
    def _gaps(self) -> Tensor:
        """(S,) sorted: mean squared distances of words to their nearest neighbours."""
        picks = torch.randperm(len(self.words), generator=torch.Generator().manual_seed(0))[:SAMPLE]
        squares = torch.cdist(self.vectors[picks], self.vectors).square()
        near = squares.topk(min(NEIGHBOURS + 1, len(self.words)), largest=False).values[:, 1:]  # the first is the word
        return near.mean(dim=1).sort().values

    @property
    def spread(self) -> float:
        """Mean squared distance of a word to its nearest neighbours: the unit of the anchor loss."""
        return self._gaps.mean().item()

    def gap(self, vector: Tensor) -> float:
        """Mean squared distance of a vector (E,) to its nearest words; `spread` is what words have among themselves."""
        squares = (self.vectors - vector.float()[None]).square().sum(dim=1)
        squares = squares[squares > 0]  # a word is not its own neighbour
        return squares.topk(min(NEIGHBOURS, len(squares)), largest=False).values.mean().item()

    def percentile(self, vector: Tensor) -> float:
        """Where a vector's distance to its nearest words lies among the words' own, 0 (in the core) to 100 (outside)."""
        return 100 * (self._gaps < self.gap(vector)).float().mean().item()
