"""A CONDITIONING that remembers its subjects, and the probe: the same prompt in ordinary words."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..layout.regions import WHOLE, Box
from ..prompts.placeholder import with_name
from ..prompts.spans import Subject
from ..reading.regional import Variant, Variants
from ..sentences import check_letters, quoted
from .contexts import BY_CELL, VARIANTS, appended
from .places import Canvas, place_of
from .text_encoder import (
    ENDING,
    check_embeddings,
    columns_between,
    encode,
    find_phrase,
    known_concepts,
    without_weights,
)

SUBJECTS, PROBE = "compinv_subjects", "compinv_probe"
"""The keys under which an entry holds its subjects, and itself in ordinary words."""

PROBED = "compinv_probed"
"""The key under which an entry in ordinary words holds its subjects."""


def composition_prompt(clip: Any, text: str, phrases: Sequence[str]) -> list[Any]:
    """Stock conditioning of `text`, whose entries also hold the subjects and the probe.

    Args:
        text, phrases: {concept} in them is the one concept that is applied.
        phrases: the subjects as the prompt writes them, a concept also by its bare name; empty means every applied
            concept that the prompt mentions.

    Raises:
        ValueError: a subject that the prompt does not have, one named twice, or none; an embedding that there is not; {concept} where
            not one is applied.
    """
    check_letters(text, '"text"')
    concepts = known_concepts(clip)
    text, *phrases = (with_name(part, concepts) for part in (text, *phrases))
    check_embeddings(clip, text)
    named = [f"embedding:{phrase}" if phrase in concepts else phrase for phrase in phrases]
    if not named:
        named = [f"embedding:{name}" for name in concepts if re.search(_written(name), text)]
    if not named:
        raise ValueError(
            'The input "subjects" is empty and the prompt has no applied concept; write the things that must appear.'
        )
    spans = [find_phrase(text, phrase) for phrase in named]
    if len(set(spans)) < len(spans):
        raise ValueError(
            f'The input "subjects" names one thing twice: {quoted(", ".join(named))}; name each once, and two of a kind by what '
            'tells them apart ("black cat, white cat").'
        )
    prompt = Prompt(clip, text, spans, ordinary_words(clip))
    own, probe = prompt.written(()), prompt.written(concepts)
    subjects: list[Subject] = []
    for phrase, span, here, there in zip(named, spans, own.columns, probe.columns, strict=True):
        words = text[slice(*span)]
        ordinary = prompt.ordinary(span, concepts)
        if words != phrase:  # as CLIP reads it
            phrase = re.sub(NAME_ENDING, "", without_weights(words)) if words.startswith("embedding:") else phrase
            ordinary = without_weights(ordinary)
        subjects.append(Subject(phrase, ordinary, here, there))
    return [
        [cond, {**rest, SUBJECTS: tuple(subjects), PROBE: ordinary, VARIANTS: variants}]
        for (cond, rest), ordinary, variants in zip(own.encoded, probe.encoded, prompt.variants(), strict=True)
    ]


@dataclass(frozen=True)
class _Encoding:
    """A prompt with some of its concepts in class words.

    Attributes:
        encoded: stock CONDITIONING.
        columns: of each subject, its token columns.
    """

    encoded: list[Any]
    columns: list[tuple[int, ...]]


def ordinary_words(clip: Any) -> dict[str, str]:
    """The concepts of a CLIP that have one, each with its class word."""
    return {name: concept.class_word for name, concept in known_concepts(clip).items() if concept.class_word}


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt, and its subjects.

    Attributes:
        spans: of each subject, from its first character to behind its last.
        words: concept -> the ordinary words that can stand in its place; "" leaves it out.
    """

    clip: Any
    text: str
    spans: Sequence[tuple[int, int]]
    words: Mapping[str, str]
    _made: dict[str, _Encoding] = field(default_factory=dict[str, _Encoding], init=False, repr=False)

    def written(self, replaced: Collection[str]) -> _Encoding:
        """With these concepts in class words."""
        edits = self._edits(replaced)
        text = _edited(self.text, edits)
        if text not in self._made:
            moved = [(_moved(start, edits), _moved(end, edits)) for start, end in self.spans]
            columns = [columns_between(self.clip, text, *span) for span in moved]
            self._made[text] = _Encoding(encode(self.clip, text), columns)
        return self._made[text]

    def ordinary(self, span: tuple[int, int], replaced: Collection[str]) -> str:
        """What stands at a subject's place with these concepts in class words."""
        edits = self._edits(replaced)
        return _edited(self.text, edits)[_moved(span[0], edits) : _moved(span[1], edits)]

    def variants(self) -> list[Variants]:
        """Of each entry of the CONDITIONING."""
        of_subjects = [self._concepts_in(*span) for span in self.spans]
        every = set[str]().union(*of_subjects)
        own, class_words = self.written(()), self.written(every)
        learnt = {i: self.written(every - mine) for i, mine in enumerate(of_subjects) if mine}

        def entry(number: int) -> Variants:
            made = {
                id(one): Variant(one.encoded[number][0], one.columns) for one in (own, class_words, *learnt.values())
            }
            of_learnt = {i: made[id(one)] for i, one in learnt.items()}
            return Variants(made[id(own)], made[id(class_words)], of_learnt)

        return [entry(number) for number in range(len(own.encoded))]

    def _concepts_in(self, start: int, end: int) -> set[str]:
        """Those that have a class word, between two characters."""
        return {name for name in self.words if re.search(_written(name), self.text[start:end])}

    def _edits(self, replaced: Collection[str]) -> list["Edit"]:
        """What puts class words in the place of concepts, and not twice ("embedding:mittens cat"). Where subjects begin, nothing is taken out."""
        edits: list[Edit] = []
        for name, words in self.words.items():
            if name not in replaced:
                continue
            if not words:
                edits += [(*match.span(), "") for match in re.finditer(rf"{_written(name)}\s*", self.text)]
                continue
            for match in re.finditer(rf"{_written(name)}(\s+{re.escape(words)}(?![\w-]))?", self.text):
                after, end = match.end() if match[1] is None else match.start(1), match.end()
                edits.append((match.start(), after, words))
                if after < end and not any(after < start < end for start, _ in self.spans):
                    edits.append((after, end, ""))
        return sorted(edits)


