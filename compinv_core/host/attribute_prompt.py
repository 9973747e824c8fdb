"""A CONDITIONING that reads attributes of concepts, each in its cells: the blocks and stages that decide it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..concept import Concept
from ..prompts.attributes import filled_in, places_in
from ..reading.by_cell import ByCell
from ..reading.regional import Variants
from ..reading.table import P_PLUS, PROSPECT, ROLES, Table, layers_named, noises_of, stage_of
from .attention import outline
from .composition import Prompt, composition_prompt, ordinary_words
from .contexts import BY_CELL
from .text_encoder import check_embeddings, check_width, encode, find_phrase, with_concept

Signature = tuple[tuple[str, str], ...]
"""What acts in a cell: pairs of an attribute and the name of the concept that is written in its place."""


@dataclass(frozen=True)
class Use:
    """A concept, and what of it a prompt takes.

    Attributes:
        attributes: of `ROLES`.
        table: where these are read; None for where they were learnt, or for what the blocks or stages of its kind are mixed by.
    """

    concept: Concept
    attributes: Sequence[str]
    table: Table | None = None

    @property
    def where(self) -> Table:
        if self.table is not None:
            return self.table
        if set(self.concept.attributes) <= set(ROLES):
            return self.concept.table
        return P_PLUS if layers_named(list(self.concept.attributes)) else PROSPECT


def attribute_prompt(model: Any, clip: Any, text: str, phrases: Sequence[str], uses: Sequence[Use]) -> list[Any]:
    """Stock conditioning of the prompt without attributes, whose entries also hold what each block reads in each stage.

    An attribute that stands in the phrase of a subject belongs to it, and is read in its region alone where there is one.

    Args:
        model: whose blocks they are; it is not changed.
        text: a place for an attribute is written {colour}; one without a place is written behind the prompt.
        phrases: the subjects as the text writes them; none are needed.

    Raises:
        ValueError: an attribute that a concept has not, that two give, or that has no cells; a group that the model lacks.
    """
    places = places_in(text)
    tokens = _tokens(clip, uses)
    for concept in tokens.values():
        clip = with_concept(clip, concept)
    of_role = _by_role(uses)
    ordinary: dict[str, str] = {}
    if "object" in of_role:
        text, phrases = _with_object(text, phrases, of_role["object"].concept)
        ordinary = {"object": of_role["object"].concept.class_word}
    elif "object" in places:
        raise ValueError(
            f'The prompt "{text}" has {{object}}, but no concept gives its object; switch one on, or write a word.'
        )
    cuts, of_cells = _signatures(model, of_role)
    signatures: list[Signature] = list(dict.fromkeys([(), *of_cells.values()]))
    texts = [filled_in(text, {**ordinary, **{role: f"embedding:{name}" for role, name in own}}) for own in signatures]
    named = [[_phrase(phrase, ordinary, own) for phrase in phrases] for own in signatures]
    check_embeddings(clip, texts[0])
    conditioning = composition_prompt(clip, texts[0], named[0]) if phrases else encode(clip, texts[0])
    prompts: list[list[Variants]] = []
    for own, written, subjects in zip(signatures, texts, named, strict=True):
        words = {name: ordinary.get(role, "") for role, name in own}
        spans = [find_phrase(written, subject) for subject in subjects]
        prompts.append(Prompt(clip, written, spans, {**ordinary_words(clip), **words}).variants())
    numbered = {cell: signatures.index(own) for cell, own in of_cells.items()}
    names = outline(model).place_names
    return [
        [cond, {**rest, BY_CELL: ByCell(cuts, [of_text[entry] for of_text in prompts], numbered, names, texts)}]
        for entry, (cond, rest) in enumerate(conditioning)
    ]


def _phrase(phrase: str, ordinary: Mapping[str, str], own: Signature) -> str:
    """A subject's phrase as a cell's prompt writes it."""
    words = {**ordinary, **{role: f"embedding:{name}" for role, name in own}}
    return filled_in(phrase, {role: word for role, word in words.items() if f"{{{role}}}" in phrase})


def _tokens(clip: Any, uses: Sequence[Use]) -> dict[str, Concept]:
    """By its name, each attribute of a concept as a concept of its own."""
    found: dict[str, Concept] = {}
    for use in uses:
        check_width(clip, use.concept)
        layered = not set(use.concept.attributes) <= set(ROLES)
        for attribute in use.concept.attributes if layered else use.attributes:
            own = use.concept.of(attribute)
            if own.name in found:
                raise ValueError(
                    f'Two concepts are called "{use.concept.name}"; connect it once, or load one from a file of another name.'
                )
            found[own.name] = own
    return found


def _by_role(uses: Sequence[Use]) -> dict[str, Use]:
    found: dict[str, Use] = {}
    for use in uses:
        for role in use.attributes:
            if role in found:
                raise ValueError(
                    f'Both "{found[role].concept.name}" and "{use.concept.name}" give their {role}; switch it off at one of them.'
                )
            found[role] = use
    return found


def _with_object(text: str, phrases: Sequence[str], concept: Concept) -> tuple[str, Sequence[str]]:
    """A text with a place for the object of a concept, which is that of its class word where it has none, and its subjects."""
    word = concept.class_word
    if not word:
        raise ValueError(
            f'The concept "{concept.name}" has no class word, which cells read where its object does not act; give it one at Load Concept.'
        )
    if "{object}" in text:
        return text, phrases
    try:
        start, end = find_phrase(text, word)
    except ValueError:
        raise ValueError(
            f'The prompt "{text}" has no place for the object of "{concept.name}"; write {{object}} where it goes, or its '
            f'class word, "{word}".'
        ) from None
    spans = [find_phrase(text, phrase) for phrase in phrases]
    moved = [
        f"{text[first:start]}{{object}}{text[end:last]}" if first <= start and end <= last else phrase
        for phrase, (first, last) in zip(phrases, spans, strict=True)
    ]
    return f"{text[:start]}{{object}}{text[end:]}", moved


def _signatures(model: Any, of_role: Mapping[str, Use]) -> tuple[tuple[float, ...], dict[tuple[str, int], Signature]]:
    """The cuts of all tables together, and what acts in each cell where something does."""
    unet = outline(model)
    tables = {role: use.where for role, use in of_role.items()}
    for role, table in tables.items():
        if role not in table.lines:
            raise ValueError(f'The table of cells has no line for "{role}"; add one, such as "{role}: coarse in 1-2".')
    cells = {role: table.on(unet) for role, table in tables.items()}
    layered = {
        role: use.concept.table.on(unet)
        for role, use in of_role.items()
        if not set(use.concept.attributes) <= set(ROLES)
    }
    every = {cut for own in (*cells.values(), *layered.values()) for cut in own.cuts}
    cuts = tuple(sorted(every, reverse=True))
    found: dict[tuple[str, int], Signature] = {}
    for place in unet.place_names:
        for noise in noises_of(cuts):
            pairs: list[tuple[str, str]] = []
            for role, use in of_role.items():
                if role not in cells[role].acting(place, noise):
                    continue
                own = layered[role].acting(place, noise) if role in layered else [role]
                pairs += [(role, f"{use.concept.name}-{attribute}") for attribute in own[:1]]
            if pairs:
                found[place, stage_of(noise, cuts)] = tuple(pairs)
    return cuts, found
