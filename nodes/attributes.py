"""Attribute Prompt: a prompt that takes the colour of one concept, the style of another, the layout of a third."""

import re
from typing import Any

from comfy_api.latest import io

from ..compinv_core.host.attribute_prompt import Use, attribute_prompt
from ..compinv_core.host.contexts import BY_CELL
from ..compinv_core.host.recovery import check_fit
from ..compinv_core.reading.table import PRESETS, ROLES, parsed
from .prompt import SEPARATORS
from .types import CATEGORY, ConceptType

AS_LEARNT, OWN = "as learnt", "table"
CONCEPTS = 3


class CompInvAttributePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvAttributePrompt",
            display_name="Attribute Prompt",
            category=CATEGORY,
            description="Encodes a prompt that takes single attributes of concepts: the colour of one, the style of another, the layout of a "
            "third. Sample it with Regularized Sampler, or with any sampler behind Apply Spatial Regularization.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that samples this prompt, whose blocks the cells name. It is not changed.",
                ),
                io.Clip.Input("clip", tooltip="The text encoder. It is not changed."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="a photo of a dog",
                    tooltip="The prompt. {colour}, {style}, {object} and {layout} say where an attribute goes; one that has no place is written "
                    "behind the prompt, an object in place of its class word.",
                ),
                ConceptType.Input("concept_1", tooltip="A concept from Attribute Inversion Train, or loaded."),
                *_switches(1),
                io.Combo.Input(
                    "cells",
                    options=[AS_LEARNT, *PRESETS, OWN],
                    tooltip="Where attributes are read. as learnt: where the concept was trained. table: what the input table says.",
                ),
                io.String.Input(
                    "table",
                    multiline=True,
                    default=str(PRESETS["MATTE"]),
                    tooltip="One line for each attribute: its blocks (coarse, moderate, fine, all, output 3), and behind in its stages. "
                    "none switches an attribute off. Read when cells is table.",
                ),
                io.String.Input(
                    "subjects",
                    default="",
                    tooltip="The phrases that get a region, as in the text, separated by commas. An attribute inside one, as in {colour} dog, is read in "
                    "its region alone. Empty: no regions.",
                ),
                *(
                    part
                    for number in range(2, CONCEPTS + 1)
                    for part in (
                        ConceptType.Input(
                            f"concept_{number}", optional=True, tooltip="One more concept. Unconnected: none."
                        ),
                        *_switches(number, optional=True),
                    )
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "CONDITIONING",
                    display_name="conditioning",
                    tooltip="For Regularized Sampler, or any sampler behind Apply Spatial Regularization. Other samplers read the prompt without attributes.",
                ),
                io.String.Output("READ", display_name="read", tooltip="Which blocks read which prompt in each stage."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, text: str, cells: str, table: str, subjects: str, **concepts: Any
    ) -> io.NodeOutput:
        chosen = None if cells == AS_LEARNT else parsed(table) if cells == OWN else PRESETS[cells]
        uses = [
            Use(concept, [role for role in ROLES if concepts.get(f"{role}_{number}")], chosen)
            for number in range(1, CONCEPTS + 1)
            if (concept := concepts.get(f"concept_{number}")) is not None
        ]
        phrases = [part.strip() for part in re.split(f"{SEPARATORS}|\n", subjects) if part.strip()]
        conditioning = attribute_prompt(model, clip, text, phrases, uses)
        check_fit(model, conditioning)
        return io.NodeOutput(conditioning, conditioning[0][1][BY_CELL].described())


def _switches(number: int, optional: bool = False) -> list[Any]:
    return [
        io.Boolean.Input(
            f"{role}_{number}",
            default=(role, number) == ("colour", 1),
            optional=optional,
            tooltip=f"Take the {role} of concept_{number}. Off: the prompt's own.",
        )
        for role in ROLES
    ]


NODES = [CompInvAttributePrompt]
