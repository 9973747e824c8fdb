"""docs/results.json, docs/RESULTS.md and its pictures: what the records of all benchmarks amount to.

python benchmarks/results.py              runs what the records lack first: hours on a CPU, and it goes on where it stopped
python benchmarks/results.py --draw       only draws what is on record, in seconds
python benchmarks/results.py --readme     also writes the README's table, between its two comments

Prose is written by hand in docs/RESULTS.template.md; what the tables show is set in rows.py.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import attribute_tables
import comparison
import curves
import findings
import frontier
import goals
import tuning_tables
import use_tables
from page import NOT_YET, in_readme, page, revived, with_table
from recorded import FOLDER, latest, records
from rows import BASELINES, CEILING
from sheets import draw_attributes, draw_fine_tunes, draw_regional, draw_second, draw_sheets

HERE = Path(__file__).parent
ROOT = HERE.parent
DOCS = ROOT / "docs"
EXACT = 17  # digits that tell any two numbers apart
REPAIR = ("with anchors", BASELINES)  # the row that repair is held against, and what is repaired
SECOND = str(ROOT / "microworld" / "second.toml")
FINE_TUNING = ("fine_tuning", "fine_tuning_candidates")
RUNS = (
    ("composition.py",),
    ("composition.py", "--candidates"),
    ("composition.py", "--frontier"),
    ("repair.py", "--split", "test"),
    ("dial.py",),
    ("causes.py",),
    ("learning.py",),
    ("fine_tuning.py",),
    ("fine_tuning.py", "--candidates"),
    ("judging.py",),
    ("attributes.py", "--cells"),
    ("attributes.py",),
    ("uses.py",),
    ("composition.py", "--world", SECOND),
    ("judging.py", "--world", SECOND),
)


def run_what_is_missing() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for script, *how in RUNS:
        subprocess.run([sys.executable, HERE / script, *how], check=True)


def report() -> dict[str, Any]:
    """What the records amount to; of what is not on record, nothing."""
    kept = {
        name: records(FOLDER / f"{name}.jsonl")
        for name in (*("composition", "candidates", "frontier", "repair", "dial", "causes", "learning"), *FINE_TUNING)
    }
    found = latest(kept["composition"])
    by_setting = comparison.tables(found)
    learning = curves.learning(kept["learning"])
    gains = findings.repair_gains(kept["repair"], *REPAIR)
    of_attributes = latest(records(FOLDER / "attributes.jsonl"))
    single = [
        goal
        for row in (attribute_tables.MATTE, attribute_tables.MEASURED)
        for goal in goals.attributes(
            row, attribute_tables.hits(of_attributes, row), attribute_tables.leaks(of_attributes, row)
        )
    ]
    answered = goals.composition(by_setting) + goals.training(learning) + goals.repair(gains) + single
    uses = records(FOLDER / "uses.jsonl")
    return {
        "settings": {setting: comparison.summary(table) for setting, table in by_setting.items()},
        "ceiling": CEILING,
        "scenes": comparison.by_scene(found),
        "goals": [{**asdict(goal), "reached": goal.reached, "sure": goal.sure} for goal in answered],
        "learning": learning,
        "judge": json.loads((FOLDER / "judge.json").read_text()),
        **second_world(),
        "attributes alone": attribute_tables.alone(of_attributes),
        "attributes together": attribute_tables.together(of_attributes),
        "bias": use_tables.bias(uses),
        "inpainting": use_tables.inpainting(uses),
        "attribute cells": attribute_tables.shares(records(FOLDER / "attribute_cells.jsonl")),
        "frontier": frontier.ways(latest(kept["frontier"])),
        "repair": gains,
        "repair rows": findings.repair(kept["repair"], *REPAIR),
        "dial": findings.dial(kept["dial"]),
        "causes": findings.causes(kept["causes"]) if kept["causes"] else {},
        "candidates": comparison.candidates(latest(kept["candidates"])),
        **{name.replace("_", " "): tuning_tables.summary(latest(kept[name])) for name in FINE_TUNING},
    }


def second_world() -> dict[str, Any]:
    """What is on record of the world on which no setting was chosen."""
    found, judge = latest(records(FOLDER / "second.jsonl")), FOLDER / "second_judge.json"
    if not found or not judge.exists():
        return {}
    settings = {setting: comparison.summary(table) for setting, table in comparison.tables(found).items()}
    return {"second world": settings, "second judge": json.loads(judge.read_text())}


def plain(value: Any, digits: int = 5) -> Any:
    """For JSON: what is a dataclass becomes a dictionary, numbers are cut to so many digits, and infinity is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), digits)
    if isinstance(value, Mapping):
        return {key: plain(v, digits) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, digits) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--readme", action="store_true", help="also write the README's table")
    args = parser.parse_args()
    if not args.draw:
        run_what_is_missing()
    file, now = DOCS / "results.json", report()
    written = plain(now)
    if file.exists():
        print(comparison.agreement(json.loads(file.read_text())["settings"], written["settings"]))
    file.write_text(json.dumps(written, indent=1) + "\n")
    compared = latest(records(FOLDER / "composition.jsonl"))
    draw_sheets(compared, DOCS / "results")
    draw_regional(compared, DOCS / "results")
    draw_second(latest(records(FOLDER / "second.jsonl")), DOCS / "results")
    draw_attributes(latest(records(FOLDER / "attributes.jsonl")), DOCS / "results")
    draw_fine_tunes(latest(records(FOLDER / "fine_tuning.jsonl")), DOCS / "results")
    if now["learning"]:
        curves.draw(now["learning"], DOCS / "results" / "learning.png")
    if now["frontier"]:
        frontier.draw(now["frontier"], DOCS / "results" / "frontier.png")
    said = json.loads(json.dumps(plain(now, EXACT)), object_hook=revived)  # rounded once, in the page
    (DOCS / "RESULTS.md").write_text(page((DOCS / "RESULTS.template.md").read_text(), said))
    if args.readme and in_readme(said["settings"]) == NOT_YET:
        print("The README's table waits for rows that are not on record yet.")
    elif args.readme:
        readme = ROOT / "README.md"
        more = "Intervals, more rows and goals not reached: [docs/RESULTS.md](docs/RESULTS.md)."
        readme.write_text(with_table(readme.read_text(), f"{in_readme(said['settings'])}\n\n{more}"))


if __name__ == "__main__":
    main()
