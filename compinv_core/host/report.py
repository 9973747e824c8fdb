"""A concept's report from a MODEL and a CLIP: words are watched while they are sampled, the concept as its class word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..anchors import COCO_CATEGORIES
from ..concept import Concept
from ..report import Attention, Report, entropy, standing
from .attention import Capture, guided_blocks, watch
from .recovery import KEY, check_fit, without_layout
from .text_encoder import (
    check_class_word,
    check_width,
    check_word,
    columns_in_turn,
    encode,
    text_encoders,
    vocabulary,
    with_concept,
)

ALONE = ("a photo of {}", "a picture of {}", "a rendering of {}")
OTHERS = 4  # words that a concept is tried beside
MOST = 64  # vectors
NAME = "compinv-reported"  # in prompts of the report, for a file's name may hold spaces


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Seen:
    """Pictures, and what their subjects got of the attention on the way: means over the blocks and cells.

    Attributes:
        shares: (T, B, S) in 0..1, how much of a step's attention went to a subject's tokens, of all tokens' 1.
        entropies: (T, B, S) in 0..1, how widely it was spread.
        latents: (B, C, h, w), finished.
    """

    shares: Tensor
    entropies: Tensor
    latents: Tensor


def observe(
    model: Any,
    clip: Any,
    prompts: Sequence[tuple[str, Sequence[str]]],
    latent: Tensor,
    seed: int,
    steps: int,
    cfg: float,
) -> Seen:
    """Sample prompts, one picture of each, and watch their subjects. A layout that the MODEL is held to is left out.

    Args:
        prompts: B texts, each with its subjects in their order; of all, the subjects' tokens stand in the same places.
        latent: (1, C, h, w), an empty latent of the size wanted.
    """
    written = [encode(clip, text) for text, _ in prompts]
    places = {tuple(columns_in_turn(clip, text, of)) for text, of in prompts}
    assert len(places) == 1
    (columns,) = places
    check_fit(model, written[0])
    blocks = guided_blocks(model, *latent.shape[-2:])
    shares: list[Tensor] = []
    entropies: list[Tensor] = []

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None) -> Tensor:
        (cond,) = executor.class_obj.conds["positive"]
        looked_at = [column for own in columns for column in own]
        capture = Capture(blocks, cond["uuid"], looked_at, cond["cross_attn"].shape[1])
        result = executor(x, timestep, watch(model_options, [capture], stop=False), seed)
        if capture.maps:  # packs that save time leave blocks out of some steps
            of_words = [_by_subject(maps, columns) for maps in capture.maps.values()]
            shares.append(torch.stack([maps.mean((-2, -1)) for maps in of_words]).mean(0))
            entropies.append(torch.stack([entropy(maps) for maps in of_words]).mean(0))
        return result

    watching = without_layout(model)
    watching.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, wrapper)
    latent = comfy.sample.fix_empty_latent_channels(model, latent).repeat(len(prompts), 1, 1, 1)
    noise = comfy.sample.prepare_noise(latent, seed)
    positive, negative = [_joined(written)], encode(clip, "")
    latents = comfy.sample.sample(
        watching, noise, steps, cfg, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=seed
    )
    return Seen(torch.stack(shares).cpu(), torch.stack(entropies).cpu(), latents)


def _by_subject(maps: Tensor, columns: Sequence[Sequence[int]]) -> Tensor:
    """(B, P, h, w) of columns -> (B, S, h, w) of subjects, their tokens summed."""
    own = maps.float().split([len(of_one) for of_one in columns], dim=1)
    return torch.stack([part.sum(dim=1) for part in own], dim=1)


def _joined(written: Sequence[Any]) -> list[Any]:
    """Conditionings of one prompt each as one of a batch."""
    entries = [entry for ((entry, _),) in written]
    pooled = [rest["pooled_output"] for ((_, rest),) in written]
    return [torch.cat(entries), {**({"pooled_output": torch.cat(pooled)} if pooled[0] is not None else {})}]


Watch = Callable[[Sequence[tuple[str, Sequence[str]]], int], Seen]
"""`observe` with a model and a size: (prompts, seed) -> what was seen."""


def one_by_one(
    model: Any, clip: Any, latent: Tensor, steps: int, cfg: float, each: Callable[[], None] = lambda: None
) -> Watch:
    """Of pictures one after the other, for a batch might not fit where a picture does; `each` is called after each."""

    def watch_prompts(prompts: Sequence[tuple[str, Sequence[str]]], first: int) -> Seen:
        seen: list[Seen] = []
        for i, prompt in enumerate(prompts):
            seen.append(observe(model, clip, [prompt], latent, first + i, steps, cfg))
            each()
        shares, entropies = (torch.cat([getattr(one, name) for one in seen], dim=1) for name in ("shares", "entropies"))
        return Seen(shares, entropies, torch.cat([one.latents for one in seen]))

    return watch_prompts


def attend(
    watch_prompts: Watch,
    word: str,
    class_word: str,
    others: Sequence[str],
    seed: int,
    alone: Sequence[str] = ALONE,
) -> tuple[Attention, Tensor, Tensor]:
    """What a word, as prompts write it, gets of the attention alone and beside ordinary words of one token.

    Args:
        class_word: whose article the word takes.
        alone: prompts about the word, {} where it goes.

    Returns:
        It, and the pictures of both kinds as latents (B, C, h, w).
    """
    named = f"{article(class_word)} {word}"
    single = watch_prompts([(template.format(named), [word]) for template in alone], seed)
    pairs = [(f"a photo of {named} and {article(other)} {other}", [word, other]) for other in others]
    beside = watch_prompts(pairs, seed + len(ALONE))
    attention = Attention(
        share=single.shares.mean().item(),
        entropy=single.entropies.mean().item(),
        beside={other: tuple(of_two) for other, of_two in zip(others, beside.shares.mean(0).tolist(), strict=True)},
    )
    return attention, single.latents, beside.latents


@dataclass(frozen=True)
class Painted:
    """Latents (B, C, h, w) that a report rests on, alone and beside the other words, the same noise for both words."""

    alone: Tensor
    beside: Tensor


def repeating(clip: Any, word: str, count: int) -> Any:
    """A CLIP in which NAME is an ordinary word, so many times: what a word of so many vectors takes with nothing learnt."""
    again = {key: vocabulary(clip, key).vector(word).repeat(count, 1) for key in text_encoders(clip)}
    return with_concept(clip, Concept(NAME, again))


def pictures_of(concept: Concept, others: Sequence[str]) -> int:
    """How many pictures a report takes."""
    again = 1 + len(others) if concept.count > 1 else 0
    return 2 * (len(ALONE) + len(others)) + again


def report_concept(
    model: Any,
    clip: Any,
    concept: Concept,
    class_word: str,
    others: Sequence[str],
    latent: Tensor,
    seed: int,
    steps: int,
    cfg: float,
    each: Callable[[], None],
) -> tuple[Report, Painted, Painted]:
    """The figures, and the pictures of the concept and of its class word.

    Args:
        others: ordinary words that both are asked for with.
        latent: (1, C, h, w), an empty latent of the size wanted.
        each: called after each picture; there are `pictures_of` them.

    Raises:
        ValueError: a concept for other models, too long for a prompt or of zeros alone, or a word that is not one word.
    """
    check_concept(concept)
    check_width(clip, concept)
    check_class_word(clip, class_word, concept)
    for word in others:
        check_word(clip, word, '"beside"')
    knowing = with_concept(clip, replace(concept, name=NAME, class_word=class_word))
    vocabularies = {key: vocabulary(clip, key) for key in text_encoders(clip)}
    standings = {
        key: (standing(concept.vectors[key], known), standing(known.vector(class_word)[None], known))
        for key, known in vocabularies.items()
    }

    watch_prompts = one_by_one(model, knowing, latent, steps, cfg, each)
    attention, *own = attend(watch_prompts, f"embedding:{NAME}", class_word, others, seed)
    ordinary, *theirs = attend(watch_prompts, class_word, class_word, others, seed)
    count, repeated = concept.count, ordinary
    if count > 1:
        watch_again = one_by_one(model, repeating(clip, class_word, count), latent, steps, cfg, each)
        repeated, *_ = attend(watch_again, f"embedding:{NAME}", class_word, others, seed, ALONE[:1])
    report = Report(concept.name, class_word, standings, count, attention, ordinary, repeated)
    return report, Painted(*own), Painted(*theirs)


def check_concept(concept: Concept) -> None:
    """Raises ValueError when there is nothing in a concept, or too much for a prompt about two things."""
    count = concept.count
    if count > MOST:
        raise ValueError(
            f'The concept "{concept.name}" has {count} vectors; at most {MOST} are allowed, for a prompt of one chunk '
            "must hold it and another thing."
        )
    if not any(vectors.any() for vectors in concept.vectors.values()):
        raise ValueError(
            f'The concept "{concept.name}" is all zeros; an embedding that was trained is needed, for it says nothing.'
        )


def other_words(clip: Any, class_word: str, seed: int, count: int = OTHERS) -> list[str]:
    """COCO categories of one word that every text encoder knows, drawn by a seed; none where it knows none."""
    vocabularies = [vocabulary(clip, key) for key in text_encoders(clip)]
    known = [word for word in COCO_CATEGORIES if word != class_word and all(word in one for one in vocabularies)]
    return Random(seed).sample(known, min(count, len(known)))


def likeness(vision: Any, pictures: Tensor, others: Tensor) -> float:
    """Of two sets of pictures (N, H, W, 3) and (M, H, W, 3): the mean cosine of a CLIP_VISION's features of all pairs."""
    one, two = (
        torch.nn.functional.normalize(vision.encode_image(p)["image_embeds"].float(), dim=-1)
        for p in (pictures, others)
    )
    return (one @ two.T).mean().item()
