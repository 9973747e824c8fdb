"""A CONDITIONING that remembers its subjects, and the probe: the same prompt in ordinary words."""

import re
from collections.abc import Sequence
from typing import Any

from ..prompts import Subject
from .text_encoder import encode, find_columns, known_concepts

SUBJECTS, PROBE = "compinv_subjects", "compinv_probe"


def composition_prompt(clip: Any, text: str, phrases: Sequence[str]) -> list[Any]:
    """Stock conditioning of `text`, whose entries also hold the subjects and the probe.

    Args:
        phrases: the subjects as the prompt writes them, a concept also by its bare name; empty means every applied
            concept that the prompt mentions.

    Raises:
        ValueError: a subject that the prompt does not have, one named twice, or none.
    """
    concepts = known_concepts(clip)
    named = [f"embedding:{phrase}" if phrase in concepts else phrase for phrase in phrases]
    if not named:
        named = [f"embedding:{name}" for name in concepts if re.search(rf"embedding:{re.escape(name)}(?![\w-])", text)]
    if not named:
        raise ValueError(
            'The input "subjects" is empty and the prompt has no applied concept; write the things that must appear.'
        )
    if len(set(named)) < len(named):
        raise ValueError(f'The input "subjects" names one thing twice: {", ".join(named)}; name each once.')
    columns = {phrase: find_columns(clip, text, phrase) for phrase in named}
    probe_text = text
    for name, concept in concepts.items():
        if concept.class_word:
            probe_text = re.sub(rf"embedding:{re.escape(name)}(?![\w-])", concept.class_word, probe_text)
    subjects: list[Subject] = []
    for phrase in named:
        concept = concepts.get(phrase.removeprefix("embedding:")) if phrase.startswith("embedding:") else None
        ordinary = concept.class_word if concept is not None and concept.class_word else phrase
        subjects.append(Subject(phrase, ordinary, columns[phrase], find_columns(clip, probe_text, ordinary)))
    probe = encode(clip, probe_text)
    return [[cond, {**rest, SUBJECTS: tuple(subjects), PROBE: probe}] for cond, rest in encode(clip, text)]


def subjects_of(conditioning: Sequence[Any]) -> tuple[Subject, ...]:
    """The subjects of a conditioning.

    Raises:
        ValueError: it was not made by Composition Prompt.
    """
    for _, rest in conditioning:
        if SUBJECTS in rest:
            return rest[SUBJECTS]
    raise ValueError(
        'The input "positive" does not say where its subjects are; make it with the node Composition Prompt.'
    )


def probe_of(conditioning: Sequence[Any]) -> list[Any]:
    """The prompt in ordinary words."""
    return next(rest[PROBE] for _, rest in conditioning if PROBE in rest)
