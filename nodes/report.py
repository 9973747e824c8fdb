"""Concept Report: whether an embedding will compose, in figures and images."""

import textwrap
from dataclasses import replace
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont

from ..compinv_core.concept import Concept
from ..compinv_core.host.backbone import ComfyBackbone
from ..compinv_core.report.figures import Report
from ..compinv_core.report.measuring import (
    Rendered,
    Sampling,
    image_count,
    likeness,
    other_words,
    report_concept,
)
from ..compinv_core.training.request import LIMITS
from .pictures import from_image, to_image
from .types import CATEGORY, ConceptType, found_by

TILE, LINE, WIDTHS = 192, 24, (330, 360, 330)
NO_GRID = "No VAE connected: figures only, no images."


class CompInvConceptReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvConceptReport",
            display_name="Concept Report",
            category=CATEGORY,
            **found_by("inspect embedding", "embedding report"),
            description="Measures an embedding against its class word: its distance to the vocabulary, its share of cross-attention beside other "
            "words, and images of both with the same noise.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the concept was trained for. It is not changed."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint. It is not changed."),
                ConceptType.Input(
                    "concept", tooltip="The concept, from Compositional Inversion Train or Load Concept."
                ),
                io.String.Input(
                    "class_word",
                    default="",
                    tooltip="The class word that the concept is compared with. Empty: the concept's own.",
                ),
                io.String.Input(
                    "beside",
                    default="",
                    tooltip="Ordinary words for the two-subject prompts, separated by commas. Empty: four COCO categories, chosen by the "
                    "seed.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    **LIMITS["resolution"],
                    step=8,
                    tooltip="Image size in pixels; use the model's native one: 512 for SD 1.x, 768 for SD 2.x, 1024 for SDXL.",
                ),
                io.Int.Input(
                    "steps", default=20, min=2, max=100, tooltip="Sampling steps per image. Fewer are faster."
                ),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Classifier-free guidance of the images. 1 switches it off.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    **LIMITS["seed"],
                    control_after_generate=False,
                    tooltip="Seed of the noise, the same for the concept and its class word, and of the choice of words when beside is empty.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Decodes the grid of images. Unconnected: figures only."),
                io.Image.Input(
                    "pictures",
                    optional=True,
                    tooltip="Reference images, to measure the similarity of the sampled images to them; needs clip_vision and vae. Unconnected: not measured.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Vision model whose features the similarity is measured with. Unconnected: not measured.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "TABLE", display_name="table", tooltip="All figures, for the concept and for its class word."
                ),
                io.Image.Output(
                    "GRID",
                    display_name="grid",
                    tooltip="Images with the same noise for the concept and its class word, alone and beside other words.",
                ),
                io.String.Output("JSON", display_name="json", tooltip="The figures as JSON, for other nodes."),
                io.String.Output(
                    "VERDICT",
                    display_name="verdict",
                    tooltip="The attention figures in a sentence, with a warning when they are extreme, or when your images are no more similar to the "
                    "concept than to its class.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        concept: Concept,
        class_word: str,
        beside: str,
        resolution: int,
        steps: int,
        cfg: float,
        seed: int,
        vae: Any = None,
        pictures: torch.Tensor | None = None,
        clip_vision: Any = None,
    ) -> io.NodeOutput:
        if pictures is not None and (clip_vision is None or vae is None):
            raise ValueError(
                'The input "pictures" is connected without both "clip_vision" and "vae"; connect them, or disconnect it.'
            )
        class_word = _class_word(concept, class_word)
        backbone = ComfyBackbone(model, clip, vae)
        words = _words_beside(beside, class_word) or other_words(backbone, class_word, seed)
        if not words:
            raise ValueError('The text encoder knows no COCO category; write ordinary words in the input "beside".')
        side = resolution // backbone.family.stride
        sampling = Sampling((backbone.family.channels, side, side), seed=seed, steps=steps, cfg=cfg)
        bar = comfy.utils.ProgressBar(image_count(concept, words))
        report, own, ordinary = report_concept(
            backbone, concept, class_word, words, sampling=sampling, each=lambda: bar.update(1)
        )
        grid = _lines([NO_GRID])
        if vae is not None:
            (alone, row), (class_alone, class_row) = _decoded(vae, own), _decoded(vae, ordinary)
            if pictures is not None:
                similarities = (likeness(clip_vision, pictures, alone), likeness(clip_vision, pictures, class_alone))
                report = replace(report, likeness=similarities)
            rows = {concept.name: [alone[0], *row], class_word: [class_alone[0], *class_row]}
            grid = _grid(rows, ["alone", *(f"and {word}" for word in words)])
        table = _table(report, "" if vae is not None else NO_GRID)
        return io.NodeOutput(from_image(table), from_image(grid), report.to_json(), report.verdict())


def _class_word(concept: Concept, given: str) -> str:
    found = (given.strip() or concept.class_word).lower()
    if not found:
        raise ValueError(
            f'The concept "{concept.name}" has no class word; write one ordinary word for it in the input "class_word".'
        )
    return found


def _words_beside(text: str, class_word: str) -> list[str]:
    words = list(dict.fromkeys(word.strip().lower() for word in text.split(",") if word.strip()))
    if class_word in words:
        raise ValueError(f'The input "beside" has the class word "{class_word}" itself; write other words.')
    return words


def _decoded(vae: Any, rendered: Rendered) -> tuple[torch.Tensor, torch.Tensor]:
    return vae.decode(rendered.alone).clamp(0, 1), vae.decode(rendered.beside).clamp(0, 1)


def _font() -> Any:
    return ImageFont.load_default(15)


def _table(report: Report, note: str) -> Image.Image:
    rows = report.rows()
    said = textwrap.wrap(report.verdict(), 110) + ([note] if note else [])
    image = Image.new("RGB", (sum(WIDTHS), LINE * (len(rows) + len(said) + 1)), "white")
    draw = ImageDraw.Draw(image)
    for i, row in enumerate(rows):
        top = i * LINE
        draw.rectangle((0, top, image.width, top + LINE), fill="#f0f2f5" if i % 2 else "white")
        for j, cell in enumerate(row):
            draw.text((10 + sum(WIDTHS[:j]), top + 3), cell, fill="#1f6feb" if i == 0 else "black", font=_font())
    for i, line in enumerate(said):
        draw.text((10, (len(rows) + i) * LINE + LINE // 2), line, fill="black", font=_font())
    return image


def _grid(rows: dict[str, list[torch.Tensor]], heads: list[str]) -> Image.Image:
    """Rows of pictures (H, W, 3), labelled."""
    image = Image.new("RGB", (len(heads) * TILE, LINE + len(rows) * (TILE + LINE)), "white")
    draw = ImageDraw.Draw(image)
    for i, head in enumerate(heads):
        draw.text((i * TILE + 6, 3), head, fill="black", font=_font())
    for j, (name, pictures) in enumerate(rows.items()):
        top = LINE + j * (TILE + LINE)
        draw.text((6, top + 3), name, fill="#1f6feb", font=_font())
        for i, picture in enumerate(pictures):
            image.paste(to_image(picture).resize((TILE, TILE), Image.Resampling.BICUBIC), (i * TILE, top + LINE))
    return image


def _lines(lines: list[str]) -> Image.Image:
    image = Image.new("RGB", (2 * TILE, LINE * len(lines) + 6), "white")
    for i, line in enumerate(lines):
        ImageDraw.Draw(image).text((10, 6 + i * LINE), line, fill="black", font=_font())
    return image


NODES = [CompInvConceptReport]