def _written(name: str) -> str:
    """The pattern of a concept in a prompt."""
    return rf"embedding:{re.escape(name)}{ENDING}(?![\w-]|\.\w)"


NAME_ENDING = rf"(?<=\w){ENDING}(?= |$)"
Edit = tuple[int, int, str]
"""The characters from the first number to before the second become the text."""


def _edited(text: str, edits: Sequence[Edit]) -> str:
    for start, end, words in reversed(edits):
        text = text[:start] + words + text[end:]
    return text


def _moved(position: int, edits: Sequence[Edit]) -> int:
    """Where a position at the edge of edits, or outside them, is in the edited text."""
    return position + sum(len(words) - (end - start) for start, end, words in edits if end <= position)


def probe_of(conditioning: Sequence[Any]) -> list[Any]:
    """A conditioning in ordinary words, which is sampled as it is: all that was set on a prompt, or put behind it, stays. Prompts
    hold their subjects under PROBED; what knows none is as it was.

    Raises:
        ValueError: no part of the conditioning was made by Composition Prompt.
    """
    found = [_ordinary(cond, rest) if SUBJECTS in rest else [cond, rest] for cond, rest in conditioning]
    if not any(PROBED in rest for _, rest in found):
        raise ValueError(
            'The input "positive" does not say where its subjects are; make it with the node Composition Prompt.'
        )
    return found


def _ordinary(cond: Tensor, rest: Mapping[str, Any]) -> list[Any]:
    written, own = rest[PROBE]
    behind = appended(rest[VARIANTS].own.encoded, cond)
    if behind is not None and behind.shape[1]:
        written = torch.cat([written, behind.to(written)], dim=1)
    text = (SUBJECTS, PROBE, VARIANTS, BY_CELL, "pooled_output")
    settings = {key: value for key, value in rest.items() if key not in text}
    return [written, {**own, **settings, PROBED: rest[SUBJECTS]}]


@dataclass(frozen=True, eq=False)
class Placed:
    """A subject of a conditioning.

    Attributes:
        place: the part of the canvas that its prompt is for.
        turn: where it stands: which prompt it is of, and its first token there.
        row: (E,), the mean of its tokens in the encoded probe.
    """

    subject: Subject
    place: Box
    turn: tuple[int, int]
    row: Tensor

    @property
    def phrase(self) -> str:
        return self.subject.phrase


def placed_subjects(conditioning: Sequence[Any], canvas: Canvas) -> list[Placed]:
    """The subjects of all prompts, once each where several prompts for one place have it.

    Raises:
        ValueError: the conditioning was not made by Composition Prompt, or a prompt is for no part of the canvas.
    """
    found: dict[tuple[str, Box], Placed] = {}
    for number, (encoded, rest) in enumerate(probe_of(conditioning)):
        place = place_of(rest, canvas) if PROBED in rest else WHOLE
        for subject in rest.get(PROBED, ()):
            columns = list(subject.probe_columns)
            row = encoded[0, columns].float().mean(dim=0).cpu()
            found.setdefault((subject.phrase, place), Placed(subject, place, (number, columns[0]), row))
    return list(found.values())


def subjects_of(conditioning: Sequence[Any]) -> list[Subject]:
    """The subjects of a conditioning, of all its prompts.

    Raises:
        ValueError: it was not made by Composition Prompt.
    """
    return [subject for _, rest in probe_of(conditioning) for subject in rest.get(PROBED, ())]
