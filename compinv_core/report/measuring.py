"""A concept's report: words are watched while they are sampled, the concept as its class word."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol, cast

import torch
from torch import Tensor

from ..anchors import COCO_CATEGORIES
from ..backbone import Backbone, Observed
from ..concept import Concept, check_family
from ..sentences import quoted
from .figures import Attention, Report, standing

ALONE = ("a photo of {}", "a picture of {}", "a rendering of {}")
OTHERS = 4  # words that a concept is tried beside
MAX_VECTORS = 64
NAME = "compinv-reported"  # in prompts of the report, for a file's name may hold spaces


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


Prompts = Sequence[tuple[str, Sequence[str]]]
"""Texts, each with its subjects in their order."""
Watch = Callable[[Prompts, int], Observed]
"""(prompts, seed of the first) -> what was observed."""


@dataclass(frozen=True)
class Sampling:
    """How a report's images are sampled.

    Attributes:
        shape: (C, h, w) of a latent.
        seed: of the first image's noise.
    """

    shape: tuple[int, int, int]
    seed: int
    steps: int
    cfg: float


def one_by_one(
    backbone: Backbone, concepts: Sequence[Concept], sampling: Sampling, each: Callable[[], None] = lambda: None
) -> Watch:
    """Of images one after the other, for a batch might not fit where an image does; `each` is called after each."""

    def watch_prompts(prompts: Prompts, first: int) -> Observed:
        seen: list[Observed] = []
        for i, (text, subjects) in enumerate(prompts):
            seen.append(
                backbone.observe(
                    text,
                    subjects,
                    concepts,
                    shape=sampling.shape,
                    seed=first + i,
                    steps=sampling.steps,
                    cfg=sampling.cfg,
                )
            )
            each()
        shares, entropies = (torch.cat([getattr(one, name) for one in seen], dim=1) for name in ("shares", "entropies"))
        return Observed(shares, entropies, torch.cat([one.latents for one in seen]))

    return watch_prompts


def attend(
    watch_prompts: Watch,
    word: str,
    class_word: str,
    *,
    others: Sequence[str],
    seed: int,
    templates: Sequence[str] = ALONE,
) -> tuple[Attention, Tensor, Tensor]:
    """What a word, as prompts write it, gets of the attention alone and beside ordinary words of one token.

    Args:
        class_word: whose article the word takes.
        templates: prompts about the word, {} where it goes.

    Returns:
        It, and the pictures of both kinds as latents (B, C, h, w).
    """
    named = f"{article(class_word)} {word}"
    single = watch_prompts([(template.format(named), [word]) for template in templates], seed)
    pairs = [(f"a photo of {named} and {article(other)} {other}", [word, other]) for other in others]
    beside = watch_prompts(pairs, seed + len(ALONE))
    shares = cast("list[list[float]]", beside.shares.mean(0).tolist())
    attention = Attention(
        share=single.shares.mean().item(),
        entropy=single.entropies.mean().item(),
        beside={other: (own, its) for other, (own, its) in zip(others, shares, strict=True)},
    )
    return attention, single.latents, beside.latents


@dataclass(frozen=True)
class Rendered:
    """Latents (B, C, h, w) that a report rests on, alone and beside the other words, the same noise for both words."""

    alone: Tensor
    beside: Tensor


def repeating(backbone: Backbone, word: str, count: int) -> Concept:
    """A concept NAME that is an ordinary word, so many times: what a word of so many vectors takes with nothing learnt."""
    return Concept(NAME, {key: known.vector(word).repeat(count, 1) for key, known in backbone.vocabularies.items()})


def image_count(concept: Concept, others: Sequence[str]) -> int:
    """How many images a report takes."""
    again = 1 + len(others) if concept.count > 1 else 0
    return 2 * (len(ALONE) + len(others)) + again


def report_concept(
    backbone: Backbone,
    concept: Concept,
    class_word: str,
    others: Sequence[str],
    *,
    sampling: Sampling,
    each: Callable[[], None] = lambda: None,
) -> tuple[Report, Rendered, Rendered]:
    """The figures, and the images of the concept and of its class word.

    Args:
        others: ordinary words that both are asked for with.
        each: called after each image; there are `image_count` of them.

    Raises:
        ValueError: a concept for other models, too long for a prompt or of zeros alone, or a word that is not a single token.
    """
    compared = compare(backbone, concept, class_word, others, sampling=sampling, each=each)
    (attention, *own), (ordinary, *theirs), repeated = compared
    standings = {
        key: (standing(concept.vectors[key], known), standing(known.vector(class_word)[None], known))
        for key, known in backbone.vocabularies.items()
    }
    report = Report(
        concept.name, class_word, standings, vectors=concept.count, attention=attention, ordinary=ordinary, repeated=repeated
    )  # fmt: skip
    return report, Rendered(*own), Rendered(*theirs)


Attended = tuple[Attention, Tensor, Tensor]
"""What `attend` returns."""


def compare(
    backbone: Backbone,
    concept: Concept,
    class_word: str,
    others: Sequence[str],
    *,
    sampling: Sampling,
    templates: Sequence[str] = ALONE,
    each: Callable[[], None] = lambda: None,
) -> tuple[Attended, Attended, Attention]:
    """What the concept gets of the attention, what its class word gets, and that when it is written as often as there are vectors.

    Raises:
        ValueError: as `report_concept`.
    """
    check_reportable(concept)
    check_family(concept, widths_of(backbone))
    check_class_word(backbone, class_word, concept)
    for word in others:
        for known in backbone.vocabularies.values():
            known.vector(word, '"beside"')

    def attended(word: str, concepts: Sequence[Concept], templates: Sequence[str]) -> Attended:
        watch_prompts = one_by_one(backbone, concepts, sampling, each)
        return attend(watch_prompts, word, class_word, others=others, seed=sampling.seed, templates=templates)

    own = attended(f"embedding:{NAME}", [replace(concept, name=NAME, class_word=class_word)], templates)
    ordinary = attended(class_word, [], templates)
    if concept.count == 1:
        return own, ordinary, ordinary[0]
    repeated = repeating(backbone, class_word, concept.count)
    return own, ordinary, attended(f"embedding:{NAME}", [repeated], ALONE[:1])[0]


def widths_of(backbone: Backbone) -> dict[str, int]:
    """Text-encoder key -> the width of its input embeddings."""
    return {key: known.vectors.shape[1] for key, known in backbone.vocabularies.items()}


def check_class_word(backbone: Backbone, word: str, concept: Concept) -> None:
    """Raises ValueError unless a class word, which is a node's input or else the concept's own, is a single token."""
    own = word.lower() == concept.class_word.lower()
    brought = f', for this one comes with the concept "{concept.name}"' if own else ""
    for known in backbone.vocabularies.values():
        known.vector(word, f'"class_word"{brought}')


def check_reportable(concept: Concept) -> None:
    """Raises ValueError when there is nothing in a concept, or too much for a prompt about two things."""
    count = concept.count
    if count > MAX_VECTORS:
        raise ValueError(
            f'The concept "{quoted(concept.name)}" has {count} vectors; at most {MAX_VECTORS} are allowed, so that a prompt of one chunk '
            "holds it and another word."
        )
    if not any(vectors.any() for vectors in concept.vectors.values()):
        raise ValueError(
            f'The concept "{quoted(concept.name)}" is all zeros and has no effect; use an embedding that was trained.'
        )


def other_words(backbone: Backbone, class_word: str, seed: int, count: int = OTHERS) -> list[str]:
    """COCO categories of one word that every text encoder knows, drawn by a seed; none where it knows none."""
    vocabularies = backbone.vocabularies.values()
    known = [word for word in COCO_CATEGORIES if word != class_word and all(word in one for one in vocabularies)]
    return Random(seed).sample(known, min(count, len(known)))


class Vision(Protocol):
    """A CLIP vision model, as the host loads it."""

    def encode_image(self, images: Tensor) -> Mapping[str, Tensor]: ...


def likeness(vision: Vision, images: Tensor, others: Tensor) -> float:
    """Of two sets of images (N, H, W, 3) and (M, H, W, 3): the mean cosine of a vision model's features of all pairs."""
    one, two = (
        torch.nn.functional.normalize(vision.encode_image(part)["image_embeds"].float(), dim=-1)
        for part in (images, others)
    )
    return (one @ two.T).mean().item()
