"""What the training prompts say, and where a subject's tokens sit in an encoded prompt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

OBJECT_TEMPLATES: tuple[str, ...] = (
    "{}",
    "a {}",
    "a photo of a {}",
    "a photo of the {}",
    "a picture of a {}",
    "a snapshot of a {}",
    "a clear photo of a {}",
    "a sharp photo of the {}",
    "a blurry photo of a {}",
    "a bright photo of a {}",
    "a dark photo of the {}",
    "a colourful photo of a {}",
    "a pale photo of a {}",
    "a close photo of a {}",
    "a close view of the {}",
    "a photo of a {} from afar",
    "a photo of a small {}",
    "a photo of a large {}",
    "a photo of my {}",
    "a photo of one {}",
    "a photo of a clean {}",
    "a photo of a nice {}",
    "a photo that shows the {}",
    "an image of a {}",
    "an amateur photo of a {}",
    "a studio photo of the {}",
    "this is a photo of a {}",
)
"""Neutral sentences about an object; the {} is where the concept stands. As many as Gal et al. (2022) drew from."""

STYLE_TEMPLATES: tuple[str, ...] = (
    "a painting in the style of {}",
    "a picture in the style of {}",
    "an image in the style of {}",
    "a drawing in the style of {}",
    "a sketch in the style of {}",
    "a poster in the style of {}",
    "an illustration in the style of {}",
    "a portrait in the style of {}",
    "a landscape in the style of {}",
    "a still life in the style of {}",
    "a small painting in the style of {}",
    "a large painting in the style of {}",
    "a bright painting in the style of {}",
    "a dark painting in the style of {}",
    "a detailed painting in the style of {}",
    "a rough painting in the style of {}",
    "a quiet scene in the style of {}",
    "a close view in the style of {}",
    "artwork in the style of {}",
)
"""Neutral sentences about a picture whose style is the concept."""


@dataclass(frozen=True)
class Subject:
    """Something that a prompt asks to see, and the tokens that ask for it.

    Columns count along the token axis of the encoded prompt. The start token is 0; a long prompt is encoded in chunks
    of 77, and the second chunk's tokens are 77 to 153.
    """

    phrase: str
    """As the prompt writes it: "embedding:mycat", "car"."""
    class_phrase: str
    """What stands for it in the probe, the same prompt in ordinary words: "cat"; ordinary words stand for themselves."""
    columns: tuple[int, ...]
    probe_columns: tuple[int, ...]


def split_subjects(text: str) -> tuple[str, ...]:
    """Subjects as a user lists them, separated by commas or line ends, without repetition."""
    parts = (part.strip() for part in re.split(r"[,\n]", text))
    return tuple(dict.fromkeys(part for part in parts if part))


def not_mentioned(prompt: str, phrase: str) -> ValueError:
    """The error for a phrase that the prompt lacks, with what may have been meant."""
    name = phrase.removeprefix("embedding:")
    if f"embedding:{name}" in prompt and name != phrase:
        hint = 'Write a space before each "embedding:" in the prompt'
    else:
        near = difflib.get_close_matches(phrase.lower(), re.findall(r"[\w:.+-]+", prompt.lower()), n=2, cutoff=0.7)
        hint = f"Did you mean {' or '.join(near)}" if near else "Write it exactly as the prompt does"
        hint += ", or remove it from the subjects"
    return ValueError(f'The prompt "{_shortened(prompt)}" does not mention the subject "{phrase}". {hint}.')


def cut_off(prompt: str, phrase: str, chunk: int) -> ValueError:
    """The error for a phrase that lies on both sides of a chunk's end, so that the text encoder never sees it whole."""
    return ValueError(
        f'The subject "{phrase}" is cut off in the prompt "{_shortened(prompt)}": the text encoder reads {chunk} tokens '
        "at a time, and the subject lies across that limit. Move it towards the start, or shorten what stands before it."
    )


def find_sequence(tokens: Sequence[object], phrase: Sequence[object], starts: Sequence[bool]) -> list[int]:
    """Where the phrase's tokens begin in the prompt's tokens. `starts` says which tokens begin a word."""
    size = len(phrase)
    return [
        i for i in range(len(tokens) - size + 1) if size and starts[i] and list(tokens[i : i + size]) == list(phrase)
    ]


def _shortened(prompt: str, length: int = 80) -> str:
    prompt = " ".join(prompt.split())
    return prompt if len(prompt) <= length else prompt[: length - 1] + "…"
