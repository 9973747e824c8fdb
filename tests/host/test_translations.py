"""Locales: each text of each node in each language, with the figures and the choices of the English one, and nothing that is left over."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ["ja", "zh"]
NAMES = {"CLIP", "VAE", "CFG", "JSON", "Latent"}
"""Texts that the front end's own translations leave as they are."""
SYNTAX = set("{}@|$%\\")
"""Of the front end's messages: some front ends compile tooltips, newer ones show them as they are."""


def texts_of(schema: Any) -> dict[str, str]:
    """Key in nodeDefs -> English text, of one node."""
    found = {"display_name": schema.display_name, "description": schema.description}
    for part in schema.inputs:
        found[f"inputs.{part.id}.name"], found[f"inputs.{part.id}.tooltip"] = part.display_name or part.id, part.tooltip
    for i, part in enumerate(schema.outputs):
        found[f"outputs.{i}.name"], found[f"outputs.{i}.tooltip"] = part.display_name, part.tooltip
    return found


def flat(tree: dict[str, Any], path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        found.update(flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value})
    return found


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![A-Za-z0-9.])\d+(?:\.\d+)?(?![A-Za-z0-9])", text))


@pytest.fixture(scope="module")
def schemas(pack: Any) -> dict[str, Any]:
    return {name: node.define_schema() for name, node in pack.nodes.items()}


@pytest.fixture(scope="module")
def english(schemas: dict[str, Any]) -> dict[str, str]:
    return {f"{name}.{key}": text for name, schema in schemas.items() for key, text in texts_of(schema).items()}


@pytest.fixture(params=LANGUAGES)
def folder(request: pytest.FixtureRequest) -> Path:
    return ROOT / "locales" / request.param


@pytest.fixture
def translated(folder: Path) -> dict[str, str]:
    return flat(json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8")))


def test_every_text_has_a_translation_and_none_is_left_over(english: dict[str, str], translated: dict[str, str]):
    assert sorted(english.keys() - translated.keys()) == []
    assert sorted(translated.keys() - english.keys()) == []
    assert [key for key, text in translated.items() if not text.strip()] == []


def test_no_text_stays_english_but_a_few_names(english: dict[str, str], translated: dict[str, str]):
    same = {text for key, text in translated.items() if text.isascii() or text.lower() == english[key].lower()}
    assert same <= NAMES


def test_a_translation_has_the_numbers_of_its_text(english: dict[str, str], translated: dict[str, str]):
    missing = {key: numbers(english[key]) - numbers(text) for key, text in translated.items()}
    assert {key: some for key, some in missing.items() if some} == {}


def test_a_translation_names_the_choices_that_its_text_names(schemas: dict[str, Any], translated: dict[str, str]):
    """The front end does not translate a widget's choices."""
    for name, schema in schemas.items():
        for part in schema.inputs:
            choices = [str(choice) for choice in part.as_dict().get("options") or []]
            named = {
                choice for choice in choices if re.search(rf"(?<![\w-]){re.escape(choice)}(?![\w-])", part.tooltip)
            }
            text = translated[f"{name}.inputs.{part.id}.tooltip"]
            assert {choice for choice in named if choice not in text} == set(), f"{name}.{part.id}"


def test_a_translation_calls_nodes_and_inputs_by_their_translated_names(
    schemas: dict[str, Any], translated: dict[str, str]
):
    names = {schema.display_name for schema in schemas.values()}
    ids = {part.id for schema in schemas.values() for part in schema.inputs if "_" in part.id}
    words = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(names | ids)), re.ASCII)
    assert {key: words.findall(text) for key, text in translated.items() if words.search(text)} == {}


def test_a_translation_reads_the_same_whether_a_front_end_compiles_it_or_not(translated: dict[str, str]):
    assert {key: text for key, text in translated.items() if SYNTAX & set(text)} == {}


def test_the_nodes_category_is_translated(schemas: dict[str, Any], folder: Path):
    own = json.loads((folder / "main.json").read_text(encoding="utf-8"))["nodeCategories"]
    assert own.keys() == {part for schema in schemas.values() for part in schema.category.split("/")}
    assert not any(text.isascii() for text in own.values())


def test_the_scripts_say_everything_in_every_language():
    source = (ROOT / "web" / "js" / "texts.js").read_text(encoding="utf-8")
    table = re.search(r"export const TEXTS = (\{.*?\n\})", source, re.DOTALL)
    assert table
    texts: dict[str, dict[str, str]] = json.loads(table[1])
    assert set(texts) == {"en", *LANGUAGES}
    for language in LANGUAGES:
        assert texts[language].keys() == texts["en"].keys()
        assert not any(text.isascii() for text in texts[language].values())
