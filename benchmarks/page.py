"""docs/RESULTS.md and the README's table: from what results.json holds, and from nothing else."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attribute_tables
import curves
import findings
import frontier
import numpy as np
import tuning_tables
import use_tables
from cells import decimals, markdown, percent, ratio, relative
from intervals import Estimate, true_share
from rows import (
    BASELINES,
    CEILING,
    COLUMNS,
    IN_README,
    IN_README_COLUMNS,
    IN_SHORT,
    IN_SHORT_COLUMNS,
    IN_SHORT_IMAGES,
    NEEDED,
    OURS,
    SECOND,
    TABLES,
    Shown,
)
from template import filled

README_MARKS = ("<!-- results: begin -->", "<!-- results: end -->")
NOT_YET = "*Not on record yet.*"
GENERATED = "<!-- Made by `make results` from RESULTS.template.md and results.json: edit the template. -->"
Report = Mapping[str, Any]
"""results.json, its estimates revived."""


def revived(said: dict[str, Any]) -> Any:
    """For json.loads: estimates as such; what is infinite is null there."""
    if set(said) == {"value", "low", "high"}:
        return Estimate(**{key: math.inf if value is None else value for key, value in said.items()})
    return said


def page(template: str, report: Report) -> str:
    return f"{GENERATED}\n\n{filled(template, tables(report), citable(report))}"


def citable(report: Report) -> dict[str, Any]:
    """The report, with the comparison's settings also by their own names: setting/row/column."""
    by_row, of_second = (
        {setting: {row: values["columns"] for row, values in rows.items()} for setting, rows in settings.items()}
        for settings in (report["settings"], report.get("second world", {}))
    )
    goals = {"count": len(report["goals"]), "reached": sum(goal["reached"] for goal in report["goals"])}
    return {**report, **by_row, "second world": of_second, "goals": goals}


def tables(report: Report) -> dict[str, str]:
    """By the name that marks give them; a table of which nothing is on record says so."""

    def made(write: Callable[[Any], str], *keys: str) -> str:
        said = [report.get(key) for key in keys]
        return write(*said) if all(said) else NOT_YET

    learning = report.get("learning")
    compared = bool(learning) and curves.comparable(learning)
    return {
        "in short": in_short(report["settings"]),
        **{name: setting_table(report["settings"], shown) for name, shown in TABLES.items()},
        "scene by scene": made(scenes_table, "scenes"),
        "goals": made(goals_table, "goals"),
        "samples": curves.table(learning) if compared else NOT_YET,
        "samples, whole runs": curves.ends_table(learning) if compared else NOT_YET,
        "frontier": made(frontier.table, "frontier"),
        "repair": made(findings.repair_table, "repair rows"),
        "repair, gain": made(findings.gains_table, "repair"),
        "dial": made(findings.dial_table, "dial"),
        "causes": made(findings.causes_table, "causes"),
        "correlations": made(findings.correlations_table, "causes"),
        **{
            name: setting_table(report["second world"], shown) if "second world" in report else NOT_YET
            for name, shown in SECOND.items()
        },
        "attributes alone": made(attribute_tables.alone_table, "attributes alone"),
        "attributes together": made(attribute_tables.together_table, "attributes together"),
        "bias": made(use_tables.bias_table, "bias"),
        "inpainting": made(use_tables.inpainting_table, "inpainting"),
        "attribute cells": made(attribute_tables.table, "attribute cells"),
        "judge": judge_table(report["judge"]),
        "second, judge": made(judge_table, "second judge"),
        "judge, corrected": corrected_table(report["judge"], report["settings"]["pretrained word"]),
        "judge, alignment": alignment_table(report["judge"]),
        "candidates": made(candidates_table, "candidates"),
        "fine-tunes": made(tuning_tables.table, "fine tuning"),
        "drift": made(tuning_tables.drift_table, "fine tuning"),
        "fine-tunes, candidates": made(tuning_tables.candidates_table, "fine tuning candidates"),
    }


def plural(count: int, name: str) -> str:
    return f"{count:,} {name}{'s'[: count != 1]}"


def setting_table(settings: Report, shown: Shown) -> str:
    """A line a row, and below the table what its rows rest on."""
    said = {row: settings[shown.setting][row] for row in shown.rows if row in settings[shown.setting]}
    if not said:
        return NOT_YET
    keys = [key for key in shown.columns if any(key in values["columns"] for values in said.values())]
    most = max(said.values(), key=lambda values: values["seeds"])
    rows: list[list[str]] = []
    for row, values in said.items():
        fewer = f" ({plural(values['seeds'], 'seed')})" if values["seeds"] < most["seeds"] else ""
        columns = values["columns"]
        rows.append([row + fewer, *(COLUMNS[key][1](columns[key]) if key in columns else "" for key in keys)])
    several = {"two concepts": "pair", "two concepts and an object": "pair", "three concepts": "set"}.get(shown.setting)
    units = f"{plural(most['units'], several)} of concepts" if several else plural(most["units"], "concept")
    table = markdown(["", *(COLUMNS[key][0] for key in keys)], rows)
    counts = f"{units}, {plural(most['seeds'], 'training seed')}, {plural(most['pictures'], 'image')} per row"
    return f"{table}\n\n*{counts}.*" if shown.counted else table


