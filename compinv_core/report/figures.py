"""The figures of a concept report: where a learnt word stands among ordinary ones, and what it takes of the attention."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor

from ..prompts.vocabulary import Vocabulary


def entropy(maps: Tensor) -> Tensor:
    """How widely attention is spread over a picture: the entropy of its map, as a part of the highest that there is.

    Args:
        maps: (..., h, w), non-negative.

    Returns:
        (...), 0 when all of it is in one cell, 1 when every cell gets the same.
    """
    cells = maps.flatten(-2)
    parts = cells / cells.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.xlogy(parts, parts).sum(dim=-1) / -math.log(cells.shape[-1])


@dataclass(frozen=True)
class Standing:
    """Where a word is among the ordinary words of one text encoder.

    Attributes:
        nearest: ordinary words and their cosine similarities to the mean of its vectors, the most similar first.
        percentile: outlier percentile: how many of a hundred ordinary words are closer to their nearest words than its vectors are to theirs.
        distance: of its vectors to their nearest words, on average; 1 is how far an ordinary word is from its own.
        length: of its vectors, on average; 1 is an ordinary word's.
    """

    nearest: tuple[tuple[str, float], ...]
    percentile: float
    distance: float
    length: float


def standing(vectors: Tensor, vocabulary: Vocabulary, count: int = 5) -> Standing:
    """Of a word with the vectors (n, E), with so many of its nearest ordinary words."""
    vectors = vectors.detach().float().cpu()
    lengths, ordinary = (cast("Tensor", v.norm(dim=1)) for v in (vectors, vocabulary.vectors))
    return Standing(
        nearest=tuple(vocabulary.nearest(vectors.mean(dim=0), count)),
        percentile=sum(vocabulary.percentile(vector) for vector in vectors) / len(vectors),
        distance=sum(math.sqrt(vocabulary.gap(vector) / vocabulary.spread) for vector in vectors) / len(vectors),
        length=(lengths.mean() / ordinary.quantile(0.5)).item(),
    )


@dataclass(frozen=True)
class Attention:
    """What a word gets of the model's attention while pictures are sampled. A share is of all tokens' 1.

    Attributes:
        share: in prompts about it alone.
        entropy: there; 0 when all of it is in one cell of the picture, 1 when every cell gets the same.
        beside: another word -> (its own share, the other's) in "a photo of a cat and a car".
    """

    share: float
    entropy: float
    beside: Mapping[str, tuple[float, float]]


def dominance(word: Attention, ordinary: Attention) -> float:
    """How much of two subjects' attention a word takes, over what an ordinary word takes in its place.

    A mean over the words that both stand beside: 1 when the word is like the ordinary one; 2 when it takes all
    where that takes half.
    """
    parts = [
        (own / (own + other)) / (ordinary.beside[name][0] / sum(ordinary.beside[name]))
        for name, (own, other) in word.beside.items()
    ]
    return sum(parts) / len(parts)


def kept(word: Attention, ordinary: Attention) -> float:
    """How much attention the words beside it get, over what they get beside an ordinary word; a mean, 1 when the same."""
    parts = [other / ordinary.beside[name][1] for name, (_, other) in word.beside.items()]
    return sum(parts) / len(parts)


HIGH_DOMINANCE = 1.5  # above which ordinary words, too, that are written several times displace others
SAME_DOMINANCE = 0.15  # a relative difference that does not count


@dataclass(frozen=True)
class Report:
    """Of a concept, each figure beside its class word's.

    Attributes:
        name: the concept's.
        standings: text encoder -> where the concept stands, and its class word.
        vectors: how many the concept has.
        attention, ordinary: what the concept gets of the attention, and what its class word gets.
        repeated: what the class word gets when it is written as many times as the concept has vectors.
        likeness: of pictures of the concept to the user's, and of pictures of the class word; cosines of a vision
            model's features, or None without pictures to compare with.
    """

    name: str
    class_word: str
    standings: Mapping[str, tuple[Standing, Standing]]
    vectors: int
    attention: Attention
    ordinary: Attention
    repeated: Attention
    likeness: tuple[float, float] | None = None

    @property
    def dominance(self) -> float:
        return dominance(self.attention, self.ordinary)

    @property
    def usual(self) -> float:
        """The dominance of a word of so many vectors."""
        return dominance(self.repeated, self.ordinary)

    @property
    def kept(self) -> float:
        return kept(self.attention, self.ordinary)

    @property
    def unlike(self) -> bool:
        """Whether the user's pictures are no more like the concept than like any thing of its class."""
        return self.likeness is not None and self.likeness[0] <= self.likeness[1]

    def rows(self) -> list[tuple[str, str, str]]:
        """A table's lines: a figure's name, the concept's and the class word's."""
        rows = [("", self.name, self.class_word)]
        for key, (own, its) in self.standings.items():
            mark = f" ({key})" if len(self.standings) > 1 else ""
            rows.append((f"nearest words{mark}", _listed(own.nearest), _listed(its.nearest)))
            rows.append((f"outlier percentile{mark}", f"{own.percentile:.0f}", f"{its.percentile:.0f}"))
            rows.append((f"distance to nearest words{mark}", f"{own.distance:.2f}", f"{its.distance:.2f}"))
            rows.append((f"norm, of a typical word's{mark}", f"{own.length:.2f}", f"{its.length:.2f}"))
        one, other = self.attention, self.ordinary
        rows.append(("attention share, alone", _percent(one.share), _percent(other.share)))
        rows.append(("attention entropy, alone", f"{one.entropy:.3f}", f"{other.entropy:.3f}"))
        for name in one.beside:
            parts = [mine / (mine + its) for mine, its in (one.beside[name], other.beside[name])]
            rows.append((f"share of two subjects' attention, beside {name}", _percent(parts[0]), _percent(parts[1])))
        repeated = f"; {self.vectors} times: " if self.vectors > 1 else ""
        usual = repeated and f"{repeated}{self.usual:.2f}"
        left = repeated and repeated + _percent(kept(self.repeated, other))
        rows.append(("dominance index", f"{self.dominance:.2f}", f"1.00{usual}"))
        rows.append(("other words' attention, relative", _percent(self.kept), f"{_percent(1)}{left}"))
        if self.likeness:
            own, its = (f"{likeness:.3f}" for likeness in self.likeness)
            rows.append(("image similarity to your pictures", own + ", no more than its class word" * self.unlike, its))
        return rows

    def to_json(self) -> str:
        derived = {name: getattr(self, name) for name in ("dominance", "usual", "kept")}
        return json.dumps({**asdict(self), **derived, "verdict": self.verdict()}, indent=1)

    def verdict(self) -> str:
        """Two sentences on the attention, which warn only of what ordinary words do, too, when they are written several times;
        and one on images that are unlike the concept."""
        part = self.dominance / self.usual
        compared = "about as much as" if abs(part - 1) <= SAME_DOMINANCE else "more than" if part > 1 else "less than"
        its = f'"{self.class_word}" written {self.vectors} times' if self.vectors > 1 else "a word of one vector"
        if self.dominance > HIGH_DOMINANCE:
            outlook = "Things beside it may be lost."
        else:
            outlook = "How it composes, only images can tell."
        doubt = (
            f" Your images are no more similar to it than to an ordinary {self.class_word}: see that they show the concept, and that "
            "the embedding alone renders it."
        )
        return (
            f'Beside another word, "{self.name}" gets {self.dominance:.2f} times the attention share of "{self.class_word}", {compared} '
            f"{its}; the other word keeps {self.kept:.0%} of its attention. {outlook}{doubt * self.unlike}"
        )


def _listed(nearest: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{word} {likeness:.2f}" for word, likeness in nearest[:3])


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"
