"""Repair: an embedding that dominates, learnt anew among ordinary words from what the frozen model makes of it; no images needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..anchors import COCO_CATEGORIES, AnchorSet
from ..backbone import Backbone, Encoded, Vectors
from ..concept import Concept, check_family
from ..prompts.templates import OBJECT_TEMPLATES
from ..prompts.vocabulary import Vocabulary
from ..report.figures import Attention, dominance, kept
from ..report.measuring import (
    ALONE,
    NAME,
    Sampling,
    attend,
    check_class_word,
    check_reportable,
    one_by_one,
    other_words,
    repeating,
    widths_of,
)
from ..sentences import quoted
from .checkpoint import Checkpoint
from .foreground import find_foreground
from .recipe import Recipe
from .request import LIMITS as TRAINING_LIMITS
from .run import Material, TrainingRun
from .task import TrainingData
from .ways.textual_inversion import TextualInversion, Word

STEPS = 20  # of sampling what the old embedding renders
REPORT_SAMPLING_STEPS, BESIDE = 10, 3  # of what the report looks at, and how many words beside
RECIPE = Recipe(steps=200)
LIMITS = {
    **{name: TRAINING_LIMITS[name] for name in ("vectors", "resolution")},
    "pictures": {"min": 1, "max": 1000},
    "cfg": {"min": 1.0, "max": 30.0},
}
"""Of what a user sets; the resolution is a multiple of 8, too."""


@dataclass(frozen=True)
class RepairRequest:
    """What becomes of an embedding; numbers keep to LIMITS.

    Attributes:
        name: the new placeholder.
        class_word: the ordinary word for what it shows; "" for the concept's own, or else one that is found.
        vectors: how many the new word gets.
        resolution: pixels a side of what the old embedding renders.
        pictures, cfg: how many images are sampled, and how.
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


