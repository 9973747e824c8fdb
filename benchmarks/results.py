"""docs/RESULTS.md and docs/results.json: what the records of the comparison, of training's length and of the judge amount to.

python benchmarks/results.py              runs what the records lack first: hours on a CPU, and it goes on where it stopped
python benchmarks/results.py --draw       only draws what is on record, in seconds
python benchmarks/results.py --readme     also writes the README's table, between its two comments
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import curves
import findings
import frontier
import numpy as np
from drawing import draw_sheet
from intervals import Estimate, Members, change, estimate, part_of, true_share
from PIL import Image
from recorded import FOLDER, Columns, Record, columns, latest, members_of, records, seeds_of, units_of

HERE = Path(__file__).parent
ROOT = HERE.parent
DOCS = ROOT / "docs"
PICTURES = ROOT / "composition_output" / "pictures"
ROUNDED = 1e-4  # what the figures' writing may differ by
MARKS = ("<!-- results: begin -->", "<!-- results: end -->")
CEILING, OURS, BARE, REFERENCE = "class word", "ours", "ours, no layout", "reference"
BASELINES = ("one vector", "three vectors")
NEEDED = {CEILING, OURS, BARE, *BASELINES}  # for the README's table
ROWS = {
    CEILING: "the class word itself: what the model can do",
    "one vector": "plain textual inversion, one vector, 800 pictures: at a rate of 0.1, falling to nothing; it is learnt, and gives up "
    "its class",
    "one vector, slowly": "plain textual inversion, one vector, 800 pictures, a lower rate: 0.03, which the validation concepts do not tell "
    "from 0.1 by its look; it keeps its class, and little is learnt",
    "three vectors": "plain textual inversion, three vectors, 800 pictures: the best rate of three, falling to nothing",
    REFERENCE: "the reference's recipe, three vectors, 40,000 pictures: plain textual inversion as the reference implementation does it, its "
    "learning rate constant (the best of three on validation concepts), the class word behind the new one",
    "+ semantic": "three vectors and the class word as their anchor: the background is learnt as well",
    "+ spatial": "three vectors, sampled with the paper's guidance: towards a recovered layout",
    "+ spatial, steered": "three vectors, sampled with attention steered to that layout instead",
    "+ both": "that anchor and the paper's guidance",
    "ours, 8 a step": "this pack's training with twice as many pictures a step, 3,200 pictures: else at its defaults",
    BARE: "this pack's training at its defaults, 1,600 pictures: background left out, anchor 0.1, three vectors",
    OURS: "this pack's training and sampling at their defaults: steered to a recovered layout",
}
"""What each row is; before the colon, in few words."""
SHOWN = {
    "pretrained word": ("both", "both look", "stained"),
    "two concepts": ("both", "both look"),
    "in a scene": ("look in scene",),
}
"""Of each setting, what the README's table shows."""
REPAIR = ("with anchors", BASELINES)  # the row that repair is held against, and what is repaired
SETTINGS = {
    "pretrained word": "The word beside an ordinary one",
    "two concepts": "Two learnt words",
    "in a scene": "The word in a scene",
    "alone": "The word alone",
}
PERCENT = {
    "class": "its class is there",
    "look": "in its own look",
    "other": "the other thing is there",
    "other look": "the other in its own look",
    "both": "**both**",
    "both look": "**both, in their own look**",
    "scene": "the scene is there",
    "in scene": "**both**",
    "look in scene": "**both, in its own look**",
    "text": "text alignment",
    "room": "owner's background",
    "wallpaper": "wallpaper",
    "stained": "colour on the other thing",
}
NUMBERS = {
    "aligned": "image alignment",
    "diversity": "diversity",
    "forwards": "UNet forwards a picture",
    "samples": "training samples",
}
ORDER = ("class", "look", "other", "other look", "both", "both look", "scene", "in scene", "look in scene", "text", "aligned", "room", "wallpaper", "stained", "diversity", "forwards", "samples")  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Of one setting: each row's values and seeds, and of which concepts their units are."""

    rows: dict[str, Columns]
    seeds: dict[str, list[int]]
    members: Members

    def above(self, row: str, base: str, key: str) -> Estimate:
        """By what fraction a row's mean is above another's, over the seeds that both have."""
        both = [seed for seed in self.seeds[row] if seed in self.seeds[base]]
        mine, its = (self.rows[one][key][:, [self.seeds[one].index(seed) for seed in both]] for one in (row, base))
        return change(mine, its, self.members)


