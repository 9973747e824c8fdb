"""Semantic inversion: anchors pull the search for a word to the core distribution (Zhang et al. 2024, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .vocabulary import Vocabulary

COCO_CATEGORIES: tuple[str, ...] = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush".split(",")
)
"""The 80 object categories of the COCO data set, among which the paper looks for anchors."""


@dataclass(frozen=True)
class AnchorSet:
    """Which pretrained words pull at a concept, and how strongly: a sparse combination, the class word the simplest."""

    class_word: str
    words: tuple[str, ...]
    weights: tuple[float, ...]
    """Non-negative, one per word; they sum to 1."""

    def __post_init__(self) -> None:
        if not self.words or len(self.words) != len(self.weights):
            raise ValueError(f"Anchors need one weight per word, but got {self.words} and {self.weights}.")
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-4:
            raise ValueError(f"The anchors' weights must not be negative and sum to 1, but got {self.weights}.")

    def target(self, vocabulary: Vocabulary) -> Tensor:
        """(E,) the point that pulls: the weighted sum of the words' input embeddings."""
        vectors = torch.stack([vocabulary.vector(word) for word in self.words])
        return torch.tensor(self.weights, dtype=vectors.dtype) @ vectors


def class_word_only(vocabulary: Vocabulary, class_word: str) -> AnchorSet:
    """The single anchor of the reference implementation."""
    word = _known(vocabulary, class_word)
    return AnchorSet(word, (word,), (1.0,))


def most_similar(
    vocabulary: Vocabulary, class_word: str, count: int, candidates: Iterable[str] | None = None
) -> AnchorSet:
    """The class word and its `count - 1` most similar words, weighted by cosine similarity.

    Args:
        candidates: where to look, for example the COCO categories; None is the whole vocabulary. Those that the text
            encoder does not know whole are passed over.
    """
    word = _known(vocabulary, class_word)
    if candidates is None:
        neighbours = vocabulary.nearest(vocabulary.vector(word), count - 1, exclude=(word,))
    else:
        known = [c for c in candidates if c in vocabulary and c != word]
        neighbours = sorted(_similarities(vocabulary, word, known), key=lambda pair: -pair[1])[: count - 1]
    return _weighted(word, [(word, 1.0), *neighbours])


def these_words(vocabulary: Vocabulary, class_word: str, words: Iterable[str]) -> AnchorSet:
    """The user's own words, weighted by their cosine similarity to the class word. One that is unlike it is left out."""
    word = _known(vocabulary, class_word)
    chosen = list(dict.fromkeys(w.strip().lower() for w in words if w.strip()))
    if not chosen:
        raise ValueError('"my words" needs at least one word, separated by commas or on lines of their own.')
    return _weighted(word, _similarities(vocabulary, word, chosen))


def anchor_loss(vectors: Tensor, target: Tensor, spread: float) -> Tensor:
    """How far a concept's vectors are from the anchor, in units of the vocabulary's own spread.

    Args:
        vectors: (n, E) the concept's input embeddings.
        target: (E,) the anchor's.
        spread: `Vocabulary.spread`, the mean squared distance of a word to its nearest words.

    Returns:
        A scalar. 0 at the anchor, 1 when the vectors are as far from it as a word is from its neighbours.
    """
    return (vectors - target).square().sum(dim=-1).mean() / spread


def paper_anchor_loss(vectors: Tensor, target: Tensor, positions: int = 77) -> Tensor:
    """The anchor loss with the reference implementation's raw numbers.

    It is the mean squared error between the whole embedded prompt, (positions, E), with the concept and with the class
    word in its place. Only the concept's n rows differ, so the mean is small: it depends on the encoder's scale, and on
    SD 1.x it is about 1/77 of the mean squared difference of one row.

    Args:
        vectors: (n, E). target: (E,). positions: tokens of the prompt, start, end and padding included.
    """
    return (vectors - target).square().sum() / (positions * vectors.shape[-1])


def table(anchors: AnchorSet, vocabulary: Vocabulary) -> str:
    """What pulls, to be read by people: one line per word with its similarity to the class word and its weight."""
    similarities = dict(_similarities(vocabulary, anchors.class_word, anchors.words))
    width = max(len("word"), *(len(word) for word in anchors.words))
    lines = [f"{'word':<{width}}  similarity  weight"]
    for word, weight in zip(anchors.words, anchors.weights, strict=True):
        lines.append(f"{word:<{width}}  {similarities[word]:>10.3f}  {weight:>6.3f}")
    return "\n".join(lines)


def _known(vocabulary: Vocabulary, word: str) -> str:
    vocabulary.vector(word)
    return word.strip().lower()


def _similarities(vocabulary: Vocabulary, word: str, others: Iterable[str]) -> list[tuple[str, float]]:
    vector = vocabulary.vector(word)
    return [
        (other, float(torch.nn.functional.cosine_similarity(vocabulary.vector(other), vector, dim=0)))
        for other in others
    ]


def _weighted(class_word: str, similarities: list[tuple[str, float]]) -> AnchorSet:
    """Positive similarities made to sum to 1: what points away from the class word does not pull at all."""
    positive = [(word, similarity) for word, similarity in similarities if similarity > 0]
    if not positive:
        raise ValueError(f'None of the words {[w for w, _ in similarities]} is similar to "{class_word}".')
    total = sum(similarity for _, similarity in positive)
    return AnchorSet(
        class_word, tuple(word for word, _ in positive), tuple(similarity / total for _, similarity in positive)
    )
