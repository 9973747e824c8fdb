"""Where each attribute of a concept is read: a table of cells, each a block of the UNet in a stage of the noise schedule.

The table is data: a few lines of text, which nodes show and users edit.

    stages: 750, 500, 250
    colour: moderate|fine in 1-2
    object: coarse in 2-3; output 3
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

from ..families.unet import Group, Outline
from ..sentences import quoted

TIMESTEPS = 1000  # what cuts are written in; other schedules are taken as parts of it
ALL, NONE = "all", "none"
GROUPS = (*get_args(Group), ALL)
_PLACE = r"(input|middle|output) \d{1,3}"
_NAME = r"[A-Za-z][A-Za-z0-9_-]*"


@dataclass(frozen=True)
class Clause:
    """Some blocks in some stages.

    Attributes:
        blocks: a group, "all", a place ("output 3"), or several groups with "|" between, of which the first counts that the model has.
        stages: numbers from 1, which is where an image begins; empty for all of them.
    """

    blocks: tuple[str, ...]
    stages: tuple[int, ...] = ()

    def __str__(self) -> str:
        stages = f" in {_ranges(self.stages)}" if self.stages else ""
        return ", ".join(self.blocks) + stages


@dataclass(frozen=True)
class Table:
    """Which attribute acts where, for any model.

    Attributes:
        cuts: timesteps, of 1000 and falling, at which the next stage begins: n of them make n + 1 stages.
        lines: attribute -> its cells; none for one that acts nowhere.
    """

    cuts: tuple[float, ...]
    lines: Mapping[str, tuple[Clause, ...]]

    def __post_init__(self) -> None:
        ends = (float(TIMESTEPS), *self.cuts, 0.0)
        if any(not before > after for before, after in pairwise(ends)):
            raise ValueError(
                f'The table of cells has "stages: {quoted(_numbers(self.cuts))}"; numbers that fall, between {TIMESTEPS} and 0, are allowed.'
            )
        for name, clauses in self.lines.items():
            for stage in (stage for clause in clauses for stage in clause.stages):
                if not 1 <= stage <= len(self.cuts) + 1:
                    raise ValueError(
                        f'The table of cells gives "{quoted(name)}" the stage {stage}; 1 to {len(self.cuts) + 1} are allowed.'
                    )

    def __str__(self) -> str:
        """As `parsed` reads it."""
        lines = [f"{name}: {'; '.join(map(str, clauses)) or NONE}" for name, clauses in self.lines.items()]
        return "\n".join(([f"stages: {_numbers(self.cuts)}"] if self.cuts else []) + lines)

    def on(self, outline: Outline) -> "Cells":
        """The cells of a model.

        Raises:
            ValueError: a group or a place that this model lacks.
        """
        every = range(1, len(self.cuts) + 2)
        found: dict[str, frozenset[tuple[str, int]]] = {}
        for name, clauses in self.lines.items():
            found[name] = frozenset(
                (place, stage)
                for clause in clauses
                for blocks in clause.blocks
                for place in _places(outline, blocks, name)
                for stage in clause.stages or every
            )
        return Cells(self.cuts, found)


@dataclass(frozen=True)
class Cells:
    """Which attribute acts where in one model.

    Attributes:
        cuts: see `Table`.
        of: attribute -> (name of a place, stage).
    """

    cuts: tuple[float, ...]
    of: Mapping[str, frozenset[tuple[str, int]]]

    def acting(self, place: str, noise: float) -> list[str]:
        """The attributes that act in a block.

        Args:
            noise: the share of the schedule's timesteps that lies below, 0..1; 1 is pure noise.
        """
        cell = place, stage_of(noise, self.cuts)
        return [name for name, cells in self.of.items() if cell in cells]


def stage_of(noise: float, cuts: Sequence[float]) -> int:
    """The stage, from 1, of a timestep, given as the share of timesteps below it."""
    return 1 + sum(noise * TIMESTEPS < cut for cut in cuts)


def noises_of(cuts: Sequence[float]) -> list[float]:
    """One timestep in each stage, as the share of timesteps below it: where the stage ends."""
    return [cut / TIMESTEPS for cut in (*cuts, 0.0)]


def parsed(text: str) -> Table:
    """A table from its text; lines that begin with # are comments.

    Raises:
        ValueError: one sentence on the line that cannot be read.
    """
    cuts: tuple[float, ...] = ()
    lines: dict[str, tuple[Clause, ...]] = {}
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        name, colon, rest = (part.strip() for part in line.partition(":"))
        if not colon or not re.fullmatch(_NAME, name) or name in lines:
            raise ValueError(
                f'The table of cells has the line "{quoted(line)}"; one line for each attribute is allowed, such as "colour: fine in 1-2".'
            )
        if name == "stages":
            cuts = _cuts(rest)
        else:
            lines[name] = () if rest in ("", NONE) else tuple(_clause(part, line) for part in rest.split(";"))
    return Table(cuts, lines)


def clauses_of(cells: Sequence[tuple[str, int]], every: Sequence[str], stages: int) -> tuple[Clause, ...]:
    """Cells (a group or a place, stage), as a line of a table writes them: those of the same stages together.

    Args:
        every: all groups or places that the model has; all of them are "all".
        stages: how many there are.
    """
    of_blocks: dict[str, set[int]] = {}
    for blocks, stage in cells:
        of_blocks.setdefault(blocks, set()).add(stage)
    of_stages: dict[tuple[int, ...], list[str]] = {}
    for blocks, own in of_blocks.items():
        of_stages.setdefault(() if len(own) == stages else tuple(sorted(own)), []).append(blocks)
    return tuple(
        Clause((ALL,) if set(blocks) == set(every) else tuple(blocks), own) for own, blocks in of_stages.items()
    )


def _cuts(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f'The table of cells has "stages: {quoted(text)}"; timesteps with commas between are allowed, such as "750, 500, 250".'
        ) from None


def _clause(text: str, line: str) -> Clause:
    blocks, _, stages = (part.strip() for part in re.sub(r"\s+in\s+", "@", text.strip()).partition("@"))
    named = tuple(" ".join(part.split()) for part in blocks.split(","))
    for part in named:
        if not (re.fullmatch(_PLACE, part) or all(group.strip() in GROUPS for group in part.split("|"))):
            raise ValueError(
                f'The table of cells has "{quoted(part, 40)}" in the line "{quoted(line, 60)}"; {", ".join(GROUPS)}, or the name of a block such as '
                '"output 3", are allowed.'
            )
    numbers: list[int] = []
    for part in stages.split(",") if stages else []:
        found = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4}))?\s*", part)
        if found is None:
            raise ValueError(
                f'The table of cells has the stages "{quoted(stages, 40)}" in the line "{quoted(line, 60)}"; numbers and ranges are allowed, such as "1, 3-4".'
            )
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return Clause(named, tuple(numbers))


def _places(outline: Outline, blocks: str, name: str) -> list[str]:
    """The places that a part of a clause names, of a model."""
    groups = outline.places_by_group
    if blocks in outline.place_names:
        return [blocks]
    for group in (part.strip() for part in blocks.split("|")):
        if group == ALL:
            return outline.place_names
        for own, places in groups.items():
            if group == own:
                return places
    raise ValueError(
        f'The table of cells gives "{quoted(name, 40)}" to "{quoted(blocks, 40)}", which this model lacks; it has {", ".join(groups)}, and the blocks '
        f"{', '.join(outline.place_names)}."
    )


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 5 as "1-3, 5"."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in found)


def _numbers(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


# ---- presets

ROLES = ("colour", "style", "object", "layout")

MATTE = parsed("""
stages: 750, 500, 250
colour: moderate|fine in 1-2
style: moderate|fine in 1-2
object: coarse in 2-3
layout: coarse in 1
""")
"""Our reading of Agarwal et al. (2023), which tells what acts where and not where stages begin: four equal ones are taken."""

B_LORA = parsed("""
colour: output 1
style: output 1
object: output 0
layout: input 8
""")
"""SDXL's blocks for content and style, as found by Frenkel et al. (2024), and the one for layout that users of InstantStyle name."""

