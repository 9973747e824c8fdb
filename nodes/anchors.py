"""Anchor Select: the ordinary words that regularise a concept."""

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ..compinv_core.anchors import COCO_CATEGORIES, similarity, weigh
from ..compinv_core.host.text_encoder import text_encoders, vocabulary
from .anchor_picture import anchor_picture
from .pictures import from_image
from .types import CATEGORY, AnchorsType, found_by

SIMILAR, LEARNT = "by similarity", "learnt while training"
CLASS_WORD, NEAREST, MINE, COCO = "class word only", "nearest words", "my words", "COCO categories"


class CompInvAnchorSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvAnchorSelect",
            display_name="Anchor Select",
            category=CATEGORY,
            **found_by("regularization", "nearest words", "embedding"),
            description="Chooses the anchors: ordinary words towards which an embedding is regularised while it is trained.",
            inputs=[
                io.Clip.Input(
                    "clip", tooltip="The text encoder whose vocabulary the anchors come from. It is not changed."
                ),
                io.String.Input(
                    "class_word", default="cat", tooltip="The class word: one ordinary word for what your images show."
                ),
                io.Combo.Input(
                    "how",
                    options=[CLASS_WORD, NEAREST, MINE, COCO],
                    tooltip="Which words are anchors: the class word alone, its nearest words (or those nearest to words that you give), "
                    "words of your own, or the COCO categories most similar to it. To train without anchors, leave the training "
                    "node's input anchors unconnected.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    tooltip='For "my words" and "nearest words": ordinary words or phrases, separated by commas. Ignored otherwise; empty with '
                    '"nearest words": those nearest to the class word.',
                ),
                io.Int.Input(
                    "count",
                    default=4,
                    min=1,
                    max=80,
                    tooltip="Maximum number of anchors. Ignored for class word only.",
                ),
                io.Combo.Input(
                    "weights",
                    options=[SIMILAR, LEARNT],
                    tooltip="The anchors' weights: fixed, by similarity to the class word, or learnt with the embedding, which leaves few "
                    "anchors in the end.",
                ),
            ],
            outputs=[
                AnchorsType.Output("ANCHORS", display_name="anchors", tooltip="For Compositional Inversion Train."),
                io.String.Output(
                    "TABLE",
                    display_name="table",
                    tooltip="Each anchor's cosine similarity to the class word, its weight, and its outlier percentile: the share of the "
                    "vocabulary whose nearest words are closer.",
                ),
                io.Image.Output(
                    "PICTURE",
                    display_name="picture",
                    tooltip="The table as bars: each anchor's weight and its similarity, the heaviest first.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, clip: Any, class_word: str, how: str, words: str, count: int, weights: str = SIMILAR
    ) -> io.NodeOutput:
        known = vocabulary(clip, next(iter(text_encoders(clip))))
        class_word = class_word.strip().lower()
        centre = known.vector(class_word, '"class_word"')
        given = list(dict.fromkeys(" ".join(word.lower().split()) for word in words.split(",") if word.strip()))
        for word in given if how in (NEAREST, MINE) else ():
            known.phrase(word, '"words"')
        if how == CLASS_WORD:
            chosen = [class_word]
        elif how == NEAREST:
            if given:
                centre = torch.stack([known.phrase(word) for word in given]).mean(dim=0)
            chosen = [word for word, likeness in known.nearest(centre, count) if likeness > 0]
        elif how == MINE:
            chosen = given[:count]
            if not chosen:
                raise ValueError('The input "words" is empty; write ordinary words, separated by commas.')
        else:
            coco = [name for name in COCO_CATEGORIES if all(part in known for part in name.split())]
            likeness = {name: similarity(known.phrase(name), centre) for name in coco}
            chosen = [name for name in sorted(coco, key=lambda name: -likeness[name]) if likeness[name] > 0][:count]
            if not chosen:
                raise ValueError(
                    f'No COCO category resembles the class word "{class_word}" in this text encoder; choose "{CLASS_WORD}" at "how".'
                )
        anchors = replace(weigh(class_word, tuple(chosen), known, centre), learnt=weights == LEARNT)
        vectors = [known.phrase(word) for word in anchors.words]
        alike = [similarity(vector, centre) for vector in vectors]
        lines = sorted(zip(anchors.words, anchors.weights, alike, vectors, strict=True), key=lambda line: -line[1])
        rows = [f"{'word':<16}{'similarity':>10}{'weight':>8}{'outlier percentile':>20}"]
        rows += [
            f"{word:<16}{near:>10.3f}{weight:>8.3f}{known.percentile(v):>20.0f}" for word, weight, near, v in lines
        ]
        out = known.percentile(known.vector(class_word))
        rows.append(f'The class word "{class_word}" has outlier percentile {out:.0f}.')
        return io.NodeOutput(
            anchors, "\n".join(rows), from_image(anchor_picture(anchors, [line[:3] for line in lines]))
        )


NODES = [CompInvAnchorSelect]