class Repair(TrainingRun):
    """A new word that renders what an old embedding does, regularised by its class word. What can be refused is refused at once.

    The frozen model is the teacher: on images that it renders of the old embedding with the class word behind it, the new word
    alone must make it predict the same where the thing is. That noun gives back the class to an embedding that has lost it.

    Args:
        on_sampling: asked with the number of images rendered so far; what it returns is called at every step of the next.

    Raises:
        ValueError: one sentence on the input that cannot be used.
    """

    def __init__(
        self,
        backbone: Backbone,
        old: Concept,
        request: RepairRequest,
        recipe: Recipe,
        on_sampling: Callable[[int], Any] = lambda _: None,
    ):
        with torch.inference_mode(False):
            check_family(old, widths_of(backbone))
            check_reportable(old)
            word = request.class_word or old.class_word or likely_class(backbone, old)
            check_class_word(backbone, word, old)
            anchors = AnchorSet(word, (word,), (1.0,)) if recipe.anchor_weight else None
            start = {key: known.vector(word).repeat(request.vectors, 1) for key, known in backbone.vocabularies.items()}
            prepared = backbone.prepare(
                [(p, request.name) for p in _prompts(request.name)], {request.name: request.vectors}
            )
            new = Word(request.name, word, start, anchors)
            super().__init__(backbone, TextualInversion(backbone, (new,), prepared), recipe)
            self.old, self.request, self.class_word, self.on_sampling = old, request, word, on_sampling
            self.before: Vectors = {key: old.vectors[key].detach().float().cpu().clone() for key in start}
            taught = [(prompt, request.name) for prompt in _prompts(request.name, word)]
            self.taught = backbone.prepare(taught, {request.name: old.count})

    def material(self, file: Path | None = None) -> Material:
        latents = self._rendered()
        masks = find_foreground(self.backbone, latents, self.class_word, self.recipe.seed, self.on_finding)
        prompts = torch.arange(len(OBJECT_TEMPLATES)).expand(len(latents), -1)
        return Material(TrainingData(latents, prompts, masks), teacher=self._teacher)

    @torch.no_grad()
    def _teacher(self, indices: Sequence[int]) -> Encoded:
        return self.backbone.encode(self.taught, indices, {self.request.name: self.before})

    def _rendered(self) -> Tensor:
        """What the old embedding renders: latents (N, C, h, w) as the UNet sees them."""
        request, family, size = self.request, self.backbone.family, self.recipe.batch
        texts = _prompts(request.name, self.class_word)  # the old name may be one that cannot be typed
        known = [Concept(request.name, self.old.vectors)]
        side = request.resolution // family.stride
        generator = torch.Generator().manual_seed(self.recipe.seed)
        noise = torch.randn(request.pictures, family.channels, side, side, generator=generator)
        found: list[Tensor] = []
        for start in range(0, request.pictures, size):
            part = noise[start : start + size]
            asked = [texts[(start + i) % len(texts)] for i in range(len(part))]
            found.append(
                self.backbone.sample(
                    asked, known, part,
                    steps=STEPS, cfg=request.cfg, seed=self.recipe.seed, on_step=self.on_sampling(start),
                )
            )  # fmt: skip
        return torch.cat(found)

    def identity(self) -> tuple[object, list[Tensor]]:
        return (self.request, self.class_word), list(self.before.values())

    def provenance(self) -> dict[str, str]:
        return {"repaired from": self.old.name}

    @torch.inference_mode()
    def company(self, end: Checkpoint) -> str:
        """What both words do to ordinary ones in a prompt, by the attention that they get; from a few short samplings."""
        name, seed, class_word = self.request.name, self.recipe.seed, self.class_word  # the old name may not be typable
        others = other_words(self.backbone, class_word, seed, BESIDE)
        if not others:
            return "attention was not measured: the text encoder knows no COCO category to write beside the embeddings"
        ordinary = self._attention(None, class_word, others)

        def parts(own: Attention) -> str:
            return f"{dominance(own, ordinary):.2f} times, the others keep {kept(own, ordinary):.0%}"

        def told(vectors: Vectors) -> str:
            word = Concept(name, {key: value.detach().cpu().clone() for key, value in vectors.items()})
            own = parts(self._attention(word, f"embedding:{name}", others))
            if word.count == 1:
                return own
            again = self._attention(repeating(self.backbone, class_word, word.count), f"embedding:{NAME}", others)
            return f'{own} ("{class_word}" written {word.count} times: {parts(again)})'

        learnt = self.way.words(end.parameters)[name]
        return (
            f'attention share beside {", ".join(others)}, relative to "{class_word}": {self.old.name} '
            f"{told(self.before)}; {name} {told(learnt)}"
        )

    def _attention(self, concept: Concept | None, word: str, others: Sequence[str]) -> Attention:
        side, family = self.request.resolution // self.backbone.family.stride, self.backbone.family
        sampling = Sampling(
            (family.channels, side, side), seed=self.recipe.seed, steps=REPORT_SAMPLING_STEPS, cfg=self.request.cfg
        )  # fmt: skip
        watch = one_by_one(self.backbone, [concept] if concept is not None else [], sampling)
        look = partial(attend, watch, word, self.class_word)
        return look(others=others, seed=self.recipe.seed, templates=ALONE[:1])[0]

    def report(self, end: Checkpoint, loss: float) -> str:
        """The class word, both words among the ordinary ones and beside them, and what the last evaluation says."""
        found = not (self.request.class_word or self.old.class_word)
        name = self.request.name
        return (
            f'{self.old.name} is repaired as {name}; its class word is "{self.class_word}"'
            f"{', the COCO category nearest to its vectors' if found else ''}.\n"
            f"{self.old.name}: {self.describe(self.before)}\n"
            f"{name}: {self.describe(self.way.words(end.parameters)[name])}\n"
            f"{self.company(end)}\n"
            f"distillation loss: {loss / max(end.initial_loss, 1e-12):.0%} of the class word's"
        )


def likely_class(backbone: Backbone, concept: Concept) -> str:
    """The everyday thing that is nearest to a concept's vectors. Its nearest word of all is often that of its colour.

    Raises:
        ValueError: it is no nearer than one of as many random vectors with the spread of words would be.
    """
    known = list(backbone.vocabularies.values())
    words, *_ = known
    things = [thing for thing in COCO_CATEGORIES if all(thing in vocabulary for vocabulary in known)]
    vectors = concept.vectors[next(iter(backbone.vocabularies))].float().cpu()
    near = (
        cast("list[float]", _to_things(vectors.mean(dim=0, keepdim=True), words, things)[0].tolist()) if things else []
    )
    if not near or max(near) <= _chance(len(vectors), words, things):
        raise ValueError(
            f'No COCO category is near the vectors of "{quoted(concept.name)}", so its class word is not known; write one ordinary '
            'word in the input "class_word".'
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
