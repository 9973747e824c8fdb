"""Prompts that attributes are written into: where the text has a place for them, or behind it."""

import re
from collections.abc import Collection, Mapping

from ..reading.table import ROLES
from ..sentences import quoted

PHRASES = {"colour": ", {} colour", "style": ", in the style of {}", "layout": ", with the layout of {}"}
"""What is written behind a prompt that has no place for an attribute."""

_PLACE = r"\{([\w./-]+)\}"
_NAMED = r"embedding:(\w(?:[\w./-]*\w)?)"
_WEIGHT = r":\d+(?:\.\d+)?"


def named_in(text: str) -> list[str]:
    """What stands behind "embedding:" in a text, each once; a dot that ends a sentence is no part of it."""
    return list(dict.fromkeys(re.findall(_NAMED, text)))


def with_places(text: str, names: Collection[str]) -> str:
    """A text with a place, {name}, for each of these where it has embedding:name."""
    return re.sub(_NAMED, lambda found: f"{{{found[1]}}}" if found[1] in names else found[0], text)


def places_in(text: str, names: Collection[str] = ()) -> list[str]:
    """What a text has a place for: attributes, such as {colour}, and names.

    Raises:
        ValueError: a place of something else, or two of one attribute.
    """
    found: list[str] = re.findall(_PLACE, text)
    for name in found:
        if name in names:
            continue
        if name not in ROLES:
            raise ValueError(
                f'The prompt "{quoted(text)}" has "{{{quoted(name, 40)}}}"; {", ".join(f"{{{role}}}" for role in ROLES)} are allowed.'
            )
        if found.count(name) > 1:
            raise ValueError(f'The prompt "{quoted(text)}" has "{{{name}}}" more than once; write it once.')
    return found


def filled_in(text: str, words: Mapping[str, str]) -> str:
    """A prompt with words for some attributes, in their places or behind it; places of all others are left out, with their weight."""
    places: list[str] = re.findall(_PLACE, text)
    for name in dict.fromkeys(places):
        place = re.escape(f"{{{name}}}")
        word = words.get(name, "")
        if word:
            text = re.sub(place, lambda _, word=word: word, text)
        else:  # with the space beside it
            empty = rf"(?:{place}|\({place}(?:{_WEIGHT})?\))"
            text = re.sub(rf"(?:(?<=\s)|^){empty}\s+|\s*{empty}", "", text)
    behind = [PHRASES[name].format(words[name]) for name in PHRASES if words.get(name) and name not in places]
    return text + "".join(behind)
