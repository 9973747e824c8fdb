"""What the tables of the comparison show, as data: a new row, column or table is a line here.

What a row is stands in docs/RESULTS.template.md, which also says where each table goes. A row or column of which nothing is on
record is left out of a table.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cells import count, decimals, number, percent
from intervals import Estimate

CEILING, OURS, BARE, REFERENCE = "class word", "ours", "ours, no layout", "reference"
WHOLE = "ours, whole prompt"
BASELINES = ("one vector", "three vectors")
NEEDED = {CEILING, OURS, BARE, *BASELINES}  # a setting's seeds are those that all of these have
SETTINGS = ("pretrained word", "two concepts", "in a scene", "alone", "two concepts and an object", "three concepts")

ROWS = (
    CEILING,
    "one vector",
    "one vector, slowly",
    "three vectors",
    REFERENCE,
    "+ semantic",
    "+ spatial",
    "+ spatial, steered",
    "+ both",
    "ours, 8 a step",
    BARE,
    WHOLE,
    OURS,
)
"""As the records name them, in the order of the tables; a table may have rows of its own besides."""

COLUMNS: dict[str, tuple[str, Callable[[Estimate], str]]] = {
    "class": ("class present", percent),
    "look": ("own appearance", percent),
    "other": ("other present", percent),
    "other look": ("other, own appearance", percent),
    "both": ("**both present**", percent),
    "both look": ("**both, own appearance**", percent),
    "all": ("**all present**", percent),
    "all look": ("**all, own appearance**", percent),
    "scene": ("scene present", percent),
    "in scene": ("**both present**", percent),
    "look in scene": ("**both, own appearance**", percent),
    "stained": ("colour leak", percent),
    "text": ("text alignment", percent),
    "aligned": ("image alignment", decimals),
    "room": ("background leak", percent),
    "wallpaper": ("wallpaper", percent),
    "diversity": ("diversity", decimals),
    "samples": ("training samples", count),
    "forwards": ("UNet forward passes per image", number),
}
"""By key of `recorded.columns`: title, and how an estimate is written."""


@dataclass(frozen=True)
class Shown:
    """A table of the page: columns and rows of one setting, and whether what the rows rest on is written below."""

    setting: str
    columns: tuple[str, ...]
    rows: tuple[str, ...] = ROWS
    counted: bool = True


THREE_THINGS = ("class", "all", "all look", "stained")
IMAGES = ("aligned", "room", "wallpaper", "diversity")
TABLES = {
    "beside": Shown("pretrained word", ("class", "look", "other", "both", "both look", "stained", "text")),
    "beside, images": Shown("pretrained word", IMAGES, counted=False),
    "two": Shown("two concepts", ("class", "look", "other", "other look", "both", "both look", "stained", "text")),
    "two, images": Shown("two concepts", IMAGES, counted=False),
    "two and one": Shown("two concepts and an object", THREE_THINGS),
    "three": Shown("three concepts", THREE_THINGS),
    "scene": Shown("in a scene", ("class", "look", "scene", "in scene", "look in scene", "text")),
    "scene, images": Shown("in a scene", IMAGES, counted=False),
    "alone": Shown("alone", ("class", "look", *IMAGES)),
    "cost": Shown("pretrained word", ("samples", "forwards"), counted=False),
}
"""By the name that the template's marks give them."""
SECOND = {
    "second, beside": Shown(
        "pretrained word", ("class", "look", "other", "both", "both look", "stained", "aligned", "wallpaper")
    ),
    "second, two": Shown("two concepts", ("class", "look", "other", "other look", "both", "both look", "stained")),
    "second, scene": Shown("in a scene", ("class", "look", "scene", "in scene", "look in scene")),
    "second, alone": Shown("alone", ("class", "look", "aligned", "room", "wallpaper")),
}
"""The same of the world on which no setting was chosen."""
ON_RECORD = tuple(dict.fromkeys(row for shown in TABLES.values() for row in shown.rows))

IN_SHORT = {
    "one vector": "textual inversion, 1 vector, 800 training samples",
    "three vectors": "textual inversion, 3 vectors, 800 training samples",
    REFERENCE: "reference recipe, 3 vectors, 40,000 training samples",
    BARE: "this pack's training, 1,600 training samples",
    OURS: "this pack's training and sampling",
    CEILING: "class word (ceiling)",
}
"""The rows of the results in short, and what they are called there."""

IN_SHORT_COLUMNS = {
    ("pretrained word", "both"): "concept and ordinary object: both present",
    ("pretrained word", "both look"): "both, own appearance",
    ("pretrained word", "stained"): "colour leak",
    ("two concepts", "both"): "two concepts: both present",
    ("two concepts", "both look"): "both, own appearance",
    ("in a scene", "look in scene"): "in a named scene, own appearance",
}

IN_SHORT_IMAGES = {
    "pretrained word": "images per row beside ordinary objects",
    "two concepts": "of two concepts",
    "in a scene": "in scenes",
}
"""What the images of a setting are, in the line below such a table."""

IN_README = ("one vector", "three vectors", OURS, CEILING)
"""The rows of them that the README shows, too."""

IN_README_COLUMNS = {
    ("pretrained word", "both"): "concept and ordinary object: both present",
    ("pretrained word", "both look"): "both, own appearance",
    ("pretrained word", "stained"): "colour leak",
    ("two concepts", "both look"): "two concepts: both, own appearance",
}
