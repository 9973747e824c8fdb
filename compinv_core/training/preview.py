"""A look at what is learnt while it is learnt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..backbone import Backbone, Encoded, PreparedPrompts, Vectors
from ..concept import Concept
from .examples import filled
from .objective import sample
from .request import TEMPLATES, Request

PREVIEW_STEPS, PREVIEW_CFG = 12, 4.0
MOST_PREVIEWS = 4  # prompts of a user's
LEVELS = (0.25, 0.5, 0.75)  # of the schedule, where a preview's attention is looked at
COMPANIONS = ("car", "cat", "cup")


@dataclass(frozen=True)
class Preview:
    """What a concept gives while it is learnt.

    Attributes:
        images: (N, H, W, 3) in 0..1, of the user's prompts, or of it alone and beside another thing.
        dominance: how much of the attention of both it takes there, over what its class word takes in its place; a glimpse of
            Concept Report's index. None where there is no ordinary thing beside it.
    """

    images: Tensor
    dominance: float | None


@dataclass(frozen=True, eq=False)
class Previewer:
    """Draws previews of the first concept of a run.

    Attributes:
        words: how prompts write the placeholders, the first one's first.
        prepared: the prompts that are looked at; the last is of the concept beside its companion, where the two are compared.
        shown: how many of these images are shown.
    """

    backbone: Backbone
    request: Request
    words: Sequence[str]
    companion: str
    prepared: PreparedPrompts
    shown: int
    seed: int

    def preview(self, vectors: dict[str, Vectors]) -> Preview:
        """What these vectors give alone, and beside another thing."""
        with torch.inference_mode():
            empty = self.backbone.encode_text("")
            self.backbone.load()  # that may have taken the UNet's memory
            count = len(self.prepared.placeholders)
            prompts = self.backbone.encode(self.prepared, range(count), vectors)
            empty = empty.to(prompts.context.device).expand(count)
            side = self.request.resolution // self.backbone.family.stride
            generator = torch.Generator().manual_seed(self.seed)
            noise = torch.randn(count, self.backbone.family.channels, side, side, generator=generator)
            noise = noise.to(self.backbone.device)
            size = max(1, self.backbone.max_batch(noise) // 2)  # each is asked for with and without its prompt
            noises = cast("tuple[Tensor, ...]", noise.split(size))
            asked = zip(noises, prompts.split(size), empty.split(size), strict=True)
            parts = [self._sampled(*part) for part in asked]
            latents = torch.cat(parts)
            dominance = None
            if self.compares:
                dominance = self._dominance(vectors[self.request.name], latents[-1:], noise[-1:])
            return Preview(self.backbone.decode_latents(latents[: self.shown]), dominance)

    @property
    def compares(self) -> bool:
        return comparable(self.request, self.companion, len(self.words))

    def _sampled(self, noise: Tensor, prompts: Encoded, empty: Encoded) -> Tensor:
        return sample(
            self.backbone.predict, self.backbone.schedule, noise,
            prompts=prompts, empty=empty, steps=PREVIEW_STEPS, cfg=PREVIEW_CFG,
        )  # fmt: skip

    def _dominance(self, vectors: Vectors, latents: Tensor, noise: Tensor) -> float:
        """The part that the word takes of its own and its companion's attention, over what its class word takes in its place.

        Args:
            latents, noise: (1, C, h, w), of an image of both, and what it is noised by.
        """
        concept = Concept(self.request.name, {key: value.detach().float().cpu() for key, value in vectors.items()})
        schedule = self.backbone.schedule
        timesteps = (torch.tensor(LEVELS) * len(schedule.alphas_cumprod)).long().to(latents.device)
        noisy = schedule.noisy(latents, noise, timesteps)

        def share(word: str) -> float:
            prompt = beside(self.request, word, self.companion)
            own, other = self.backbone.columns(prompt, [word, self.companion], [concept])
            asked = self.backbone.encode_text(prompt, [concept]).to(latents.device)
            self.backbone.load()
            maps = self.backbone.attention_to(asked, [*own, *other], noisy, timesteps)
            shares = torch.stack([m.float().mean((0, 2, 3)) for m in maps]).mean(0)
            return (shares[: len(own)].sum() / shares.sum()).item()

        return share(self.words[0]) / share(self.request.class_word)


def comparable(request: Request, companion: str, count: int) -> bool:
    """Whether what the first of so many concepts takes of the attention can be told from an image with its companion."""
    return count == 1 and request.kind == "object" and companion != request.class_word


def looks_of(requests: Sequence[Request], words: Sequence[str], companion: str) -> tuple[list[str], int]:
    """The prompts of previews, and how many of them are shown.

    The user's own; without any one concept alone and beside its companion, or each of several alone.

    Args:
        words: how prompts write the placeholders.

    Raises:
        ValueError: too many prompts, or one without one place for the placeholder.
    """
    first = requests[0]
    asked = first.preview_prompts
    if len(asked) > MOST_PREVIEWS:
        raise ValueError(f'The input "preview_prompts" has {len(asked)} lines; {MOST_PREVIEWS} or fewer are allowed.')
    looks = [filled(prompt, words[0]) for prompt in asked]
    looks = looks or [alone(request, word) for request, word in zip(requests, words, strict=True)]
    shown = len(looks)
    if comparable(first, companion, len(requests)) or (len(requests) == 1 and not asked):
        looks.append(beside(first, words[0], companion))
        shown += not asked
    return looks, shown


def alone(request: Request, word: str) -> str:
    return TEMPLATES[request.kind][0].format(word)


def beside(request: Request, word: str, companion: str) -> str:
    return f"{alone(request, word)} and a {companion}"


def companion_of(request: Request, known: Callable[[str], bool]) -> str:
    """An ordinary word to preview a concept beside."""
    taken = (request.class_word, request.name)  # "embedding:car and a car" could not be told apart
    return next((word for word in COMPANIONS if word not in taken and known(word)), request.class_word)
