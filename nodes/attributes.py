"""Attribute Prompt, which takes the colour of one concept and the style of another, and Where Attributes Are in a model."""

import re
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io

from ..compinv_core.host.attribute_probe import probe_cells, runs_of
from ..compinv_core.host.attribute_prompt import Use, attribute_prompt
from ..compinv_core.host.contexts import BY_CELL
from ..compinv_core.host.recovery import check_fit
from ..compinv_core.reading.table import PRESETS, ROLES, Table, parsed
from ..compinv_core.sentences import quoted
from ..compinv_core.training.request import LIMITS
from .pictures import cell_picture
from .prompt import SEPARATORS
from .types import CATEGORY, ConceptType

GROUPS, EVERY_BLOCK = "groups", "every block"
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
                    tooltip="The prompt. embedding:my-cat.colour takes an attribute where it stands, {concept}.colour that of the one concept that is connected; "
                    "its switches are then ignored. {colour}, {style}, {object} and {layout} say where switched-on attributes go; without them these follow "
                    "the prompt, an object replaces its class word.",
                ),
                ConceptType.Input(
                    "concept_1",
                    optional=True,
                    tooltip="A concept from Attribute Inversion Train, or loaded. Unconnected: those that the text names, applied or in the "
                    "embeddings folder.",
                ),
                *_switches(1),
                io.Combo.Input(
                    "cells",
                    options=[AS_LEARNT, *PRESETS, OWN],
                    tooltip="Where attributes are read. as learnt: where the concept was trained. MATTE, P+, ProSpect, B-LoRA: presets after these "
                    "papers. table: what the input table says.",
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
        conditioning = attribute_prompt(model, clip, text, phrases, uses, chosen)
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


class CompInvAttributeProbe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvAttributeProbe",
            display_name="Where Attributes Are",
            category=CATEGORY,
            description="Finds the part of a model that decides what differs between two prompts: prompt A is read by one group of blocks in one "
            "stage and prompt B everywhere else, and the change of the image is measured.",
            inputs=[
                io.Model.Input("model", tooltip="The model to look into. It is not changed."),
                io.Clip.Input("clip", tooltip="Its text encoder, with your concepts applied. It is not changed."),
                io.String.Input(
                    "prompt_a", default="a photo of a red cat", tooltip="Prompt A, read in one cell at a time."
                ),
                io.String.Input(
                    "prompt_b",
                    default="a photo of a blue cat",
                    tooltip="Prompt B, read in all other cells; let it differ from A in one attribute.",
                ),
                io.Combo.Input(
                    "rows",
                    options=[GROUPS, EVERY_BLOCK],
                    tooltip="groups: coarse, moderate and fine blocks, by resolution. every block: one by one, which takes several times as long.",
                ),
                io.String.Input(
                    "stages",
                    default="750, 500, 250",
                    tooltip="Timesteps, of 1000, at which the next stage begins. Empty: one stage, all of the schedule.",
                ),
                io.Int.Input(
                    "images",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Images sampled per cell; more make the figures more reliable.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    **LIMITS["resolution"],
                    step=8,
                    tooltip="Image size in pixels; use the model's native one: 512 for SD 1.x, 768 for SD 2.x, 1024 for SDXL.",
                ),
                io.Int.Input("steps", default=12, min=2, max=1000, tooltip="Sampling steps of each image."),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance scale. 1 switches it off.",
                ),
                io.Int.Input(
                    "seed", default=0, **LIMITS["seed"], control_after_generate=False, tooltip="Seed of the noise."
                ),
                io.Combo.Input(
                    "attribute",
                    options=list(ROLES),
                    optional=True,
                    tooltip="What the prompts differ in: the attribute that the cells found are for.",
                ),
                io.String.Input(
                    "cells",
                    optional=True,
                    force_input=True,
                    tooltip="The cells of other attributes, from another Where Attributes Are with the same stages. The new line is added to them.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "HEAT_MAP",
                    display_name="heat map",
                    tooltip="How far the image moves from B to A when A is read in that cell alone: 0 not at all, 1 all the way.",
                ),
                io.String.Output("TABLE", display_name="table", tooltip="The same figures as text."),
                io.String.Output(
                    "CELLS",
                    display_name="cells",
                    tooltip="The fewest cells that bring the image nine tenths of the way, for the input table of Attribute Inversion Train or Attribute "
                    "Prompt.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, prompt_a: str, prompt_b: str, rows: str, stages: str, images: int, resolution: int, steps: int,
        cfg: float, seed: int, attribute: str = ROLES[0], cells: str = "",
    ) -> io.NodeOutput:  # fmt: skip
        cuts = parsed(f"stages: {stages}").cuts
        before = parsed(cells)
        if before.lines and before.cuts != cuts:
            own, given = (", ".join(f"{cut:g}" for cut in own) or "none" for own in (before.cuts, cuts))
            raise ValueError(
                f'The input "cells" has the stages "{quoted(own, 60)}", and "stages" is "{quoted(given, 60)}"; the same are needed.'
            )
        bar = comfy.utils.ProgressBar(steps * runs_of(model, cuts, rows == EVERY_BLOCK))
        found, deciding = probe_cells(
            model, clip, prompt_a, prompt_b, torch.zeros(images, 4, resolution // 8, resolution // 8),
            cuts=cuts, every_block=rows == EVERY_BLOCK, seed=seed, steps=steps, cfg=cfg, on_step=lambda *_: bar.update(1),
        )  # fmt: skip
        table = Table(cuts, {**before.lines, attribute: deciding})
        return io.NodeOutput(cell_picture(found), found.described(), str(table))


NODES = [CompInvAttributePrompt, CompInvAttributeProbe]
