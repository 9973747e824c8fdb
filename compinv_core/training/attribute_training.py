"""Attributes of a concept learnt from images: its colour, style, object and layout, or a word for each block or stage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..anchors import AnchorSet
from ..backbone import Backbone
from ..concept import Concept, mean_of
from ..prompts.attributes import filled_in
from ..reading.table import MATTE, ROLES, Table, per_layer, per_stage, stage_of
from .checkpoint import Checkpoint, Parameters
from .examples import examples_of, in_latent_cells, notices_of
from .foreground import find_foreground
from .objective import sample
from .palette import colour_words
from .preview import PREVIEW_CFG, PREVIEW_STEPS
from .recipe import Recipe
from .request import Request
from .run import Material, TrainingRun
from .task import TrainingData
from .ways.attributes import Acting, Attributes, combinations
from .ways.textual_inversion import TextualInversion, Word

Kind = Literal["colour, style, object, layout", "per layer (P+)", "per stage (ProSpect)"]
KINDS = get_args(Kind)
MOST_IMAGES = 5
LAYOUT_WORD = "photo"  # a neutral one, where the search for a layout starts


@dataclass(frozen=True)
class AttributeRequest:
    """What is learnt of a concept.

    Attributes:
        request: its name, class word and images; its prompts are the kind "object" 's.
        kind: which attributes it has.
        table: where colour, style, object and layout act; an attribute without cells is not learnt.
        colour_words: the true colours, separated by commas; "" finds them in the images.
        style_word: the ordinary word that the search for a style starts from.
        colour_style, object_class: whether each of MATTE's two losses is there.
    """

    request: Request
    kind: Kind = KINDS[0]
    table: Table = MATTE
    colour_words: str = ""
    style_word: str = "style"
    colour_style: bool = True
    object_class: bool = True

    def __post_init__(self) -> None:
        count = sum(len(batch) for batch in self.request.images)
        if count > MOST_IMAGES:
            raise ValueError(
                f'The input "images" holds {count} images; 1 to {MOST_IMAGES} are allowed, with the attributes in common.'
            )
        if self.kind not in KINDS:
            raise ValueError(f'"attributes" is "{self.kind}"; {", ".join(KINDS)} are allowed.')
        unknown = [name for name in self.table.lines if name not in ROLES]
        if unknown:
            raise ValueError(f'The table of cells has a line for "{unknown[0]}"; {", ".join(ROLES)} are learnt.')


class AttributeTraining(TrainingRun):
    """Everything that can be refused is refused when it is made, before the first step.

    Attributes:
        cells: where each attribute acts, as a table.
        attributes: the way.
        notices: sentences on what a user may not expect.

    Raises:
        ValueError: one sentence on the input that cannot be used.
    """

    def __init__(self, backbone: Backbone, asked: AttributeRequest, recipe: Recipe):
        with torch.inference_mode(False):
            self.asked, self.request, self.backbone, self.recipe = asked, asked.request, backbone, recipe
            self.cells = _table(backbone, asked)
            cells = self.cells.on(backbone.outline)
            if not any(cells.of.values()):
                raise ValueError("The table of cells leaves no attribute any cell; give at least one some blocks.")
            self.examples = examples_of(self.request, recipe.seed)
            self.notices = notices_of(backbone.family, self.request, self.examples.sizes)
            for known in backbone.vocabularies.values():
                known.vector(self.request.class_word, '"class_word"')
            words = [self._word(attribute) for attribute in self.cells.lines]
            names = {attribute: f"{self.request.name}-{attribute}" for attribute in self.cells.lines}
            self._texts: list[tuple[str, Acting]] = []
            places: dict[tuple[int, Acting], int] = {}
            alone = [acting for name in names for acting in combinations(cells, backbone.outline, [name])]
            for number in range(len(self.examples.prompts)):
                acting = combinations(cells, backbone.outline)
                wanted = [*acting, *alone] if number == 0 else acting
                for own in dict.fromkeys(wanted):
                    places[number, own] = len(self._texts)
                    self._texts.append((self._written(number, own), own))
            prompts = [(text, names[own[0]]) for text, own in self._texts]
            others = [[names[attribute] for attribute in own[1:]] for _, own in self._texts]
            counts = {word.name: len(next(iter(word.start.values()))) for word in words}
            prepared = backbone.prepare(prompts, counts, others)
            of_words = TextualInversion(backbone, tuple(words), prepared, tuple(self.examples.ordinary))
            held = recipe.anchor_weight > 0
            losses = {"colour_style": held and asked.colour_style, "object_class": held and asked.object_class}
            self.attributes = Attributes(of_words, names, cells, places, **losses)
            super().__init__(backbone, of_words, recipe, way=self.attributes)

    def material(self, file: Path | None = None) -> Material:
        latents, masks = self._encoded
        self.way.encode_ordinary([0])
        self.backbone.load()
        count, cells = len(self.backbone.schedule.alphas_cumprod), self.attributes.cells
        stages = {stage for own in cells.of.values() for _, stage in own}
        met = torch.tensor([t for t in range(count) if stage_of(t / count, cells.cuts) in stages])
        return Material(TrainingData(latents.to(self.backbone.device), self.examples.fitting, masks, met))

    def identity(self) -> tuple[object, list[Tensor]]:
        asked = self.asked
        settings = (
            *(asked.kind, str(self.cells), asked.colour_style, asked.object_class),
            *(self.request.class_word, self.request.ignore_background, tuple(text for text, _ in self._texts)),
        )
        return settings, [self.examples.images, self.examples.fitting]

    def provenance(self) -> dict[str, str]:
        return {"pictures": str(self.examples.count), "learnt": self.asked.kind}

    def anchors_of(self, word: Word, end: Checkpoint) -> str:
        """The words that pull: of colours each vector is held to one of them in full."""
        return ", ".join(word.anchors.words) if word.anchors is not None else "none"

    @property
    def placeholders(self) -> str:
        return self.request.name

    def concepts(self, end: Checkpoint, best: bool = False) -> list[Concept]:
        """The concept with its attributes; what interfaces read that know none is its object, or the mean of all."""
        found = super().concepts(end, best)
        attributes = {name: dict(one.vectors) for name, one in zip(self.cells.lines, found, strict=True)}
        plain = attributes.get("object") or mean_of(list(attributes.values()))
        told = {k: v for k, v in found[0].provenance.items() if k != "anchors"}
        anchors = "; ".join(
            f"{name}: {one.provenance['anchors']}"
            for name, one in zip(attributes, found, strict=True)
            if "anchors" in one.provenance
        )
        vectors = {key: value.clone() for key, value in plain.items()}
        provenance = told | ({"anchors": anchors} if anchors else {})
        return [Concept(self.request.name, vectors, self.request.class_word, provenance, attributes, str(self.cells))]

    @property
    def looks(self) -> list[Sequence[str]]:
        """What the previews show: all attributes together, then each alone; those of blocks and stages only together."""
        each = [[name] for name in self.cells.lines if self.attributes.cells.of[name]]
        return [list(self.cells.lines), *(each if set(self.cells.lines) <= set(ROLES) else [])]

    def preview(self, parameters: Parameters) -> Tensor:
        """(N, H, W, 3) in 0..1, an image for each of `looks`, with the same noise; class words stand for what is left out."""
        here = {name: value.to(self.backbone.device) for name, value in parameters.items()}
        with torch.inference_mode():
            empty = self.backbone.encode_text("").to(self.backbone.device)
            self.backbone.load()
            side = self.request.resolution // self.backbone.family.stride
            generator = torch.Generator().manual_seed(self.recipe.seed)
            noise = torch.randn(1, self.backbone.family.channels, side, side, generator=generator)
            noise = noise.to(self.backbone.device)
            latents = [
                sample(
                    self.backbone.predict, self.backbone.schedule, noise,
                    prompts=lambda t, only=only: self.attributes.encode([0], here, t, only),
                    empty=empty, steps=PREVIEW_STEPS, cfg=PREVIEW_CFG,
                )
                for only in self.looks
            ]  # fmt: skip
            return self.backbone.decode_latents(torch.cat(latents))

    def _word(self, attribute: str) -> Word:
        """Where the search for an attribute starts, and the words that it is held to: of colours a vector for each."""
        class_word, known = self.request.class_word, self.backbone.vocabularies
        begin, anchors = class_word, None
        if attribute == "colour":
            colours = self._colours()
            begin = colours[0]
            anchors = AnchorSet(begin, colours, (1 / len(colours),) * len(colours))
        elif attribute == "style":
            begin = self.asked.style_word
        elif attribute == "layout":
            begin = LAYOUT_WORD
        elif attribute == "object":
            anchors = AnchorSet(class_word, (class_word,), (1.0,))
        where = {"style": '"style_word"', "colour": '"colour_words"', "layout": "the start of a layout"}
        named = where.get(attribute, '"class_word"')
        words = anchors.words if attribute == "colour" and anchors else (begin,) * self.request.vectors
        start = {key: torch.stack([own.vector(word, named) for word in words]) for key, own in known.items()}
        held = self.recipe.anchor_weight > 0 and (
            (attribute == "colour" and self.asked.colour_style) or (attribute == "object" and self.asked.object_class)
        )
        return Word(f"{self.request.name}-{attribute}", begin, start, anchors if held else None)

    def _colours(self) -> tuple[str, ...]:
        """The true colours, each once, as written or as found where the concept is in its images, the most frequent first."""
        written = tuple(dict.fromkeys(word for part in self.asked.colour_words.split(",") if (word := part.strip())))
        for word in written:
            for known in self.backbone.vocabularies.values():
                known.vector(word, '"colour_words"')
        if written:
            return written
        images, count = self.examples.images, self.examples.count
        found = self._foreground
        masks = images[:count, ..., 3]
        if found is not None:
            masks = masks * F.interpolate(found[:count], size=masks.shape[1:], mode="bilinear")[:, 0].cpu()
        vocabularies = self.backbone.vocabularies.values()
        return tuple(
            colour_words(images[:count, ..., :3], masks, lambda word: all(word in known for known in vocabularies))
        )

    @cached_property
    def _encoded(self) -> tuple[Tensor, Tensor | None]:
        """Latents (M, C, h, w), and masks (M, 1, h, w) of what is learnt, or None for all."""
        with torch.inference_mode():
            latents, masks = self._latents, None
            if self.request.masks:
                masks = in_latent_cells(self.examples.images[..., 3], self.backbone.family.stride).to(latents.device)
            elif self.request.ignore_background:
                masks = self._foreground
            return latents, masks

    @cached_property
    def _latents(self) -> Tensor:
        with torch.inference_mode():
            return self.backbone.encode_images(self.examples.images[..., :3])

    @cached_property
    def _foreground(self) -> Tensor | None:
        """(M, 1, h, w) in 0..1 where the concept is, by the model's own attention; None where masks say so, or it is everywhere."""
        if self.request.masks:
            return None
        with torch.inference_mode():
            return find_foreground(
                self.backbone, self._latents, self.request.class_word, self.recipe.seed, self.on_finding
            )

    def _written(self, number: int, acting: Acting) -> str:
        """A training prompt with some attributes; colour stands before the noun in every second, and behind it in the others."""
        name = self.request.name
        template = self.examples.prompts[number].replace(f"embedding:{name}", "{object}")
        words = {attribute: f"embedding:{name}-{attribute}" for attribute in acting}
        if not set(acting) <= set(ROLES):
            return filled_in(template, {"object": words[acting[0]]})
        if number % 2 == 0 and "colour" in acting and "{colour}" not in template:
            template = template.replace("{object}", "{colour} {object}")
        return filled_in(template, {"object": self.request.class_word, **words})


def _table(backbone: Backbone, asked: AttributeRequest) -> Table:
    if asked.kind == "per layer (P+)":
        return per_layer(backbone.outline)
    if asked.kind == "per stage (ProSpect)":
        return per_stage()
    return replace(asked.table, lines={name: own for name, own in asked.table.lines.items() if own})
