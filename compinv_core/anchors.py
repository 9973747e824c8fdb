"""Semantic inversion: ordinary words that regularise an embedding, so that it stays among the embeddings of ordinary words."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .prompts.vocabulary import Vocabulary
from .sentences import quoted

COCO = tuple(
    "person bicycle car motorcycle airplane bus train truck boat|traffic light|fire hydrant|stop sign|parking meter|"
    "bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis "
    "snowboard|sports ball|kite|baseball bat|baseball glove|skateboard surfboard|tennis racket|bottle|wine glass|cup fork "
    "knife spoon bowl banana apple sandwich orange broccoli carrot|hot dog|pizza donut cake chair couch|potted plant|bed|"
    "dining table|toilet tv laptop mouse remote keyboard|cell phone|microwave oven toaster sink refrigerator book clock "
    "vase scissors|teddy bear|hair drier|toothbrush".replace("\n", " ").split("|")
)
_PHRASES = {
    "traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball", "baseball bat", "baseball glove",
    "tennis racket", "wine glass", "hot dog", "potted plant", "dining table", "cell phone", "teddy bear", "hair drier",
}  # fmt: skip
COCO_CATEGORIES = tuple(name for part in COCO for name in ([part] if part in _PHRASES else part.split()))

# What a word's nearest neighbours differ by in the reconstruction loss, roughly: one spread from the target weighs this much,
# so that equal weights of both losses balance. By estimate the reference's .95 and .05 on SD 1.x come to .1 and .9
# here, for its loss is a mean over 77 positions, nearly all of them 0.
ON_PAR = 1e-3
# The same for text features, of whose angle to the class word's the loss is 1 - cosine.
TEXT_ON_PAR = 1e-1


@dataclass(frozen=True)
class AnchorSet:
    """Ordinary words that regularise an embedding, with their weights.

    Attributes:
        class_word: the word that the concept is a kind of.
        words: the anchors, single words or phrases of words.
        weights: one for each, non-negative, summing to 1.
        learnt: whether the weights are initial values, learnt together with the embedding.
    """

    class_word: str
    words: tuple[str, ...]
    weights: tuple[float, ...]
    learnt: bool = False

    def __post_init__(self) -> None:
        if not self.words or len(self.words) != len(self.weights):
            raise ValueError(f"Anchors need one weight for each word, but got {self.words} and {self.weights}.")
        if min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-4:
            raise ValueError(f"Weights of anchors are 0 or more and sum to 1, but got {self.weights}.")

    def vectors(self, vocabulary: Vocabulary) -> Tensor:
        """(A, E), the anchors' input embeddings."""
        return torch.stack([vocabulary.phrase(word) for word in self.words])


def similarity(a: Tensor, b: Tensor) -> float:
    """Of two vectors (E,), as the cosine of their angle."""
    return torch.cosine_similarity(a, b, dim=0).item()


def weigh(class_word: str, words: tuple[str, ...], vocabulary: Vocabulary, centre: Tensor | None = None) -> AnchorSet:
    """Weights in proportion to the square of each anchor's positive similarity to a centre, which keeps few large.

    Args:
        centre: (E,); the class word's embedding when it is None.

    Raises:
        ValueError: a word that the text encoder does not know whole, or none that is similar.
    """
    centre = vocabulary.vector(class_word) if centre is None else centre
    similarities = [max(0.0, similarity(vocabulary.phrase(word), centre)) for word in words]
    total = sum(s * s for s in similarities)
    if total == 0:
        raise ValueError(
            f'None of the anchors {quoted(", ".join(words))} is similar to "{quoted(class_word)}"; choose words near to it.'
        )
    return AnchorSet(class_word, words, tuple(s * s / total for s in similarities))


def sparsemax(scores: Tensor) -> Tensor:
    """The point of the simplex that is nearest to `scores` (A,): weights many of which are exactly 0.

    Martins & Astudillo (2016), algorithm 1. Weights that lie on the simplex stay as they are.
    """
    descending = scores.sort(descending=True).values
    sums = descending.cumsum(0) - 1
    ranks = torch.arange(1, len(scores) + 1, device=scores.device, dtype=scores.dtype)
    support = (descending * ranks > sums).sum(0, keepdim=True).clamp_min(1)
    return (scores - sums.gather(0, support - 1) / support).clamp_min(0)


def density(weights: Tensor) -> Tensor:
    """How far weights (A,) on the simplex are from a single anchor: 0 for one, 1 - 1/A when all have the same weight."""
    return 1 - weights.square().sum()


def anchor_loss(vectors: Tensor, target: Tensor, spread: float) -> Tensor:
    """Squared distance to the anchor target in units of the vocabulary's own spread.

    Zhang et al. (2024), semantic inversion; the unit makes one weight serve every text encoder.

    Args:
        vectors: (n, E), the placeholder's input embeddings.
        target: (E,).
        spread: `Vocabulary.spread`.

    Returns:
        A scalar: 0 on the target, 1 as far from it as a word is from its neighbours.
    """
    return (vectors - target).square().sum(dim=-1).mean() / spread


def embedded_prompt_loss(vectors: Tensor, target: Tensor, positions: int = 77) -> Tensor:
    """The reference implementation's: a mean over the whole embedded prompt (positions x E), of which only n rows differ."""
    return (vectors - target).square().sum() / (positions * vectors.shape[-1])


def text_feature_loss(learnt: Tensor, ordinary: Tensor) -> Tensor:
    """How far prompts with a placeholder are from the same prompts with its class word, as a text encoder sums them up.

    The semantic preservation loss of ClassDiffusion (Huang et al. 2025), a mean of 1 - cosine.

    Args:
        learnt, ordinary: (B, P), pooled outputs.
    """
    return (1 - torch.cosine_similarity(learnt.float(), ordinary.float(), dim=-1)).mean()
