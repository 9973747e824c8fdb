"""Repair: a word that dominates, learnt anew among ordinary words from what the frozen model makes of it; no pictures needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ..anchors import COCO_CATEGORIES, AnchorSet
from ..backbone import Encoded
from ..concept import Concept
from ..prompts.templates import OBJECT_TEMPLATES
from ..prompts.vocabulary import Vocabulary
from ..report import Attention, dominance, kept
from ..training.loop import Checkpoint, Recipe, Vectors
from . import text_encoder
from .foreground import find_foreground
from .recovery import without_layout as unheld
from .report import ALONE, NAME, attend, check_concept, one_by_one, other_words, repeating
from .training import LIMITS as TRAINING_LIMITS
from .training import Learning, Lessons

STEPS = 20  # of sampling what the old word renders
LOOK_STEPS, BESIDE = 10, 3  # of what the report looks at, and how many words beside
RECIPE = Recipe(steps=200)
LIMITS = {
    **{name: TRAINING_LIMITS[name] for name in ("vectors", "resolution")},
    "pictures": {"min": 1, "max": 1000},
    "cfg": {"min": 1.0, "max": 30.0},
}
"""Of what a user sets; the resolution is a multiple of 8, too."""


@dataclass(frozen=True)
class Wanted:
    """What becomes of a word; numbers keep to LIMITS.

    Attributes:
        name: the new placeholder.
        class_word: the ordinary word for what it shows; "" for the concept's own, or else one that is found.
        vectors: how many the new word gets.
        resolution: pixels a side of what the old word renders.
        pictures, cfg: how many are sampled, and how.
    """

    name: str
    class_word: str = ""
    vectors: int = 3
    resolution: int = 512
    pictures: int = 16
    cfg: float = 5.0

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            if not limit["min"] <= getattr(self, name) <= limit["max"]:
                raise ValueError(f"{name} is {getattr(self, name)}; {limit['min']} to {limit['max']} is allowed.")
        if self.resolution % 8:
            raise ValueError(f"resolution is {self.resolution}; a multiple of 8 is needed.")


class Repair(Learning):
    """A new word that renders what an old one does, and is held by its class word. What can be refused is refused at once.

    The frozen model is the teacher: on pictures that it paints of the old word with the class word behind it, the new word
    alone must make it predict the same where the thing is. That noun gives back the class to a word that has lost it.

    Args:
        on_sampling: asked with the number of pictures painted so far; what it returns is called at every step of the next.

    Raises:
        ValueError: one sentence on the input that cannot be used.
    """

    def __init__(
        self,
        model: Any,
        clip: Any,
        old: Concept,
        wanted: Wanted,
        recipe: Recipe,
        on_sampling: Callable[[int], Any] = lambda _: None,
    ):
        with torch.inference_mode(False):
            text_encoder.check_width(clip, old)
            check_concept(old)
            word = wanted.class_word or old.class_word or likely_class(clip, old)
            text_encoder.check_class_word(clip, word, old)
            anchors = AnchorSet(word, (word,), (1.0,)) if recipe.anchor_weight else None
            super().__init__(model, clip, wanted.name, word, wanted.vectors, anchors, recipe)
            self.old, self.wanted, self.on_sampling = old, wanted, on_sampling
            self.before: Vectors = {key: old.vectors[key].detach().float().cpu().clone() for key in self.encoders}
            counts = {key: len(vectors) for key, vectors in self.before.items()}
            self.taught = text_encoder.prepare(self.clip, _prompts(wanted.name, word), wanted.name, counts)
            self.prepared = text_encoder.prepare(self.clip, _prompts(wanted.name), wanted.name, self.counts)

    def lessons(self) -> Lessons:
        latents = self._paint()
        masks = find_foreground(self.model, self.clip, self.schedule, latents, self.class_word, self.recipe.seed)
        prompts = torch.arange(len(OBJECT_TEMPLATES)).expand(len(latents), -1)
        self.taught = self.taught.on(self.clip.patcher.load_device)
        return Lessons(latents, prompts, masks, self._teach)

    @torch.no_grad()
    def _teach(self, indices: list[int]) -> Encoded:
        return text_encoder.encode_batch(self.clip, self.taught, indices, self.before)

    def _paint(self) -> Tensor:
        """What the old word renders: latents (N, C, h, w) as the UNet sees them."""
        wanted, painted = self.wanted, list[Tensor]()
        texts = _prompts(wanted.name, self.class_word)  # the old name may be one that cannot be typed
        with torch.inference_mode():
            clip = text_encoder.with_concept(self.clip, Concept(wanted.name, self.old.vectors))
            negative = text_encoder.encode(clip, "")
            side = wanted.resolution // 8
            empty = comfy.sample.fix_empty_latent_channels(self.model, torch.zeros(wanted.pictures, 4, side, side))
            noise, free = comfy.sample.prepare_noise(empty, self.recipe.seed), unheld(self.model)
            for start in range(0, wanted.pictures, self.recipe.batch):
                part = noise[start : start + self.recipe.batch]
                encoded = [text_encoder.encode(clip, texts[(start + i) % len(texts)])[0] for i in range(len(part))]
                pooled = torch.cat([extra["pooled_output"] for _, extra in encoded])
                positive = [[torch.cat([cond for cond, _ in encoded]), {"pooled_output": pooled}]]
                latents = comfy.sample.sample(
                    free, part, STEPS, wanted.cfg, "euler", "normal", positive, negative, torch.zeros_like(part),
                    disable_pbar=True, callback=self.on_sampling(start), seed=self.recipe.seed,
                )  # fmt: skip
                painted.append(self.model.model.process_latent_in(latents.float()))
        return torch.cat([part.clone() for part in painted]).to(self.model.load_device)

    def identity(self) -> tuple[object, list[Tensor]]:
        return (self.wanted, self.class_word), list(self.before.values())

    def provenance(self) -> dict[str, str]:
        return {"repaired from": self.old.name}

    @torch.inference_mode()
    def company(self, end: Checkpoint) -> str:
        """What both words do to ordinary ones in a prompt, by the attention that they get; from a few short samplings."""
        name, seed = self.wanted.name, self.recipe.seed  # the old name may be one that cannot be typed
        others = other_words(self.clip, self.class_word, seed, BESIDE)
        if not others:
            return "of attention nothing is said, for the text encoder knows no COCO category to try them beside"
        empty = torch.zeros(1, 4, self.wanted.resolution // 8, self.wanted.resolution // 8)

        def seen(clip: Any, word: str) -> Attention:
            watch = one_by_one(self.model, clip, empty, LOOK_STEPS, self.wanted.cfg)
            return attend(watch, word, self.class_word, others, seed, ALONE[:1])[0]

        def parts(own: Attention) -> str:
            return f"{dominance(own, ordinary):.2f} times as much, and they keep {kept(own, ordinary):.0%}"

        def told(vectors: Vectors) -> str:
            word = Concept(name, {key: value.detach().cpu().clone() for key, value in vectors.items()})
            own = parts(seen(text_encoder.with_concept(self.clip, word), f"embedding:{name}"))
            if word.count == 1:
                return own
            again = seen(repeating(self.clip, self.class_word, word.count), f"embedding:{NAME}")
            return f'{own} ("{self.class_word}" written {word.count} times: {parts(again)})'

        ordinary = seen(self.clip, self.class_word)
        return (
            f'of what "{self.class_word}" takes of the attention beside {", ".join(others)}: {self.old.name} '
            f"{told(self.before)}; {self.placeholder} {told(end.vectors)}"
        )

    def report(self, end: Checkpoint, loss: float) -> str:
        """The class word, both words among the ordinary ones and beside them, and what the last check says."""
        found = not (self.wanted.class_word or self.old.class_word)
        return (
            f'{self.old.name} is repaired as {self.placeholder}; its class word is "{self.class_word}"'
            f"{', found as the ordinary thing nearest to its vectors' if found else ''}.\n"
            f"{self.old.name}: {self.describe(self.before)}\n"
            f"{self.placeholder}: {self.describe(end.vectors)}\n"
            f"{self.company(end)}\n"
            f"of what the class word misses of the old one's predictions, {loss / max(end.before, 1e-12):.0%} is missed still"
        )


def likely_class(clip: Any, concept: Concept) -> str:
    """The everyday thing that is nearest to a concept's vectors. Its nearest word of all is often that of its colour.

    Raises:
        ValueError: it is no nearer than one of as many random vectors with the spread of words would be.
    """
    known = [text_encoder.vocabulary(clip, key) for key in text_encoder.text_encoders(clip)]
    words, *_ = known
    things = [thing for thing in COCO_CATEGORIES if all(thing in vocabulary for vocabulary in known)]
    vectors = concept.vectors[next(iter(text_encoder.text_encoders(clip)))].float().cpu()
    near = _to_things(vectors.mean(dim=0, keepdim=True), words, things)[0].tolist() if things else []
    if not near or max(near) <= _chance(len(vectors), words, things):
        raise ValueError(
            f'No everyday thing is near to "{concept.name}", so what it shows is not known; write one ordinary word for it in '
            'the input "class_word".'
        )
    return things[near.index(max(near))]


def _to_things(vectors: Tensor, words: Vocabulary, things: Sequence[str]) -> Tensor:
    """Cosines (N, T) of vectors (N, E) with things."""
    of_things = torch.stack([words.vector(thing) for thing in things])
    return torch.cosine_similarity(vectors[:, None], of_things[None], dim=-1)


def _chance(count: int, words: Vocabulary, things: Sequence[str]) -> float:
    """The likeness to its nearest thing that a mean of so many random vectors exceeds once in a hundred times.

    They have the mean and the spread of the words, which in CLIP all lean one way.
    """
    noise = torch.randn(1000, words.vectors.shape[1], generator=torch.Generator().manual_seed(0))
    spread, mean = torch.std_mean(words.vectors, dim=0)
    return _to_things(mean + spread * noise / count**0.5, words, things).amax(dim=1).quantile(0.99).item()


def _prompts(name: str, class_word: str = "") -> list[str]:
    return [template.format(f"embedding:{name} {class_word}".rstrip()) for template in OBJECT_TEMPLATES]
