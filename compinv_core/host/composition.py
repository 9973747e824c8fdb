"""A CONDITIONING that remembers its subjects, and the probe: the same prompt in ordinary words."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..concept import Concept
from ..prompts.spans import Subject
from .text_encoder import check_embeddings, columns_between, encode, find_phrase, known_concepts, without_weights

SUBJECTS, PROBE = "compinv_subjects", "compinv_probe"


def composition_prompt(clip: Any, text: str, phrases: Sequence[str]) -> list[Any]:
    """Stock conditioning of `text`, whose entries also hold the subjects and the probe.

    Args:
        phrases: the subjects as the prompt writes them, a concept also by its bare name; empty means every applied
            concept that the prompt mentions.

    Raises:
        ValueError: a subject that the prompt does not have, one named twice, or none; an embedding that there is not.
    """
    check_embeddings(clip, text)
    concepts = known_concepts(clip)
    named = [f"embedding:{phrase}" if phrase in concepts else phrase for phrase in phrases]
    if not named:
        named = [f"embedding:{name}" for name in concepts if re.search(rf"embedding:{re.escape(name)}(?![\w-])", text)]
    if not named:
        raise ValueError(
            'The input "subjects" is empty and the prompt has no applied concept; write the things that must appear.'
        )
    spans = [find_phrase(text, phrase) for phrase in named]
    if len(set(spans)) < len(spans):
        raise ValueError(
            f'The input "subjects" names one thing twice: {", ".join(named)}; name each once, and two of a kind by what '
            'tells them apart ("black cat, white cat").'
        )
    columns = [columns_between(clip, text, *span) for span in spans]
    edits = _ordinary_words(text, concepts, [start for start, _ in spans])
    probe_text = _edited(text, edits)
    subjects: list[Subject] = []
    for phrase, span, at in zip(named, spans, columns, strict=True):
        start, end = (_moved(position, edits) for position in span)
        written, ordinary = text[slice(*span)], probe_text[start:end]
        if written != phrase:  # as CLIP reads it
            phrase = without_weights(written) if written.startswith("embedding:") else phrase
            ordinary = without_weights(ordinary)
        subjects.append(Subject(phrase, ordinary, at, columns_between(clip, probe_text, start, end)))
    probe = encode(clip, probe_text)
    return [[cond, {**rest, SUBJECTS: tuple(subjects), PROBE: probe}] for cond, rest in encode(clip, text)]


Edit = tuple[int, int, str]
"""The characters from the first number to before the second become the text."""


def _ordinary_words(text: str, concepts: Mapping[str, Concept], kept: Sequence[int]) -> list[Edit]:
    """What turns a prompt into its probe: each concept's class word in its place, and not twice ("embedding:mittens cat").

    Args:
        kept: where subjects begin; these are not taken out.
    """
    edits: list[Edit] = []
    for name, concept in concepts.items():
        word = re.escape(concept.class_word)
        for match in re.finditer(rf"embedding:{re.escape(name)}(?![\w-])(\s+{word}(?![\w-]))?", text if word else ""):
            after, end = match.end() if match[1] is None else match.start(1), match.end()
            edits.append((match.start(), after, concept.class_word))
            if after < end and not any(after < start < end for start in kept):
                edits.append((after, end, ""))
    return sorted(edits)


def _edited(text: str, edits: Sequence[Edit]) -> str:
    for start, end, words in reversed(edits):
        text = text[:start] + words + text[end:]
    return text


def _moved(position: int, edits: Sequence[Edit]) -> int:
    """Where a position at the edge of edits, or outside them, is in the edited text."""
    return position + sum(len(words) - (end - start) for start, end, words in edits if end <= position)


def probes_of(conditioning: Sequence[Any]) -> list[tuple[tuple[Subject, ...], list[Any]]]:
    """Of every prompt that knows them: its subjects, and the prompt in ordinary words.

    Raises:
        ValueError: no part of the conditioning was made by Composition Prompt.
    """
    found = [(rest[SUBJECTS], rest[PROBE]) for _, rest in conditioning if SUBJECTS in rest]
    if not found:
        raise ValueError(
            'The input "positive" does not say where its subjects are; make it with the node Composition Prompt.'
        )
    return found


def subjects_of(conditioning: Sequence[Any]) -> list[Subject]:
    """The subjects of a conditioning, of all its prompts.

    Raises:
        ValueError: it was not made by Composition Prompt.
    """
    return [subject for subjects, _ in probes_of(conditioning) for subject in subjects]