def scenes_table(said: Report) -> str:
    rooms = list(next(iter(said.values())))
    return markdown(
        ["own appearance", *rooms], ([row, *(f"{shares[r]:.0%}" for r in rooms)] for row, shares in said.items())
    )


def goals_table(goals: Sequence[Report]) -> str:
    rows: list[list[str]] = []
    for goal in goals:
        write = ratio if any(name.startswith("of ") for name in goal["figures"]) else relative
        found = ", ".join(f"{write(e)} {name}" for name, e in goal["figures"].items())
        answer = f"**{'reached' if goal['reached'] else 'not reached'}**"
        rows.append([goal["wanted"], answer + ("" if goal["sure"] else ", within the interval"), found])
    return markdown(["goal", "", "found"], rows)


def judge_table(judge: Report) -> str:
    """By class and by test concept, and over the backgrounds of training images."""
    names = judge["names"]
    tests = [name for name, split in judge["split"].items() if split == "test"]
    rooms = [name for name in names if name.startswith("room of ")]
    classes = [name for name in names if name not in judge["split"] and name not in rooms]
    rows = [
        [
            title,
            *(f"{names[name][key]:.1%}" for name in classes + tests),
            f"{np.mean([names[r][key] for r in rooms]):.2%}",
        ]
        for key, title in (("found", "recall"), ("made up", "false positives"))
    ]
    return markdown(["", *classes, *tests, "backgrounds"], rows)


def corrected_table(judge: Report, rows: Report) -> str:
    """Shares with the judge's error undone: the two verdicts taken for independent."""
    names = judge["names"]
    tests = [name for name, split in judge["split"].items() if split == "test"]
    classes = [name for name in names if name not in judge["split"] and not name.startswith("room of ")]
    hit = np.mean([names[name]["found"] for name in classes])
    errors = {
        key: [float(np.mean([names[name][error] for name in of]) * hit) for error in ("found", "made up")]
        for key, of in (("both", classes), ("both look", tests))
    }

    def cells(row: str, key: str) -> list[str]:
        if row == CEILING and key == "both look":  # there it is chance
            return ["", ""]
        said = rows[row]["columns"][key].value
        return [f"{said:.1%}", f"{true_share(said, *errors[key]):.1%}"]

    lines = [[row, *cells(row, "both"), *cells(row, "both look")] for row in (*BASELINES, OURS, CEILING) if row in rows]
    return markdown(["", "both present", "corrected", "both, own appearance", "corrected"], lines) if lines else NOT_YET


def alignment_table(judge: Report) -> str:
    """Of drawn scenes: what image alignment is at best, and without the concept."""
    tests = [name for name, split in judge["split"].items() if split == "test"]
    rows = [
        [title, *(f"{value:.3f}" for value in (*values, np.mean(values)))]
        for key, title in (("itself", "the concept itself"), ("another look", "another appearance"))
        for values in [[judge["alignment"][name][key] for name in tests]]
    ]
    return markdown(["", *tests, "mean"], rows)


def candidates_table(said: Report) -> str:
    rows = ([row, percent(e["both"]), percent(e["both look"]), decimals(e["aligned"])] for row, e in said.items())
    return markdown(["vectors, setting", "both present", "both, own appearance", "image alignment"], rows)


def in_short(
    settings: Report, shown: Sequence[str] = tuple(IN_SHORT), columns: Mapping[tuple[str, str], str] = IN_SHORT_COLUMNS
) -> str:
    if any(NEEDED - set(settings[setting]) for setting, _ in columns):
        return NOT_YET
    rows: list[list[str]] = []
    for row in shown:
        if row not in settings["pretrained word"]:
            continue
        title = IN_SHORT[row]
        seeds, most = (settings["pretrained word"][one]["seeds"] for one in (row, OURS))
        cells = [title + (f" ({plural(seeds, 'seed')})" if seeds < most else "")]
        for setting, key in columns:
            e = settings[setting].get(row, {}).get("columns", {}).get(key)
            chance = row == CEILING and "look" in key  # a class word asks for no appearance
            cells.append("" if e is None or chance else f"{e.value:.0%}" if row != OURS else f"**{e.value:.0%}**")
        rows.append(cells)
    beside = settings["pretrained word"][OURS]
    of = [setting for setting in IN_SHORT_IMAGES if any(setting == own for own, _ in columns)]
    images = ", ".join(f"{settings[setting][OURS]['pictures']:,} {IN_SHORT_IMAGES[setting]}" for setting in of)
    counts = f"*{plural(beside['units'], 'held-out concept')}, {plural(beside['seeds'], 'training seed')}; {images}.*"
    return f"{markdown(['', *columns.values()], rows)}\n\n{counts}"


def in_readme(settings: Report) -> str:
    """The table that the README shows: rows and columns of the results in short."""
    return in_short(settings, IN_README, IN_README_COLUMNS)


def with_table(readme: str, table: str) -> str:
    """The README with another table between the two comments.

    Raises:
        ValueError: it lacks them.
    """
    begin, end = README_MARKS
    if begin not in readme or end not in readme:
        raise ValueError(f"The README has no place for the table; write {begin} and {end} where it belongs.")
    return f"{readme[: readme.index(begin)]}{begin}\n{table}\n{readme[readme.index(end) :]}"