def tables(found: list[Record]) -> dict[str, Table]:
    """By setting, each row's values for the seeds that the rows of NEEDED have, or for those of them that it has."""
    result: dict[str, Table] = {}
    for setting in SETTINGS:
        by_row = {row: [r for r in found if r["row"] == row and r["setting"] == setting] for row in ROWS}
        units = units_of([r for r in found if r["setting"] == setting])
        whole = {row: set(seeds_of(mine, units)) for row, mine in by_row.items() if seeds_of(mine, units)}
        needed = [seeds for row, seeds in whole.items() if row in NEEDED]
        seeds = set[int].intersection(*needed) if needed else set[int]()
        of_row = {row: sorted(its & seeds) for row, its in whole.items() if its & seeds}
        rows = {row: columns(by_row[row], its) for row, its in of_row.items()}
        result[setting] = Table(rows, of_row, members_of(units))
    return result


def summary(table: Table) -> dict[str, Any]:
    """Of every row the columns' estimates, and how much they rest on."""
    said: dict[str, Any] = {}
    for row, values in table.rows.items():
        units, seeds, prompts, pictures = values["class"].shape
        known = {key: estimate(array, table.members) for key, array in values.items() if not np.isnan(array).all()}
        counts = {"units": units, "seeds": seeds, "pictures": units * seeds * prompts * pictures}
        said[row] = {**counts, "columns": known}
    return said


