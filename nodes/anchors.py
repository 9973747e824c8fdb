"""Anchor Select: the ordinary words that pull."""

from typing import Any

from comfy_api.latest import io

from ..compinv_core.anchors import COCO_CATEGORIES, weigh
from ..compinv_core.host.text_encoder import text_encoders, vocabulary
from .types import CATEGORY, AnchorsType

CLASS_WORD, NEAREST, MINE, COCO = "class word only", "nearest words", "my words", "COCO categories"


class CompInvAnchorSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvAnchorSelect",
            display_name="Anchor Select",
            category=CATEGORY,
            description="Chooses the ordinary words that hold a new word among ordinary ones while it is learnt.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder whose words are looked at."),
                io.String.Input("class_word", default="cat", tooltip="One ordinary word for what your pictures show."),
                io.Combo.Input(
                    "how",
                    options=[CLASS_WORD, NEAREST, MINE, COCO],
                    tooltip="Which words pull: the class word alone, the words most similar to it, words of your own, or "
                    "those of the 80 COCO categories that are most similar to it.",
                ),
                io.String.Input("words", default="", tooltip='For "my words": ordinary words, separated by commas.'),
                io.Int.Input(
                    "count",
                    default=4,
                    min=1,
                    max=80,
                    tooltip="How many words at most; one when only the class word pulls.",
                ),
            ],
            outputs=[
                AnchorsType.Output("ANCHORS", display_name="anchors", tooltip="For Compositional Inversion Train."),
                io.String.Output(
                    "TABLE",
                    display_name="table",
                    tooltip="The words, their similarity to the class word, their weight.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, class_word: str, how: str, words: str, count: int) -> io.NodeOutput:
        words_known = vocabulary(clip, next(iter(text_encoders(clip))))
        class_word = class_word.strip().lower()
        centre = words_known.vector(class_word)
        if how == CLASS_WORD:
            chosen = [class_word]
        elif how == NEAREST:
            chosen = [word for word, similarity in words_known.nearest(centre, count) if similarity > 0]
        elif how == MINE:
            chosen = list(dict.fromkeys(word.strip().lower() for word in words.split(",") if word.strip()))[:count]
            if not chosen:
                raise ValueError('The input "words" is empty; write ordinary words, separated by commas.')
        else:
            coco = [name for name in COCO_CATEGORIES if name in words_known]
            ranked = words_known.nearest(centre, len(words_known.words))
            chosen = [word for word, similarity in ranked if word in coco and similarity > 0][:count]
            if not chosen:
                raise ValueError(
                    f'No COCO category is a word of this text encoder that resembles "{class_word}"; choose another way.'
                )
        anchors = weigh(class_word, tuple(chosen), words_known)
        rows = [f"{'word':<16}{'similarity':>10}{'weight':>8}"]
        for word, weight in sorted(zip(anchors.words, anchors.weights, strict=True), key=lambda pair: -pair[1]):
            similarity = float(
                (words_known.vector(word) * centre).sum() / words_known.vector(word).norm() / centre.norm()
            )
            rows.append(f"{word:<16}{similarity:>10.3f}{weight:>8.3f}")
        return io.NodeOutput(anchors, "\n".join(rows))


NODES = [CompInvAnchorSelect]
