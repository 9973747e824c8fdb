"""Prompts to train with and to read layouts from."""

import re
from collections.abc import Sequence
from random import Random

OBJECT_TEMPLATES = tuple(
    f"{kind} {{}}"
    for kind in (
        "a photo of a", "a picture of a", "an image of a", "a rendering of a", "a good photo of a", "a nice photo of a",
        "a cool photo of a", "a bright photo of a", "a dark photo of a", "a clean photo of a", "a cropped photo of a",
        "a snapshot of a", "a photo of the", "a photo of my", "a photo of one", "a picture of the", "a picture of my",
        "an image of the", "a rendering of the", "a rendering of one", "a good photo of the", "a nice photo of my",
        "a cool photo of the", "a bright photo of the", "a dark photo of the", "a clean photo of the",
        "a cropped photo of the",
    )
)  # fmt: skip
STYLE_TEMPLATES = tuple(
    f"{kind} in the style of {{}}"
    for kind in (
        "a painting", "a rendering", "a cropped painting", "the painting", "a clean painting", "a dirty painting",
        "a dark painting", "a picture", "a cool painting", "a bright painting", "a good painting", "one painting",
        "a nice painting", "a small painting", "a weird painting", "a large painting", "a drawing", "a sketch", "an image",
    )
)  # fmt: skip


FAR_AWAY = ("far away", "very small")
CLOSE_UP = ("close up", "zoomed in")
JOINTS = ("and", "next to", "with")


def prompts_about(words: Sequence[str], count: int, seed: int) -> list[tuple[str, tuple[str, ...]]]:
    """Prompts about one to three of the words, half of them and more about two, each with its subjects.

    The first ones are the same for every count.
    """
    random = Random(seed)
    found: list[tuple[str, tuple[str, ...]]] = []
    while len(found) < count:
        (number,) = random.choices((1, 2, 3), (1, 3, 1))
        subjects = tuple(random.sample(words, min(number, len(words))))
        template, joint = random.choice(OBJECT_TEMPLATES), random.choice(JOINTS)
        *others, last = subjects
        joined = f"{', a '.join(others)} {joint if len(others) < 2 else 'and'} a {last}" if others else last
        parts = [part for subject in subjects for part in subject.split()]
        if len(set(parts)) < len(parts):  # the dog of "a hot dog and a dog" could not be told from the other
            continue
        found.append((re.sub(r"\ba(?= [aeiou])", "an", template.format(joined)), subjects))
    return found
