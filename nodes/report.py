"""Concept Report: whether a learnt word will compose, in figures and pictures."""

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
from .types import CATEGORY, ConceptType

TILE, LINE, WIDTHS = 192, 24, (330, 360, 330)
NO_GRID = "No VAE was connected, so there are no pictures."


class CompInvConceptReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvConceptReport",
            display_name="Concept Report",
            category=CATEGORY,
            description="Says where a learnt word stands among ordinary words, how much of the attention it takes beside others, "
            "and shows it next to its class word.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the concept is for. It is not changed."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint. It is not changed."),
                ConceptType.Input("concept", tooltip="From Compositional Inversion Train or Load Concept."),
                io.String.Input(
                    "class_word",
                    default="",
                    tooltip="One ordinary word for the thing, which the concept is compared with. Empty: the concept's own.",
                ),
                io.String.Input(
                    "beside",
                    default="",
                    tooltip="Ordinary words, separated by commas, that both are asked for with. Empty: four COCO categories, "
                    "drawn by the seed.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    **LIMITS["resolution"],
                    step=8,
                    tooltip="Pixels a side: 512 for SD 1.x, 768 for SD 2.x, 1024 for SDXL.",
                ),
                io.Int.Input("steps", default=20, min=2, max=100, tooltip="Of each picture. Fewer cost less."),
                io.Float.Input("cfg", default=5.0, min=1.0, max=30.0, step=0.1, tooltip="CFG of the pictures."),
                io.Int.Input(
                    "seed",
                    default=0,
                    **LIMITS["seed"],
                    control_after_generate=False,
                    tooltip="Of the noise, the same for the concept and its class word, and of the words beside them.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="For the grid of pictures. Unconnected: figures only."),
                io.Image.Input(
                    "pictures",
                    optional=True,
                    tooltip="Your pictures of the thing, to say how like them the concept is; needs clip_vision and vae, too.",
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="A vision model whose features pictures are compared by."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "TABLE", display_name="table", tooltip="All figures, the concept's and its class word's."
                ),
                io.Image.Output(
                    "GRID",
                    display_name="grid",
                    tooltip="The same noise with the concept and with its class word, alone and beside the other words.",
                ),
                io.String.Output("JSON", display_name="json", tooltip="The figures as text, for other nodes."),
                io.String.Output(
                    "VERDICT",
                    display_name="verdict",
                    tooltip="What the attention says, in one sentence, and whether your pictures are of something else.",
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
        class_word = (class_word.strip() or concept.class_word).lower()
        if not class_word:
            raise ValueError(
                f'The concept "{concept.name}" has no class word; write one ordinary word for it in the input "class_word".'
            )
        if pictures is not None and (clip_vision is None or vae is None):
            raise ValueError(
                'The input "pictures" came without "clip_vision" and "vae"; connect both, or leave it out.'
            )
        words = list(dict.fromkeys(word.strip().lower() for word in beside.split(",") if word.strip()))
        if class_word in words:
            raise ValueError(f'The input "beside" has the class word "{class_word}" itself; write other words.')
        backbone = ComfyBackbone(model, clip, vae)
        words = words or other_words(backbone, class_word, seed)
        if not words:
            raise ValueError('The text encoder knows no COCO category; write ordinary words in the input "beside".')
        family = backbone.family
        side = resolution // family.stride
        sampling = Sampling((family.channels, side, side), seed=seed, steps=steps, cfg=cfg)
        bar = comfy.utils.ProgressBar(image_count(concept, words))
        report, own, ordinary = report_concept(
            backbone, concept, class_word, words, sampling=sampling, each=lambda: bar.update(1)
        )
        grid = _lines([NO_GRID])
        if vae is not None:
            (alone, row), (class_alone, class_row) = _decoded(vae, own), _decoded(vae, ordinary)
            if pictures is not None:
                alike = (likeness(clip_vision, pictures, alone), likeness(clip_vision, pictures, class_alone))
                report = replace(report, likeness=alike)
            rows = {concept.name: [alone[0], *row], class_word: [class_alone[0], *class_row]}
            grid = _grid(rows, ["alone", *(f"and {word}" for word in words)])
        table = _table(report, "" if vae is not None else NO_GRID)
        return io.NodeOutput(from_image(table), from_image(grid), report.to_json(), report.verdict())


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