@dataclass(frozen=True)
class Goal:
    """What was wanted, what was found against each of what it is compared with, and why it is not more."""

    wanted: str
    bound: float
    figures: Mapping[str, Estimate]
    most: bool = False  # whether the bound is not to be exceeded
    reason: str = ""

    @property
    def reached(self) -> bool:
        return all(self._holds(e.value) for e in self.figures.values())

    @property
    def sure(self) -> bool:
        """Whether no interval holds figures on the other side of the bound."""
        both_ends = [[self._holds(e.low), self._holds(e.high)] for e in self.figures.values()]
        return all(map(all, both_ends)) if self.reached else any(not any(ends) for ends in both_ends)

    def _holds(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound


def goals(tables: Mapping[str, Table], learning: Mapping[str, Any], judge: Mapping[str, Any]) -> list[Goal]:
    result: list[Goal] = []
    for setting, more in (("pretrained word", 1.0), ("two concepts", 0.2)):
        table = tables[setting]
        if not {CEILING, OURS, *BASELINES} <= set(table.rows):
            continue
        ours, ceiling = table.rows[OURS], table.rows[CEILING]
        plain = [row for row in (*BASELINES, REFERENCE) if row in table.rows]

        def gain(key: str, table: Table = table, plain: Sequence[str] = plain) -> dict[str, Estimate]:
            return {f"against {row}": table.above(OURS, row, key) for row in plain}

        def room(key: str, table: Table = table, plain: Sequence[str] = plain) -> str:
            most = (f"{table.above(CEILING, row, key).value:+.0%} against {row}" for row in plain)
            return f"the class word itself has {', '.join(most)}"

        result.append(
            Goal(
                f"{setting}: the other thing is there {more:.0%} more often than with plain textual inversion",
                more,
                gain("other"),
                reason=room("other"),
            )
        )
        result.append(Goal(f"{setting}: both are there {more:.0%} more often", more, gain("both"), reason=room("both")))
        look = colour(tables, judge)
        result.append(
            Goal(f"{setting}: both in their own look {more:.0%} more often", more, gain("both look"), reason=look)
        )
        parts = {
            "both by class": part_of(ours["both"], ceiling["both"], table.members),
            "both in their own look": part_of(ours["both look"], ceiling["both"], table.members),
        }
        for name, part in parts.items():
            reason = weakest(table) if name == "both by class" else look
            result.append(
                Goal(f"{setting}: {name} in 90% of what the class word reaches", 0.9, {"of it": part}, reason=reason)
            )
        result.append(
            Goal(
                f"{setting}: image alignment at most 3% below plain textual inversion's",
                -0.03,
                gain("aligned"),
            )
        )
        batch = ours["class"].shape[-1]
        cost = part_of(ours["forwards"], ceiling["forwards"], table.members)
        alone = Estimate(*(1 + batch * (value - 1) for value in (cost.value, cost.low, cost.high)))
        for pictures, times in ((batch, cost), (1, alone)):
            wanted = f"{setting}: sampling costs at most 1.15 of plain sampling, {pictures} picture{'s'[: pictures > 1]} a prompt"
            result.append(Goal(wanted, 1.15, {"of it": times}, most=True, reason=PROBE))
    if learning and curves.comparable(learning):
        for share, said in learning["shares"].items():
            end, ours = said["at its end"]["samples"], learning["default"]
            wanted = (
                f"training: {curves.SHARES[share]} after {ours:,} pictures as often as with the reference after {end:,}"
            )
            reason = likeness(tables["alone"]) if share == "alone" else ""
            result.append(Goal(wanted, 0.0, {"against the reference": said["against its end"]}, reason=reason))
        if "scenes" in learning:
            wanted = (
                f"training: in its colour in a scene that the prompt names after {learning['default']:,} pictures as often as "
                "with the reference"
            )
            against = {"against the reference": learning["scenes"]["against its end"]}
            result.append(Goal(wanted, 0.0, against, reason=steered(tables["in a scene"])))
    return result


def repair_goals(found: list[Record]) -> list[Goal]:
    _, parts = findings.repair(found, *REPAIR)
    if not parts:
        return []
    wanted = "repair: two thirds of the presence that training with anchors gives"
    gains = {
        key: {f"of it for {row}": part["gain"][key] for row, part in parts.items()} for key in ("both by class", "both")
    }
    return [
        Goal(f"{wanted}, by class", 2 / 3, gains["both by class"]),
        Goal(f"{wanted}, in its colour", 2 / 3, gains["both"], reason=UNSURE),
        Goal(
            "repair: image alignment at most 3% below the old word's",
            -0.03,
            {f"for {row}": part["alike"] for row, part in parts.items()},
        ),
    ]


PROBE = (
    "a recovered layout takes the model through eight steps of its own, once a prompt; with boxes side by side or a predicted "
    "layout sampling costs what plain sampling does"
)
UNSURE = "what the old word renders half of the time is not made surer by learning from what it renders"


def weakest(table: Table) -> str:
    """Where ours has both least often, and what ordinary words have there."""
    ours, most = (np.nanmean(table.rows[row]["both"], axis=(1, 2, 3)) for row in (OURS, CEILING))
    least = int(ours.argmin())
    where = " and ".join(sorted(table.members[least]))
    return f"least of all with {where}: {ours[least]:.0%}, where ordinary words have {most[least]:.0%}"


def colour(tables: Mapping[str, Table], judge: Mapping[str, Any]) -> str:
    """Why a learnt word is missing its look where its class is there."""
    alone = tables["alone"].rows.get(BARE)
    if alone is None:
        return ""
    tests = [judge["names"][name]["found"] for name, split in judge["split"].items() if split == "test"]
    return (
        f"even alone the word is in its own look in {np.nanmean(alone['look']):.0%} of pictures only, where the judge finds that "
        f"in {min(tests):.0%} to {max(tests):.0%} of drawn scenes: its exact colour has no name, and CFG makes too much of it"
    )


def likeness(alone: Table) -> str:
    """What is known of why a word is less alike alone than the reference's."""
    if not {CEILING, BARE, REFERENCE} <= set(alone.rows) or "wallpaper" not in alone.rows[BARE]:
        return ""
    theirs, ours, most = (f"{np.nanmean(alone.rows[row]['wallpaper']):.0%}" for row in (REFERENCE, BARE, CEILING))
    look, papered = (alone.rows[BARE][key] for key in ("look", "wallpaper"))
    before, elsewhere = (f"{np.nanmean(look[papered == there]):.0%}" for there in (1, 0))
    return (
        f"where the prompt names no scene the reference's words bring what they were learnt with, wallpaper, in {theirs} of their "
        f"pictures (ours in {ours}, the class word in {most}), and where it names one their lead is smaller, see below; but wallpaper "
        f"alone does not explain it: ours is in its look in {before} of the pictures with it and in {elsewhere} of the others"
    )


def steered(scenes: Table) -> str:
    """What sampling adds to training where a scene is named."""
    if not {OURS, BARE, REFERENCE} <= set(scenes.rows):
        return ""
    ours, bare, theirs = (f"{np.nanmean(scenes.rows[row]['look in scene']):.0%}" for row in (OURS, BARE, REFERENCE))
    return f"on the test concepts ours has {bare} and the reference {theirs}, and ours sampled at this pack's defaults {ours}"


def by_scene(found: Sequence[Record]) -> dict[str, dict[str, float]]:
    """In which scenes words have their own look: by row the share in each."""
    said: dict[str, dict[str, float]] = {}
    for row in (REFERENCE, BARE):
        mine = [r for r in found if r["row"] == row and r["setting"] == "in a scene"]
        if mine:
            shares = np.mean([r["look"] for r in mine], axis=(0, 2)).tolist()
            said[row] = dict(zip(mine[0]["prompts"], shares, strict=True))
    return said


def scene_by_scene(said: Mapping[str, Mapping[str, float]]) -> str:
    rows = (f"{row}: " + ", ".join(f"{room} {e:.0%}" for room, e in rooms.items()) for row, rooms in said.items())
    return f"In its own look, scene by scene: {'; '.join(rows)}." if said else ""


def cell(key: str, e: Estimate | None) -> str:
    if e is None:
        return ""
    if key in PERCENT:
        return f"{e.value:.0%} ({e.low * 100:.0f} to {e.high * 100:.0f})"
    if key in ("aligned", "diversity"):
        return f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})"
    return f"{e.value:,.4g}"


