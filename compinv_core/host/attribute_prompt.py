"""A CONDITIONING that reads attributes of concepts, each in its cells: the blocks and stages that decide it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..concept import Concept
from ..prompts.attributes import filled_in, named_in, places_in, with_places
from ..prompts.placeholder import with_name
from ..reading.by_cell import ByCell
from ..reading.regional import Variants
from ..reading.table import P_PLUS, PROSPECT, ROLES, Table, layers_named, noises_of, stage_of
from ..sentences import quoted
from .attention import outline
from .composition import Prompt, composition_prompt, ordinary_words
from .contexts import BY_CELL
from .text_encoder import (
    check_embeddings,
    check_width,
    encode,
    find_concept,
    find_phrase,
    known_concepts,
    with_concept,
)

Signature = tuple[tuple[str, str], ...]
"""What acts in a cell: pairs of a place in the prompt and the name of the concept that is written there."""


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
        if not self.layered:
            return self.concept.table
        return P_PLUS if layers_named(list(self.concept.attributes)) else PROSPECT

    @property
    def layered(self) -> bool:
        """Whether it was learnt per block or per stage."""
        return not set(self.concept.attributes) <= set(ROLES)


@dataclass(frozen=True)
class Place:
    """What stands at a place of a prompt.

    Attributes:
        role: of `ROLES`; "" for all of a concept that was learnt per block or per stage, which each of these reads its part of.
    """

    use: Use
    role: str

    @property
    def concept(self) -> Concept:
        return self.use.concept


def attribute_prompt(
    model: Any, clip: Any, text: str, phrases: Sequence[str], uses: Sequence[Use], table: Table | None = None
) -> list[Any]:
    """Stock conditioning of the prompt without attributes, whose entries also hold what each block reads in each stage.

    An attribute that stands in the phrase of a subject belongs to it, and is read in its region alone where there is one.

    Args:
        model: whose blocks they are; it is not changed.
        text: a place for an attribute is written {colour}; one without a place is written behind the prompt. What it names itself,
            embedding:name.colour, is read there, of concepts of `uses`, of those that were applied and of files; of such a concept
            nothing else is taken. {concept} is the concept of `uses`, or without any the applied one, as in {concept}.colour.
        phrases: the subjects as the text writes them; none are needed.
        table: where attributes are read of concepts that the text alone names; see `Use`.

    Raises:
        ValueError: an attribute that a concept has not, that two give, or that has no cells; a group that the model lacks.
    """
    names = [use.concept.name for use in uses] or known_concepts(clip)
    text, *phrases = (with_name(part, names) for part in (text, *phrases))
    clip, named = _named(clip, text, uses, table)
    text, *phrases = (with_places(part, named) for part in (text, *phrases))
    told = [place.concept for place in named.values()]
    switched = _by_role([use for use in uses if all(use.concept is not one for one in told)])
    places = places_in(text, named)
    of_places = {**switched, **named}
    clip = _with_tokens(clip, of_places)
    if "object" in switched:
        text, phrases = _with_object(text, phrases, switched["object"].concept)
    elif "object" in places:
        raise ValueError(
            f'The prompt "{quoted(text)}" has {{object}}, but no concept gives its object; switch one on, or write a word.'
        )
    ordinary = {place: word for place, one in of_places.items() if (word := _ordinary(one))}
    cuts, of_cells = _signatures(model, of_places)
    signatures: list[Signature] = list(dict.fromkeys([(), *of_cells.values()]))
    texts = [filled_in(text, {**ordinary, **{place: f"embedding:{name}" for place, name in own}}) for own in signatures]
    subjects_of = [[_phrase(phrase, ordinary, own) for phrase in phrases] for own in signatures]
    check_embeddings(clip, texts[0])
    conditioning = composition_prompt(clip, texts[0], subjects_of[0]) if phrases else encode(clip, texts[0])
    prompts: list[list[Variants]] = []
    for own, written, subjects in zip(signatures, texts, subjects_of, strict=True):
        words = {name: ordinary.get(place, "") for place, name in own}
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
    words = {**ordinary, **{place: f"embedding:{name}" for place, name in own}}
    found = filled_in(phrase, {place: word for place, word in words.items() if f"{{{place}}}" in phrase})
    if not found.strip():
        raise ValueError(
            f'The subject "{quoted(phrase)}" is an attribute alone; name the thing that has it as well, such as "{{colour}} dog".'
        )
    return found


def _named(clip: Any, text: str, uses: Sequence[Use], table: Table | None) -> tuple[Any, dict[str, Place]]:
    """What a text names of concepts, by what stands behind "embedding:" there, and the CLIP that knows these concepts whole."""
    wired = {use.concept.name: use for use in uses}
    known: dict[str, Use | None] = {}

    def meant(name: str) -> Use | None:
        if name in wired:
            return wired[name]
        if name not in known:
            concept = find_concept(clip, name)
            known[name] = concept and Use(concept, (), table)
        return known[name]

    found: dict[str, Place] = {}
    for name in named_in(text):
        whole = meant(name)
        if whole is not None:
            if whole.layered or name in wired:
                clip = with_concept(clip, whole.concept)
            if whole.layered:
                found[name] = Place(whole, "")
            continue
        of_whom, dot, role = name.rpartition(".")
        use = meant(of_whom) if dot else None
        if use is None:
            continue  # which the check of embeddings says
        if not use.layered:
            use.concept.of(role)  # says which it has
        elif role not in ROLES:
            raise ValueError(
                f'The concept "{quoted(use.concept.name, 60)}" has no attribute "{quoted(role, 40)}"; as it was learnt per layer or stage, write one of '
                f"{', '.join(ROLES)}, or embedding:{quoted(of_whom, 60)} for all of it."
            )
        found[name] = Place(use, role)
    return clip, found


def _ordinary(place: Place) -> str:
    """What is read where a place's concept does not act; "" for nothing."""
    word = place.concept.class_word
    if place.role == "":
        return word or f"embedding:{place.concept.name}"
    if place.role != "object":
        return ""
    if not word:
        raise ValueError(
            f'The concept "{quoted(place.concept.name)}" has no class word, which is read where its object does not act; give it one at '
            "Load Concept."
        )
    return word


