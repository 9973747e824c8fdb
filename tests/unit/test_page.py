"""The results' page: prose from the template, tables and figures at its marks."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import page
import rows
from cells import relative
from intervals import Estimate
from page import README_MARKS, in_readme, in_short, revived, setting_table, with_table
from rows import COLUMNS, IN_SHORT_COLUMNS, ROWS, Shown
from template import filled

ROOT = Path(__file__).parents[2]
TEMPLATE = (ROOT / "docs" / "RESULTS.template.md").read_text()
SURE = Estimate(0.25, 0.2, 0.3)


def test_tables_and_figures_stand_at_their_marks():
    text = "before\n\n<!-- table: a -->\n\n{{settings/ours/both}} of {{count}}, {{settings/ours/both:.3f}}"
    said = filled(text, {"a": "| 1 |"}, {"settings": {"ours": {"both": SURE}}, "count": 1600})
    assert said == "before\n\n| 1 |\n\n25% of 1,600, 0.250"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<!-- table: a -->\n<!-- table: b -->", 'a mark for the table "b"; known tables: a'),
        ("nothing", 'The table "a" has no mark'),
        ("<!-- table: a -->\n{{ours/both}}", '"ours/both", which is no figure'),
        ("<!-- table: a -->\n{{ours}}", '"ours", which is no figure'),
    ],
)
def test_a_mark_that_cannot_be_filled_is_refused_in_one_sentence(text: str, fault: str):
    with pytest.raises(ValueError, match=re.escape(fault)):
        filled(text, {"a": ""}, {"ours": {"look": SURE}})


def test_the_template_says_what_every_row_is():
    assert [row for row in rows.ON_RECORD if f"- **{row}**: " not in TEMPLATE] == []


def test_the_templates_pictures_and_links_exist():
    linked = re.findall(r"\]\(([^)#]+)\)", TEMPLATE)
    assert [file for file in linked if not (ROOT / "docs" / file).exists()] == []


def test_the_published_page_is_the_template_filled_from_the_published_figures():
    # results.json holds five digits, so that a figure at the edge of rounding may be written otherwise: digits are left out.
    report = json.loads((ROOT / "docs" / "results.json").read_text(), object_hook=revived)
    published = (ROOT / "docs" / "RESULTS.md").read_text()
    assert re.sub(r"\d+", "0", page.page(TEMPLATE, report)) == re.sub(r"\d+", "0", published)


def test_infinity_comes_back_from_json():
    assert json.loads('{"e": {"value": 2.0, "low": 1.0, "high": null}}', object_hook=revived) == {
        "e": Estimate(2, 1, float("inf"))
    }
    assert (
        relative(Estimate(2, 1, float("inf"))) == "+200% (+100% or more)"
        and relative(Estimate(0.1, 0.1, 0.1)) == "+10%"
    )


def values(seeds: int = 3, **columns: Estimate) -> dict[str, Any]:
    return {"units": 4, "seeds": seeds, "pictures": 96, "columns": columns}


def test_a_table_leaves_out_what_is_not_on_record():
    said = {"alone": {"ours": values(look=SURE), "reference": values(1, look=SURE)}}
    shown = Shown("alone", ("class", "look"), ("class word", "reference", "ours"))
    assert setting_table(said, shown).splitlines() == [
        "|  | own appearance |",
        "|---|---|",
        "| reference (1 seed) | 25% (20 to 30) |",
        "| ours | 25% (20 to 30) |",
        "",
        "*4 concepts, 3 training seeds, 96 images per row.*",
    ]
    assert setting_table({"alone": {}}, shown) == page.NOT_YET


def test_a_column_that_only_some_rows_have_is_empty_in_the_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(COLUMNS, "bytes", ("bytes", COLUMNS["samples"][1]))
    said = {"alone": {"ours": values(look=SURE), "tuned": values(look=SURE, bytes=Estimate(3072, 3072, 3072))}}
    table = setting_table(said, Shown("alone", ("look", "bytes"), ("ours", "tuned"), counted=False))
    assert table.splitlines()[2:] == ["| ours | 25% (20 to 30) |  |", "| tuned | 25% (20 to 30) | 3,072 |"]


def test_a_table_of_the_readme_stands_between_its_comments():
    begin, end = README_MARKS
    known = {
        setting: {row: values(**{key: SURE for of, key in IN_SHORT_COLUMNS if of == setting}) for row in ROWS}
        for setting in rows.SETTINGS
    }
    readme = with_table(f"before\n{begin}\nold\n{end}\nafter\n", in_short(known))
    assert readme.startswith(f"before\n{begin}\n|  |") and readme.endswith(f"{end}\nafter\n") and "old" not in readme
    assert "| this pack's training and sampling | **25%** | **25%** |" in readme
    assert "| class word (ceiling) | 25% |  | 25% | 25% |  |  |" in readme  # its own appearance would be chance
    assert in_short({setting: {} for setting in rows.SETTINGS}) == page.NOT_YET


def test_the_readme_shows_four_rows_of_the_results_in_short():
    known = {
        setting: {row: values(**{key: SURE for of, key in IN_SHORT_COLUMNS if of == setting}) for row in ROWS}
        for setting in rows.SETTINGS
    }
    head, _, *body = in_readme(known).split("\n\n")[0].splitlines()
    assert head.startswith("|  | concept and ordinary object: both present |") and "scene" not in in_readme(known)
    assert len(body) == 4 and all(line.split(" | ")[0] in in_short(known) for line in body)
    assert body[2] == "| this pack's training and sampling | **25%** | **25%** | **25%** | **25%** |"
    assert in_readme({setting: {} for setting in rows.SETTINGS}) == page.NOT_YET


def test_a_readme_without_a_place_for_it_is_refused():
    with pytest.raises(ValueError, match="no place for the table"):
        with_table("nothing", "| |")
