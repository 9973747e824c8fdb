"""Names after "embedding:" in our prompts, by keyboard and mouse, in both renderers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from concept_files import concept_files
from pages import render_with

ON_FILE = "moss-cup"
ADD = """() => ["CompInvPrompt", "CompInvTrain", "CompInvAttributePrompt", "CLIPTextEncode"].forEach((kind, i) => {
    const node = window.LiteGraph.createNode(kind)
    node.pos = [60 + 420 * (i % 2), 140 + 330 * Math.floor(i / 2)] // below the bar with the name of the workflow
    window.app.graph.add(node)
    const name = node.widgets.find(widget => widget.name === "placeholder")
    if (name) name.value = "moss-cat"
    const text = node.widgets.find(widget => widget.name === "text")
    if (text) text.value = kind
})"""
WRITTEN = """kind => window.app.graph._nodes.find(node => node.type === kind).widgets.find(widget => widget.name === "text").value"""


@pytest.fixture
def on_file(base: Path) -> Iterator[None]:
    with concept_files(base, {f"{ON_FILE}.safetensors"}):
        yield


class Prompt:
    """The text of a node, and the list that opens at it."""

    def __init__(self, page: Any, kind: str):
        self.page, self.kind = page, kind
        page.evaluate(
            "kind => [...document.querySelectorAll('textarea')].find(one => one.value === kind).dataset.tested = kind",
            kind,
        )  # for a node that is clicked may change its place among them
        self.field = page.locator(f"textarea[data-tested={kind}]")
        self.options = page.locator("[role=listbox]:visible [role=option]")

    def type(self, text: str) -> list[str]:
        """Write it in place of what is there; what is offered then."""
        self.field.click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)
        self.page.wait_for_timeout(500)
        return self.options.all_inner_texts()

    def written(self) -> str:
        self.page.wait_for_timeout(300)
        text = self.page.evaluate(WRITTEN, self.kind)
        assert self.field.input_value() == text
        return text


@pytest.mark.usefixtures("on_file")
@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_names_are_offered_and_accepted(page: tuple[Any, list[str]], nodes_2: bool, tmp_path: Path):
    here, errors = page
    press = here.keyboard.press
    render_with(here, nodes_2)
    here.evaluate(ADD)
    here.wait_for_timeout(1000)
    prompt, attributes = Prompt(here, "CompInvPrompt"), Prompt(here, "CompInvAttributePrompt")

    offered = prompt.type("a embedding:")
    assert {f"embedding:{ON_FILE}", "embedding:moss-cat", "{concept}"} <= set(offered)
    chosen = here.locator("[role=option][aria-selected=true]")
    assert chosen.count() == 1 and prompt.field.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    here.screenshot(path=str(tmp_path / "offered.png"))
    assert prompt.type("a embedding:moss-c") == ["embedding:moss-cat", f"embedding:{ON_FILE}"]
    press("ArrowDown")
    press("Enter")
    assert prompt.written() == f"a embedding:{ON_FILE}" and not prompt.options.count()
    press("Control+z")
    assert prompt.written() == "a embedding:moss-c"
    assert prompt.type("a embedding:moss-c")
    press("ArrowUp")  # from the first to the last
    press("Tab")
    assert prompt.written() == f"a embedding:{ON_FILE}"
    assert "{concept}" in prompt.type("(embedding:")
    prompt.options.get_by_text("{concept}").click()
    assert prompt.written() == "({concept}"
    assert prompt.type("a embedding:OSS-CAT") == ["embedding:moss-cat"]
    press("Escape")
    assert not prompt.options.count()
    press("Enter")
    assert prompt.written() == "a embedding:OSS-CAT\n"
    assert prompt.type("embedding:moss-cat.") == []  # this prompt reads no attributes
    assert prompt.type("embedding:moss")
    attributes.field.click()
    assert not prompt.options.count()

    endings = [f"embedding:moss-cat.{role}" for role in ("colour", "style", "object", "layout")]
    assert attributes.type("embedding:moss-cat.") == endings
    assert attributes.type("{concept}.st") == ["{concept}.style"]
    press("Enter")
    assert attributes.written() == "{concept}.style"
    assert Prompt(here, "CLIPTextEncode").type("embedding:moss") == []
    assert not errors


def test_another_completion_has_precedence(page: tuple[Any, list[str]]):
    here, errors = page
    here.evaluate(ADD)
    here.wait_for_timeout(1000)
    prompt = Prompt(here, "CompInvPrompt")
    assert prompt.type("embedding:moss")
    here.evaluate("""() => {
        const list = Object.assign(document.createElement("div"), { className: "pysssss-autocomplete", textContent: "theirs" })
        document.body.append(list)
    }""")
    try:
        here.keyboard.press("Enter")
        assert prompt.written() == "embedding:moss\n" and not prompt.options.count()
        assert prompt.type("embedding:moss") == []
    finally:
        here.evaluate("() => document.querySelector('.pysssss-autocomplete').remove()")
    assert not errors
