"""Composition Prompt: an encoded prompt that remembers where its subjects are."""

import re
from typing import Any

from comfy_api.latest import io

from ..compinv_core.host.composition import composition_prompt
from .types import CATEGORY, found_by

SEPARATORS = "[,;\uff0c\uff1b\u3001]"  # those of Chinese and Japanese, too


class CompInvPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompInvPrompt",
            display_name="Composition Prompt",
            category=CATEGORY,
            **found_by("CLIP text encode", "attention couple", "embedding"),
            description="Encodes a prompt exactly as CLIP Text Encode does, and stores which tokens belong to which subject.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder, with your concepts applied. It is not changed."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="a photo of a cat and a car",
                    tooltip="The prompt. {concept} stands for the concept that is applied to the CLIP; of several, write each as embedding:name.",
                ),
                io.String.Input(
                    "subjects",
                    multiline=True,
                    default="cat, car",
                    tooltip="The phrases that get a region, as in the prompt, separated by commas, semicolons or lines; case, spaces and "
                    "weights may differ; a concept by its name alone, or as {concept}. Empty: every applied concept in the prompt.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "CONDITIONING",
                    display_name="conditioning",
                    tooltip="For Spatial Layout Recover, Regularized Sampler, or any other sampler.",
                )
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, subjects: str) -> io.NodeOutput:
        phrases = [
            part.strip() for line in subjects.splitlines() for part in re.split(SEPARATORS, line) if part.strip()
        ]
        return io.NodeOutput(composition_prompt(clip, text, phrases))


NODES = [CompInvPrompt]
