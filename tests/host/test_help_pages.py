"""Help pages: one form for all, and every input and output of a node as its schema has it."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"
SECTIONS = ["Inputs", "Outputs", "Example", "When it does not work", "See also"]
MAX_INTRODUCTION = 3  # lines
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")
MIN_SIDES, MAX_SIDES = (340, 60), (640, 1000)  # pixels, wide and high: the help panel is narrow
MAX_PICTURE, MAX_PICTURES = 16_000, 300_000  # bytes, of one and of all: the registry's archive carries them
MIN_COLORS = 16  # a node that was not drawn has fewer
LISTS = {"file", "folder", "sampler_name", "scheduler"}
"""Inputs whose choices are the installation's own."""


def page_of(name: str) -> str:
    return (DOCS / name / "en.md").read_text(encoding="utf-8")


def sections(page: str) -> dict[str, str]:
    """Title -> text, what stands before the first as ""."""
    titles = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return {"": titles[0], **dict(zip(titles[1::2], titles[2::2], strict=True))}


def rows(section: str) -> list[list[str]]:
    """The first table's cells, without its head."""
    lines = section.strip().split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return cells[2:]


def names(cell: str) -> list[str]:
    return [name.strip() for name in cell.split(",")]


def default_of(part: Any) -> str:
    """What a page writes beside an input: its default and range, or whether it has to be connected."""
    told = part.as_dict()
    if "default" not in told and not told.get("options"):
        return "optional" if part.optional else "required"
    default = told.get("default", (told.get("options") or [""])[0])
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, (int, float)):
        return f"{number(default)} ({number(told['min'])} to {number(told['max'])})"
    return "empty" if not default else "preset" if "\n" in default else f"`{default}`"


def number(value: float) -> str:
    if value == 2**64 - 1:
        return "2^64 - 1"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10f}".rstrip("0").rstrip(".")


def inputs_of(schema: Any) -> dict[str, str]:
    return {part.id: "list" if part.id in LISTS else default_of(part) for part in schema.inputs}


def test_every_node_has_a_page_in_the_form_of_all(pack: Any):
    for name, node in pack.nodes.items():
        found = sections(page_of(name))
        title, _, introduction = found[""].strip().partition("\n\n")
        assert title == f"# {node.define_schema().display_name}", name
        assert introduction and len(introduction.split("\n\n")[0].splitlines()) <= MAX_INTRODUCTION, name
        assert [section for section in found if section in SECTIONS] == SECTIONS, name
        assert all(found[section].strip() for section in SECTIONS), name
        for line in re.split(r"\n(?=- )", found["When it does not work"].strip())[:-1]:
            assert re.match(r"- \*.+?\*", line, re.DOTALL), f"{name}: {line}"


def test_every_page_shows_one_picture_after_its_introduction(pack: Any):
    for name in pack.nodes:
        introduction = sections(page_of(name))[""].strip()
        assert [told for told, _ in PICTURE.findall(page_of(name))] == [
            told for told, _ in PICTURE.findall(introduction.split("\n\n")[-1])
        ], name
        ((told, path),) = PICTURE.findall(introduction)
        assert len(told) > 10 and path.startswith(f"{name}/"), name


def test_pictures_are_small_files_and_none_lies_there_that_no_page_shows(pack: Any):
    shown = {path for name in pack.nodes for _, path in PICTURE.findall(page_of(name))}
    pages = {f"{name}/en.md" for name in pack.nodes}
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.is_file()} == pages | shown
    for path in shown:
        with Image.open(DOCS / path) as image:
            assert image.format in ("WEBP", "JPEG"), path
            assert all(low <= side <= high for low, side, high in zip(MIN_SIDES, image.size, MAX_SIDES, strict=True)), (
                path
            )
            assert len(image.convert("RGB").getcolors(image.width * image.height) or []) >= MIN_COLORS, path
        assert (DOCS / path).stat().st_size <= MAX_PICTURE, path
    assert sum((DOCS / path).stat().st_size for path in shown) <= MAX_PICTURES


def test_a_page_has_every_input_and_output_of_its_node_and_no_other(pack: Any):
    for name, node in pack.nodes.items():
        schema, found = node.define_schema(), sections(page_of(name))
        told = {given: default for cell, default, _ in rows(found["Inputs"]) for given in names(cell)}
        assert told == inputs_of(schema), name
        outputs = [given for cell, _ in rows(found["Outputs"]) for given in names(cell)]
        assert outputs == [output.display_name for output in schema.outputs], name


def test_a_page_sends_its_reader_to_nodes_that_there_are(pack: Any):
    known = {node.define_schema().display_name for node in pack.nodes.values()}
    for name in pack.nodes:
        see = re.findall(r"\*\*(.+?)\*\*", sections(page_of(name))["See also"])
        assert see and set(see) <= known, name


def test_pages_have_no_figures_of_the_small_model_that_the_pack_is_developed_on(pack: Any):
    assert [name for name in pack.nodes if re.search("micro ?world", page_of(name), re.IGNORECASE)] == []


@pytest.mark.parametrize(
    ("value", "written"), [(400, "400"), (100_000, "100,000"), (0.0001, "0.0001"), (7.0, "7"), (2**64 - 1, "2^64 - 1")]
)
def test_numbers_are_written_as_people_do(value: float, written: str):
    assert number(value) == written