def markdown(said: Mapping[str, Any]) -> str:
    """A line a row."""
    keys = [key for key in ORDER if any(key in row["columns"] for row in said.values())]
    if all(row["columns"].get("other look") == row["columns"].get("other") for row in said.values()):
        keys = [key for key in keys if key != "other look"]  # ordinary words have no look of their own
    names, most = {**PERCENT, **NUMBERS}, max(row["seeds"] for row in said.values())
    lines = ["| | " + " | ".join(names[key] for key in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for row, values in said.items():
        fewer = f" ({values['seeds']} seed{'s'[: values['seeds'] > 1]})" if values["seeds"] < most else ""
        lines.append(f"| {row}{fewer} | " + " | ".join(cell(key, values["columns"].get(key)) for key in keys) + " |")
    return "\n".join(lines)


def told(goal: Goal) -> str:
    def figure(e: Estimate) -> str:
        if e.value == math.inf:
            return "from none"
        if e.high == math.inf:
            return f"{e.value:+.0%} ({e.low:+.0%} or more)"
        return f"{e.value:+.0%}" + (f" ({e.low:+.0%} to {e.high:+.0%})" if e.low != e.high else "")

    def ratio(e: Estimate) -> str:
        return f"{e.value:.2g}" + (f" ({e.low:.2g} to {e.high:.2g})" if e.low != e.high else "")

    write: Callable[[Estimate], str] = ratio if any(name.startswith("of ") for name in goal.figures) else figure
    found = ", ".join(f"{write(e)} {name}" for name, e in goal.figures.items())
    reason = f"; {goal.reason}" if goal.reason and not goal.reached else ""
    answer = f"**{'reached' if goal.reached else 'not reached'}**" + ("" if goal.sure else ", within its error")
    return f"| {goal.wanted} | {answer} | {found}{reason} |"


def draw_sheets(found: list[Record]) -> None:
    """Contact sheets of the pictures that are kept; the ones before stay where those are not."""
    folder = DOCS / "results"
    folder.mkdir(parents=True, exist_ok=True)
    prompts = {(r["setting"], r["unit"]): r["prompts"] for r in found}
    single = sorted(unit for setting, unit in prompts if setting == "pretrained word")
    double = sorted(unit for setting, unit in prompts if setting == "two concepts")
    wanted = {unit: ("pretrained word", [unit]) for unit in single} | {"two_concepts": ("two concepts", double)}
    wanted |= {f"{unit}_in_a_scene": ("in a scene", [unit]) for unit in single}
    for name, (setting, units) in wanted.items():
        files = {row: [PICTURES / f"test, {row}, {setting}, {unit}.png" for unit in units] for row in ROWS}
        files = {row: mine for row, mine in files.items() if mine and all(file.exists() for file in mine)}
        if OURS in files:
            strips = {row: joined([Image.open(file) for file in mine]) for row, mine in files.items()}
            titles = [title.replace(" and ", "\n") for unit in units for title in prompts[setting, unit]]
            draw_sheet(strips, titles, folder / f"{name}.jpg")


def joined(strips: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (sum(strip.width for strip in strips), strips[0].height))
    left = 0
    for strip in strips:
        whole.paste(strip, (left, 0))
        left += strip.width
    return whole


def judge_section(judge: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    names = judge["names"]
    tests = [name for name, split in judge["split"].items() if split == "test"]
    rooms = [name for name in names if name.startswith("room of ")]
    classes = [name for name in names if name not in judge["split"] and name not in rooms]
    lines = ["| | " + " | ".join(classes + tests) + " |", "|---" * (len(classes + tests) + 1) + "|"]
    for key in ("found", "made up"):
        lines.append(f"| {key} | " + " | ".join(f"{names[name][key]:.1%}" for name in classes + tests) + " |")

    def rate(key: str, of: Sequence[str]) -> float:
        return float(np.mean([names[name][key] for name in of]))

    hit = rate("found", classes)
    rows = found["pretrained word"]
    undone: list[str] = []
    for key, title, of in (("both", "both by class", classes), ("both look", "both in their own look", tests)):
        errors = (rate("found", of) * hit, rate("made up", of) * hit)
        told = ", ".join(
            f"{row} {said:.1%} → {true_share(said, *errors):.1%}"
            for row in (*BASELINES, OURS, CEILING)
            if row in rows and not (row == CEILING and key == "both look")
            for said in [rows[row]["columns"][key].value]
        )
        undone.append(f"{title}: {told}")
    corrected = (
        f"Its error undone, beside an ordinary word would be {'; '.join(undone)}. That takes the two verdicts for independent and the "
        "pictures for as clear as scenes; it moves all rows alike."
        if rows
        else ""
    )
    aligned = judge["alignment"]
    scale = {key: np.mean([aligned[name][key] for name in tests]) for key in ("itself", "another look")}
    return f"""Of {judge["scenes"]:,} new scenes that went through the autoencoder: of the things that are there the share found, and of
the scenes without one the share where it is made up.

{chr(10).join(lines)}

Of owners' rooms {rate("found", rooms):.1%} are found, and in {rate("made up", rooms):.2%} of other scenes one of them is made up. The tables give what the
judge says. {corrected}

Image alignment by the same measure is {scale["itself"]:.3f} for the painter's own scenes of the test concepts, elsewhere and among
other things, and {scale["another look"]:.3f} for scenes with their classes in any other look."""


def candidates_section(found: list[Record]) -> str:
    """What the baselines' settings were chosen from."""
    if not found:
        return "No candidate is on record."
    lines = ["| | both | both, in their own look | image alignment |", "|---|---|---|---|"]
    for row in dict.fromkeys(r["row"] for r in found):
        mine = [r for r in found if r["row"] == row]
        seeds = seeds_of(mine, units_of(found))
        if seeds:
            values = columns(mine, seeds)
            cells = (cell(key, estimate(values[key])) for key in ("both", "both look", "aligned"))
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readme_table(said: Mapping[str, Any]) -> str:
    rows = {row: ROWS[row] for row in (*BASELINES, REFERENCE, BARE, OURS, CEILING) if row in said["pretrained word"]}
    columns = [(setting, key) for setting, keys in SHOWN.items() for key in keys]
    titles = {
        ("pretrained word", "both"): "yours and the other are there",
        ("pretrained word", "both look"): "and yours in its colour",
        ("pretrained word", "stained"): "your colour on the other",
        ("two concepts", "both"): "two of yours: both are there",
        ("two concepts", "both look"): "each in its colour",
        ("in a scene", "look in scene"): "yours in its colour, in a scene you name",
    }
    lines = ["| | " + " | ".join(titles[column] for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row, title in rows.items():
        seeds, most = (said["pretrained word"][one]["seeds"] for one in (row, OURS))
        title = title.split(":")[0] + (f" ({seeds} seed{'s'[: seeds > 1]})" if seeds < most else "")
        cells: list[str] = []
        for setting, key in columns:
            e = said[setting].get(row, {}).get("columns", {}).get(key)
            chance = row == CEILING and key in ("both look", "look in scene")  # a class word asks for no look
            cells.append("" if e is None or chance else f"{e.value:.0%}" if row != OURS else f"**{e.value:.0%}**")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    counts = [said[setting][OURS] for setting in SHOWN]
    lines += [
        "",
        f"*{counts[0]['units']} concepts that chose no setting, {counts[0]['seeds']} seed{'s'[: counts[0]['seeds'] > 1]} of training, {counts[0]['pictures']:,} "
        f"pictures a row beside ordinary words, {counts[1]['pictures']:,} of two learnt words and {counts[2]['pictures']:,} in scenes. Intervals, more rows and what was "
        "not reached: [docs/RESULTS.md](docs/RESULTS.md).*",
    ]
    return "\n".join(lines)


def with_table(readme: str, table: str) -> str:
    """The README with another table between the two comments.

    Raises:
        ValueError: it lacks them.
    """
    begin, end = MARKS
    if begin not in readme or end not in readme:
        raise ValueError(f"The README has no place for the table; write {begin} and {end} where it belongs.")
    return f"{readme[: readme.index(begin)]}{begin}\n{table}\n{readme[readme.index(end) :]}"


def in_short(said: Mapping[str, Any], found: Sequence[Goal]) -> str:
    """The comparison in a few sentences, its figures from the tables."""

    def share(row: str, setting: str, key: str) -> str:
        return f"{said[setting][row]['columns'][key].value:.0%}"

    beside, two, scene, _ = SETTINGS
    if not all(set(said[setting]) >= NEEDED for setting in (beside, two)):
        return ""
    plain = {"with one vector": BASELINES[0], "with three": BASELINES[1], "as the reference trains it": REFERENCE}

    def baselines(setting: str, key: str) -> str:
        return ", ".join(f"{share(row, setting, key)} {how}" for how, row in plain.items() if row in said[setting])

    reached = sum(goal.reached for goal in found)
    scenes = rooms = walls = ""
    if set(said[scene]) >= NEEDED:
        scenes = f"""
- In a scene that the prompt names, and in its own look: {baselines(scene, "look in scene")}; ours **{share(OURS, scene, "look in scene")}**."""
    if all("wallpaper" in said[beside].get(row, {"columns": ()})["columns"] for row in (*NEEDED, REFERENCE)):
        walls = f""" Wallpaper of any kind, as all owners' pictures have it, is in {share(REFERENCE, beside, "wallpaper")} of
  its pictures, {share("three vectors", beside, "wallpaper")} with three plain vectors, {share(OURS, beside, "wallpaper")} of ours, and {share(CEILING, beside, "wallpaper")} with ordinary words."""
    if REFERENCE in said[beside]:
        theirs, ours = (said[beside][row]["columns"]["samples"].value for row in (REFERENCE, OURS))
        rooms = f"""
- The reference sees {theirs / ours:.0f} times as many pictures as ours, and its words bring their owner's room along: in {share(REFERENCE, beside, "room")} of pictures
  beside another thing; ours in {share(OURS, beside, "room")}.{walls}"""
    return f"""## In short

- Beside an ordinary thing, plain textual inversion shows both in {baselines(beside, "both")}; ours in
  **{share(OURS, beside, "both")}**, where ordinary words have {share(CEILING, beside, "both")}. In its own look, and the other there: {baselines(beside, "both look")};
  ours **{share(OURS, beside, "both look")}**.
- Of two learnt words both are there in {baselines(two, "both")}; ours **{share(OURS, two, "both")}**, ordinary words {share(CEILING, two, "both")}. Each in its own
  look: {baselines(two, "both look")}; ours **{share(OURS, two, "both look")}**.{scenes}
- Training and sampling cure different things. This pack's training alone has both in {share(BARE, beside, "both")} and {share(BARE, two, "both")}, and leaves the
  word's colour on the other thing in {share(BARE, beside, "stained")} of pictures; steering on top leaves it in {share(OURS, beside, "stained")}.{rooms}
- {reached} of the {len(found)} goals below are reached; each has its figure, and those that are not the reason."""


def results_page(
    said: Mapping[str, Any],
    judge: Mapping[str, Any],
    found: list[Goal],
    learning: Mapping[str, Any],
    tried: list[Record],
    asides: Sequence[str],
    notes: Mapping[str, str],
) -> str:
    """`notes` are told below the tables of settings."""
    parts = [
        """# Results

Drawn from [benchmarks/records](../benchmarks/records) by `make results`, with every figure also in [results.json](results.json).
Everything here is measured on the [micro world](../microworld/README.md), a model of 4.5 M numbers and 64 pixels; nothing of it
was tried on pretrained weights, which cannot be had where this pack is developed.""",
        *([short] if (short := in_short(said, found)) else []),
        """## What is compared

Test concepts only, which chose no setting ([world.toml](../microworld/world.toml) fixes the split), each learnt from five pictures.
Prompts and noise are the same for every row: euler, 20 steps, CFG 5.

"""
        + "\n".join(f"- **{row}**: {what}." for row, what in ROWS.items()),
        """In the tables:

- *there*: the micro world's judge, a detector, finds it; *in its own look*: it finds the owner's thing, not another one of
  its class. In the class word's row that is chance.
- *text alignment*: the mean share of the things asked for that the judge finds; there is no pretrained CLIP here.
- *scene*: the prompt names a room, "on grass", "in the snow", "at night" and the like; the judge takes the room for it.
- *image alignment*: where the thing's class is found, the cosine similarity of the judge's features at its place to those at the
  thing's place in the owner's pictures, so their background is out of it. *Owner's background*: the judge takes the room for theirs;
  *wallpaper*: it takes it for one with papered walls, as owners' all are.
- *colour on the other thing*: three tenths of the pixels about its place have the concept's hue; of two concepts, both ways.
- *diversity*: 1 - the mean cosine similarity of two pictures of one prompt, in the judge's pooled features.
- *UNet forwards*: the model's calls, counted in pictures, a layout's probe and guidance's corrections among them; a correction
  counts 1.05, which it takes with its backward on SD 1.5. A layout is recovered once a prompt.
- In brackets 95 % intervals of a bootstrap that draws concepts (and takes their pairs), then their seeds and prompts, then pictures.
  Over no more than four concepts such intervals hold the truth about other concepts in about 80 % of cases, not 95; and what is
  nowhere or everywhere among n pictures leaves nothing to draw, but may be up to 3 / n.""",
    ]
    for setting, title in SETTINGS.items():
        if said[setting]:
            most = max(said[setting].values(), key=lambda row: row["seeds"])
            units = "pairs of concepts" if setting == "two concepts" else "concepts"
            note = f"\n\n{notes[setting]}" if setting in notes else ""
            parts.append(
                f"## {title}\n\n{most['units']} {units}, {most['seeds']} training seed{'s'[: most['seeds'] > 1]}, "
                f"{most['pictures']:,} pictures a row.\n\n{markdown(said[setting])}{note}"
            )
    if found:
        parts.append("## The goals\n\n| wanted | | found |\n|---|---|---|\n" + "\n".join(map(told, found)))
    if learning:
        runs = "; ".join(f"{recipe} on {curves.told(mine)}" for recipe, mine in learning["runs"].items())
        apart = "**The runs so far are not of the same concepts**, so the curves cannot be compared yet."
        parts.append(
            f"""## How many pictures a word needs

The reference's recipe (three vectors, class word behind them, 8 pictures a step, a constant learning rate, the best of three on two
validation concepts) along its run, and ours in runs of different lengths, each a run of its own, sampled without a layout: {runs}.

![curves of presence against pictures seen](results/learning.png)

{curves.table(learning) if curves.comparable(learning) else apart}"""
        )
    parts += asides
    shown = sorted((DOCS / "results").glob("*.jpg"))
    if shown:
        pictures = "\n\n".join(f"![{file.stem.replace('_', ' ')}](results/{file.name})" for file in shown)
        parts.append(
            "## Pictures\n\nThe first picture of each prompt with training seed 0, the same noise for every row; nothing was "
            f"chosen by hand.\n\n{pictures}"
        )
    parts.append(f"## The judge\n\n{judge_section(judge, said)}")
    parts.append(
        "## How settings were chosen\n\nOn the validation concepts, one training seed, other seeds of sampling: those of this "
        "pack in earlier comparisons, those of the other rows from these, by both in their own look.\n\n"
        + candidates_section(tried)
    )
    return "\n\n".join(parts) + "\n"


Section = tuple[str, dict[str, Any]]
"""A part of the page, and its figures."""


def frontier_section(found: list[Record]) -> Section:
    found = latest(found)
    ways = frontier.ways(found)
    frontier.draw(ways, DOCS / "results" / "frontier.png")
    chosen = "; ".join(f"words of *{words}*: {frontier.best(said)}" for words, said in ways.items())
    each = sum(len(part) for r in found if r["row"] == found[0]["row"] for part in r["class"])
    text = f"""## Every way of sampling

Presence against cost on the validation concepts, beside every other class, one training seed, {each} pictures a row. Cost
counts a layout's probe, of which four pictures share one, and a guided pass as 1.05 calls of the model (S1). Most often in its own look
and beside the other thing, at no more than {frontier.LIMIT} times plain sampling's cost: {chosen}. Ways whose intervals overlap are not told apart
by that: of those that steer, the default is the one towards the layout that the picture would naturally have.

![presence against cost](results/frontier.png)

{frontier.table(ways)}"""
    return text, dict(ways)


def causes_section(found: list[Record]) -> Section:
    wider, count = findings.wider(found)
    table, figures = findings.causes(found)
    text = f"""## Why words fail to compose

The paper names as causes that inverted words lie far from ordinary ones, that their attention has a higher entropy, and that they take
it from others. Over {count} words of several recipes and all concepts, 14 pictures each; the rank correlations' standard error
is about {1 / (count - 1) ** 0.5:.2f} over all words, and more, as words of one concept are alike.

{table}

Nearly every learnt word lies further out than all ordinary ones, with anchors too, so distance has little room to tell which of them
compose; pulled in to where ordinary words are, one vector composes better by class. A higher entropy does not hold here: only {wider} of {count}
words spread their attention more widely than their class word. Among words of one vector alone it goes along with what the paper
says: those that spread theirs more widely lose the other thing more often, seldom as that is, and their own class less. Attention taken does make the
other thing vanish: an ordinary word, written several times with nothing else changed, takes more of it each time, and the other
thing is lost. Words of more vectors take as much, merely by their number. But among words of equally many it does not tell which of
them loses the other thing."""
    return text, figures


def dial_section(found: list[Record]) -> Section:
    each = len({r["concept"] for r in found})
    table, figures = findings.dial(found)
    text = f"""## Dials that need no training

Apply Concept's *anchor_mix* and *strength*, and what was tried beside them, on {each} validation concepts, 56 pictures of pairs a line and 16 of
the word alone; in brackets intervals over concepts. *anchor_mix* saves words of one vector that give up their class; a word that composes gains
nothing from it. *strength*, the length of the vectors, changes little here from 0.75 to 2, and a weight in the prompt is worse.
Words of three vectors overshoot with CFG: alone they are in their colour more often at 3 than at 5, where all else is sampled, and
less often at 8, their colours too bright or too deep; beside another thing 3 gives no more of it.

{table}"""
    return text, figures


def repair_section(found: list[Record]) -> Section:
    table, parts = findings.repair(found, *REPAIR)
    told = "; ".join(
        f"{row}: {part['gain']['both by class'].value:.0%} of the gain by class, {part['gain']['both'].value:.0%} in its colour"
        for row, part in parts.items()
    )
    text = f"""## Repaired words

Repair Concept on plainly trained words of the test concepts, without their pictures; beside it what training with anchors and the
background left out gives from the pictures. Of what that gains, repair gives: {told}.

{table}"""
    return text, parts


SECTIONS: dict[str, Callable[[list[Record]], Section]] = {
    "frontier": frontier_section,
    "repair": repair_section,
    "dial": dial_section,
    "causes": causes_section,
}
"""Of files of records, what is told of them."""


def plain(value: Any) -> Any:
    """For JSON: what is a dataclass becomes a dictionary, no number has more than five digits, and infinity is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def agreement(published: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How many of the published rows' figures lie within their own intervals again."""
    same: list[bool] = []
    for setting, rows in published.items():
        for row, values in rows.items():
            for key, old in values["columns"].items():
                new = now.get(setting, {}).get(row, {}).get("columns", {}).get(key)
                if new is not None:
                    same.append(old["low"] - ROUNDED <= new["value"] <= old["high"] + ROUNDED)
    return f"{sum(same)} of {len(same)} figures lie within the intervals that were published before."


RUNS = (
    ("composition.py",),
    ("composition.py", "--candidates"),
    ("composition.py", "--frontier"),
    ("repair.py", "--split", "test"),
    ("dial.py",),
    ("causes.py",),
    ("learning.py",),
    ("judging.py",),
)


def run_what_is_missing() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for script, *how in RUNS:
        subprocess.run([sys.executable, HERE / script, *how], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--readme", action="store_true", help="also write the README's table")
    args = parser.parse_args()
    if not args.draw:
        run_what_is_missing()
    found = latest(records(FOLDER / "composition.jsonl"))
    judge = json.loads((FOLDER / "judge.json").read_text())
    by_setting = tables(found)
    said = {setting: summary(table) for setting, table in by_setting.items()}
    learning = curves.learning(records(FOLDER / "learning.jsonl"))
    answered = goals(by_setting, learning, judge) + repair_goals(records(FOLDER / "repair.jsonl"))
    kept = {name: records(FOLDER / f"{name}.jsonl") for name in SECTIONS}
    asides = {name: tell(kept[name]) for name, tell in SECTIONS.items() if kept[name]}
    scenes = by_scene(found)
    draw_sheets(found)
    if learning:
        curves.draw(learning, DOCS / "results" / "learning.png")
    report = {
        "settings": said,
        "ceiling": CEILING,
        "scenes": scenes,
        "goals": [{**asdict(goal), "reached": goal.reached, "sure": goal.sure} for goal in answered],
        "learning": learning,
        "judge": judge,
        **{name: figures for name, (_, figures) in asides.items()},
    }
    file, written = DOCS / "results.json", plain(report)
    if file.exists():
        print(agreement(json.loads(file.read_text())["settings"], written["settings"]))
    file.write_text(json.dumps(written, indent=1) + "\n")
    tried = latest(records(FOLDER / "candidates.jsonl"))
    told = [text for text, _ in asides.values()]
    notes = {"in a scene": scene_by_scene(scenes)}
    (DOCS / "RESULTS.md").write_text(results_page(said, judge, answered, learning, tried, told, notes))
    if args.readme and any(NEEDED - set(said[setting]) for setting in SHOWN):
        print("The README's table waits for rows that are not on record yet.")
    elif args.readme:
        readme = ROOT / "README.md"
        readme.write_text(with_table(readme.read_text(), readme_table(said)))


if __name__ == "__main__":
    main()
