"""Prompts that attributes are written into: where the text has a place for them, or behind it."""

import re
from collections.abc import Mapping

from ..reading.table import ROLES

PHRASES = {"colour": ", {} colour", "style": ", in the style of {}", "layout": ", with the layout of {}"}
"""What is written behind a prompt that has no place for an attribute."""

_PLACE = r"\{(\w+)\}"


def places_in(text: str) -> list[str]:
    """The attributes that a text has a place for, such as {colour}.

    Raises:
        ValueError: a place of something else, or two of one attribute.
    """
    found: list[str] = re.findall(_PLACE, text)
    for name in found:
        if name not in ROLES:
            raise ValueError(
                f'The prompt "{text}" has "{{{name}}}"; {", ".join(f"{{{role}}}" for role in ROLES)} are allowed.'
            )
        if found.count(name) > 1:
            raise ValueError(f'The prompt "{text}" has "{{{name}}}" more than once; once is allowed.')
    return found


def filled_in(text: str, words: Mapping[str, str]) -> str:
    """A prompt with words for some attributes, in their places or behind it; places of all others are left out."""
    places = places_in(text)
    for name in places:
        place = re.escape(f"{{{name}}}")
        word = words.get(name, "")
        if word:
            text = re.sub(place, lambda _, word=word: word, text)
        else:  # with the space beside it
            text = re.sub(rf"(?:(?<=\s)|^){place}\s+|\s*{place}", "", text)
    behind = [PHRASES[name].format(words[name]) for name in PHRASES if words.get(name) and name not in places]
    return text + "".join(behind)
