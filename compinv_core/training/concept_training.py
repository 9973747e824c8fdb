"""Concepts learnt from images: one word or several together, alone or with a change of the model."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone import Backbone, Vectors
from ..concept import check_family
from .checkpoint import Parameters, kept
from .examples import Examples, examples_of, in_latent_cells, notices_of, together, word_of
from .foreground import find_foreground
from .images import training_images
from .preview import Preview, Previewer, companion_of, looks_of
from .recipe import Recipe
from .request import FineTuneRequest, Request
from .run import Material, TrainingRun
from .task import TrainingData
from .ways.fine_tune import FineTune, parametrised
from .ways.textual_inversion import TextualInversion, Word

log = logging.getLogger(__name__)
CLASS_STEPS, CLASS_CFG, CLASS_BATCH = 20, 6.0, 4  # of the sampling of class images
LEAST_MASK = 1.0  # of a mask that hides nothing
DIMMED = 0.2  # brightness of what is not learnt


class ConceptTraining(TrainingRun):
    """Everything that can be refused is refused when it is made, before the first step.

    Args:
        requests: concepts that are learnt together.
        fine_tune: what of the model is learnt as well; None leaves it alone.
        on_drawing: asked with the number of class images that the model has drawn; what it returns is called at every step of the
            next.

    Attributes:
        notices: sentences on what a user may not expect.

    Raises:
        ValueError: one sentence on the input that cannot be used.
    """

    def __init__(
        self,
        backbone: Backbone,
        requests: Sequence[Request],
        recipe: Recipe,
        fine_tune: FineTuneRequest | None = None,
        on_drawing: Callable[[int], Any] = lambda _: None,
    ):
        with torch.inference_mode(False):
            self.requests, self.fine_tune, self.on_drawing = tuple(requests), fine_tune, on_drawing
            _check_names(self.requests)
            words = [_word(backbone, request) for request in self.requests]
            self.examples = [examples_of(request, recipe.seed) for request in self.requests]
            self.notices = [
                notice
                for request, examples in zip(self.requests, self.examples, strict=True)
                for notice in notices_of(backbone.family, request, examples.sizes)
            ]
            for notice in self.notices:
                log.info(notice)
            counts = {word.name: len(next(iter(word.start.values()))) for word in words}
            named = [
                (prompt, r.name) for r, e in zip(self.requests, self.examples, strict=True) for prompt in e.prompts
            ]
            ordinary = tuple(prompt for examples in self.examples for prompt in examples.ordinary)
            of_words = TextualInversion(backbone, tuple(words), backbone.prepare(named, counts), ordinary)
            way = None
            if fine_tune is not None:
                way = FineTune(of_words, parametrised(backbone, fine_tune.what, fine_tune.rank), recipe.seed)
            super().__init__(backbone, of_words, recipe, way=way, prior=fine_tune and fine_tune.made_prior())
            self.fitting = together([examples.fitting for examples in self.examples])
            self.previewer = self._previewer(counts)
            self.foregrounds: list[Tensor | None] = [None] * len(self.requests)
            self._check_prior_images()

    @property
    def companion(self) -> str:
        """What the first concept is previewed beside."""
        return self.previewer.companion

    def material(self, file: Path | None = None) -> Material:
        latents = [self.backbone.encode_images(examples.images[..., :3]) for examples in self.examples]
        class_data = self._class_data(file)
        if self.prior.needs_base_loss or class_data is not None or self.recipe.anchor_loss == "text features":
            self.of_words.encode_ordinary([0])
        self.backbone.load()
        masks = [self._masks(i, own) for i, own in enumerate(latents)]
        merged = None
        if any(mask is not None for mask in masks):
            shapes = [(len(own), 1, *own.shape[2:]) for own in latents]
            pairs = zip(masks, shapes, strict=True)
            merged = torch.cat([latents[0].new_ones(shape) if mask is None else mask for mask, shape in pairs])
        return Material(TrainingData(torch.cat(latents), self.fitting, merged), class_data)

    def identity(self) -> tuple[object, list[Tensor]]:
        # what the word is held to: prompts with the class word, or its direction
        ordinary = self.recipe.anchor_loss == "text features" or self.recipe.optimizer == "sphere"
        settings = [
            (
                request.kind,
                tuple(request.prompts),
                (request.class_word_too or request.ignore_background or ordinary) and request.class_word,
                request.ignore_background,
            )
            for request in self.requests
        ]
        tensors = [examples.images for examples in self.examples] + [self.fitting]
        if self.fine_tune is None:
            return settings, tensors
        given = list(self.fine_tune.prior_images or [])
        return (settings, self.classes, replace(self.fine_tune, prior_images=None)), [*tensors, *given]

    def provenance(self) -> dict[str, str]:
        return {"pictures": str(sum(examples.count for examples in self.examples))}

    @property
    def classes(self) -> list[str]:
        return [request.class_word for request in self.requests]

    def learnt(self, number: int = 0) -> Tensor:
        """(N, H, W) in 0..1, what of each of a concept's images was learnt."""
        examples, foreground = self.examples[number], self.foregrounds[number]
        masks = examples.images[: examples.count, ..., 3]
        if foreground is None:
            return masks
        return masks * F.interpolate(foreground[None], size=masks.shape[1:], mode="bilinear")[0]

    def learnt_in_images(self) -> Tensor:
        """(N, H, W, 3) in 0..1, the first concept's images, dimmed where nothing is learnt of them."""
        examples = self.examples[0]
        return examples.images[: examples.count, ..., :3] * (DIMMED + (1 - DIMMED) * self.learnt().cpu()[..., None])

    def preview(self, parameters: Parameters) -> Preview:
        """What the concept gives as it is learnt so far."""
        self.backbone.load()
        here = {name: value.to(self.backbone.device) for name, value in parameters.items()}
        with torch.inference_mode(), self.backbone.changed(self.way.changes(here)):
            return self.previewer.preview(self.way.words(here))

    def _masks(self, number: int, latents: Tensor) -> Tensor | None:
        """Masks (M, 1, h, w) of what a concept's images and their variants show of it; the images' are kept in `foregrounds`."""
        request, examples = self.requests[number], self.examples[number]
        masks = None
        if examples.images[..., 3].min() < LEAST_MASK:
            masks = in_latent_cells(examples.images[..., 3], self.backbone.family.stride).to(latents.device)
        if not request.ignore_background or request.masks or request.kind != "object":
            return masks
        found = find_foreground(self.backbone, latents, request.class_word, self.recipe.seed, self.on_finding)
        if found is None:
            return masks
        self.foregrounds[number] = found[: examples.count, 0].cpu()
        return found if masks is None else found * masks

    def _class_data(self, file: Path | None) -> TrainingData | None:
        """Images of each class, given or drawn by the model, with the prompts that its training has."""
        if self.fine_tune is None or not self.prior.weight:
            return None
        given = self.fine_tune.prior_images
        if given is not None:
            latents = self.backbone.encode_images(training_images(given, self.requests[0].resolution))
        elif file is None:
            latents = self._drawn()
        else:
            latents = kept(file, self._answer(), self._drawn).to(self.backbone.device)
        each = len(latents) // len(self.requests)
        tables = [torch.arange(len(examples.prompts)).expand(each, -1) for examples in self.examples]
        return TrainingData(latents, together(tables))

    def _class_noise(self) -> Tensor:
        assert self.fine_tune is not None
        side = self.requests[0].resolution // self.backbone.family.stride
        shape = (self.fine_tune.prior_count, self.backbone.family.channels, side, side)
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.recipe.seed))

    def _answer(self) -> Tensor:
        """What the model predicts for the first class image's noise, by which those that were drawn before are known as its own."""
        prompt = self.backbone.encode_text(self.examples[0].ordinary[0])
        self.backbone.load()
        noise, middle = self._class_noise()[:1], torch.tensor([len(self.backbone.schedule.alphas_cumprod) // 2])
        device = self.backbone.device
        return self.backbone.predict(noise.to(device), middle.to(device), prompt.to(device)).float()

    def _drawn(self) -> Tensor:
        """Latents of each class that the model draws itself."""
        return torch.cat([self._drawn_of(examples) for examples in self.examples])

    def _drawn_of(self, examples: Examples) -> Tensor:
        noise = self._class_noise()
        count = len(noise)  # the same for each class
        texts = [examples.ordinary[i % len(examples.ordinary)] for i in range(count)]
        found: list[Tensor] = []
        for start in range(0, count, CLASS_BATCH):
            part = slice(start, start + CLASS_BATCH)
            found.append(
                self.backbone.sample(
                    texts[part], [], noise[part],
                    steps=CLASS_STEPS, cfg=CLASS_CFG, seed=self.recipe.seed, on_step=self.on_drawing(start),
                )
            )  # fmt: skip
        return torch.cat(found)

    def _previewer(self, counts: dict[str, int]) -> Previewer:
        """Of the user's prompts, or of one concept alone and in company; of several, each alone."""
        first = self.requests[0]
        companion = companion_of(first, lambda word: word in next(iter(self.backbone.vocabularies.values())))
        words = [word_of(request) for request in self.requests]
        looks, shown = looks_of(self.requests, words, companion)
        names = [
            [name for name in counts if re.search(rf"embedding:{re.escape(name)}(?![\w-])", text)] for text in looks
        ]
        prepared = self.backbone.prepare(
            [(text, own[0]) for text, own in zip(looks, names, strict=True)], counts, [own[1:] for own in names]
        )
        return Previewer(
            self.backbone, first, words, companion=companion, prepared=prepared, shown=shown, seed=self.recipe.seed
        )

    def _check_prior_images(self) -> None:
        if self.fine_tune is not None and self.fine_tune.prior_images is not None:
            training_images(self.fine_tune.prior_images, self.requests[0].resolution)
            if len(self.classes) > 1:
                raise ValueError(
                    f'The input "prior_images" is of one class, but {" and ".join(self.classes)} are learnt together; disconnect '
                    "it, then the model samples images of each."
                )


def _check_names(requests: Sequence[Request]) -> None:
    names = [request.name for request in requests]
    if len(set(names)) < len(names):
        raise ValueError(f'The placeholder "{names[0]}" is given twice; each concept needs its own.')
    if len({request.resolution for request in requests}) > 1:
        raise ValueError("Concepts that are learnt together need one resolution.")


def _word(backbone: Backbone, request: Request) -> Word:
    """Where the search for a word starts."""
    vocabularies = backbone.vocabularies
    classes = {key: known.vector(request.class_word, '"class_word"') for key, known in vocabularies.items()}
    if request.start_from is not None:
        check_family(request.start_from, {key: vector.shape[0] for key, vector in classes.items()})
        start: Vectors = {key: request.start_from.vectors[key].float().cpu().clone() for key in classes}
        return Word(request.name, request.class_word, start, request.anchors)
    begin = classes
    if request.start_word:
        begin = {key: known.vector(request.start_word, '"start_word"') for key, known in vocabularies.items()}
    repeated = {key: vector.repeat(request.vectors, 1) for key, vector in begin.items()}
    return Word(request.name, request.class_word, repeated, request.anchors)