def _with_tokens(clip: Any, of_places: Mapping[str, Place]) -> Any:
    """The CLIP that also knows each attribute of these concepts, as a concept of its own."""
    of_names: dict[str, Concept] = {}
    for place in of_places.values():
        concept = place.concept
        check_width(clip, concept)
        if of_names.setdefault(concept.name, concept) is not concept:
            raise ValueError(
                f'Two concepts are called "{quoted(concept.name)}"; connect one once, or rename the file of the other.'
            )
        for attribute in concept.attributes if place.use.layered else [place.role]:
            clip = with_concept(clip, concept.of(attribute))
    return clip


def _by_role(uses: Sequence[Use]) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for use in uses:
        for role in use.attributes:
            if role in found:
                raise ValueError(
                    f'Both "{quoted(found[role].concept.name)}" and "{quoted(use.concept.name)}" give their {role}; switch it off at one of them.'
                )
            found[role] = Place(use, role)
    return found


def _with_object(text: str, phrases: Sequence[str], concept: Concept) -> tuple[str, Sequence[str]]:
    """A text with a place for the object of a concept, which is that of its class word where it has none, and its subjects."""
    word = concept.class_word
    if "{object}" in text or not word:
        return text, phrases
    try:
        start, end = find_phrase(text, word)
    except ValueError:
        raise ValueError(
            f'The prompt "{quoted(text)}" has no place for the object of "{quoted(concept.name, 40)}"; write {{object}} where it goes, or its '
            f'class word, "{quoted(word, 40)}".'
        ) from None
    spans = [find_phrase(text, phrase) for phrase in phrases]
    moved = [
        f"{text[first:start]}{{object}}{text[end:last]}" if first <= start and end <= last else phrase
        for phrase, (first, last) in zip(phrases, spans, strict=True)
    ]
    return f"{text[:start]}{{object}}{text[end:]}", moved


def _signatures(
    model: Any, of_places: Mapping[str, Place]
) -> tuple[tuple[float, ...], dict[tuple[str, int], Signature]]:
    """The cuts of all tables together, and what acts in each cell where something does."""
    unet = outline(model)
    tables = {place: one.use.where for place, one in of_places.items() if one.role}
    for place, table in tables.items():
        role = of_places[place].role
        if role not in table.lines:
            raise ValueError(
                f'The table of cells has no line for "{quoted(role, 40)}"; add one, such as "{quoted(role, 40)}: coarse in 1-2".'
            )
    cells = {place: table.on(unet) for place, table in tables.items()}
    layered = {place: one.concept.table.on(unet) for place, one in of_places.items() if one.use.layered}
    every = {cut for own in (*cells.values(), *layered.values()) for cut in own.cuts}
    cuts = tuple(sorted(every, reverse=True))
    found: dict[tuple[str, int], Signature] = {}
    for block in unet.place_names:
        for noise in noises_of(cuts):
            pairs: list[tuple[str, str]] = []
            for place, one in of_places.items():
                if one.role and one.role not in cells[place].acting(block, noise):
                    continue
                own = layered[place].acting(block, noise) if place in layered else [one.role]
                pairs += [(place, f"{one.concept.name}-{attribute}") for attribute in own[:1]]
            if pairs:
                found[block, stage_of(noise, cuts)] = tuple(pairs)
    return cuts, found
