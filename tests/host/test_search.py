"""Users find the nodes by their own words."""

from dataclasses import field, make_dataclass
from typing import Any

import pytest

WORDS = ["textual inversion", "embedding", "attention couple", "heatmap", "mask", "dreambooth"]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_users_stands_in_a_nodes_description_and_among_its_aliases(
    pack: Any, monkeypatch: pytest.MonkeyPatch, word: str
):
    from comfy_api.latest import io

    schemas = [node.define_schema() for node in pack.nodes.values()]
    assert any(word in f"{schema.display_name} {schema.description}".lower() for schema in schemas)
    aliases = ("search_aliases", list[str], field(default_factory=list[str]))  # which newer hosts know
    monkeypatch.setattr(io, "Schema", make_dataclass("Schema", [aliases], bases=(io.Schema,)))
    newer = [node.define_schema() for node in pack.nodes.values()]
    assert any(word in alias.lower() for schema in newer for alias in schema.search_aliases)