P_PLUS = parsed("""
colour: moderate|fine, fine
style: moderate|fine, fine
object: coarse
layout: coarse
""")
"""What the layers of P+ (Voynov et al. 2023) are mixed by: shape in the coarse ones, appearance in all others."""

PROSPECT = parsed("""
stages: 900, 800, 500
colour: all in 4
style: all in 4
object: all in 3-4
layout: all in 1
""")
"""What the stages of ProSpect (Zhang et al. 2023) are used for: its ten, as far as they differ in that."""

XTI = (
    "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID",
    "OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11",
)  # fmt: skip
"""The keys of kohya's XTI files, all of them and no others: the cross-attentions of SD 1.x in the order in which they run."""

PRESETS = {"MATTE": MATTE, "P+": P_PLUS, "ProSpect": PROSPECT, "B-LoRA": B_LORA}
STAGES_OF_PROSPECT = 10


def per_layer(outline: Outline) -> Table:
    """An attribute for each block (P+, Voynov et al. 2023, XTI), named as kohya's scripts name its files' keys: IN01, MID, OUT03."""
    short = {"input": "IN{:02d}", "middle": "MID", "output": "OUT{:02d}"}
    return Table(
        (), {short[part].format(i): (Clause((f"{part} {i}",)),) for part, i in (p.name for p in outline.places)}
    )


def layers_named(names: Sequence[str]) -> Table | None:
    """The table of blocks that have these names of kohya's; None where one is no such name."""
    parts = {"IN": "input", "MID": "middle", "OUT": "output"}
    found = [re.fullmatch(r"(IN|MID|OUT)(\d\d)?", name) for name in names]
    if not names or not all(found):
        return None
    places = {
        name: f"{parts[match[1]]} {int(match[2] or 0)}" for name, match in zip(names, found, strict=True) if match
    }
    return Table((), {name: (Clause((place,)),) for name, place in places.items()})


def per_stage(count: int = STAGES_OF_PROSPECT) -> Table:
    """An attribute for each of so many equal stages (ProSpect, Zhang et al. 2023): stage1 is where an image begins."""
    cuts = tuple(TIMESTEPS * (count - i) / count for i in range(1, count))
    return Table(cuts, {f"stage{i}": (Clause((ALL,), (i,)),) for i in range(1, count + 1)})
