"""Our nodes in the front end's language, in both renderers: no English but names and what a user chose or wrote."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pages import render_with

NAMES = {"CLIP", "VAE", "CFG", "JSON", "Latent", "Custom", "Diffusion", "compositional_inversion"}
"""The last is the pack's folder, which the front end writes on each node."""
ADD_ALL = """() => {
    window.app.graph.clear() // of the workflow that a page begins with
    const types = Object.keys(window.LiteGraph.registered_node_types).filter(type => type.startsWith("CompInv")).sort()
    types.forEach((type, i) => {
        const node = window.LiteGraph.createNode(type)
        node.pos = [(i % 7) * 520, Math.floor(i / 7) * 1000]
        window.app.graph.add(node)
    })
    Object.assign(window.app.canvas.ds, { scale: 0.2, offset: [60, 60] })
    window.app.canvas.setDirty(true, true)
    return types.length
}"""
ON_THE_CANVAS = """() => window.app.graph._nodes.flatMap(node => [
    node.title,
    ...[...node.inputs, ...node.outputs].map(slot => slot.label ?? slot.localized_name ?? slot.name),
    ...node.widgets?.filter(widget => !widget.hidden && !widget.element).map(widget => widget.label ?? widget.name) ?? []
])"""
ON_THE_PAGE = """() => window.app.graph._nodes.flatMap(node => {
    const chosen = new Set(node.widgets?.flatMap(({ value }) => [`${value}`, ...`${value}`.split("\\n")]))
    const walker = document.createTreeWalker(document.querySelector(`[data-node-id="${node.id}"]`), NodeFilter.SHOW_TEXT)
    const texts = []
    while (walker.nextNode()) {
        const { textContent, parentElement } = walker.currentNode
        if (!parentElement.closest("textarea, style, script, i") && !chosen.has(textContent.trim())) texts.push(textContent.trim())
    }
    return texts
})"""


def english(texts: list[str]) -> set[str]:
    """Words in Latin letters that are no names."""
    return {word for text in texts for word in re.findall("[A-Za-z_]{2,}", text)} - NAMES


def load_in(page: Any, language: str) -> None:
    """Load the page again in a language."""
    page.evaluate("language => window.app.extensionManager.setting.set('Comfy.Locale', language)", language)
    page.reload()
    page.wait_for_function("Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.CompInvTrain)")
    page.wait_for_timeout(2000)


@pytest.fixture
def english_again(page: tuple[Any, list[str]]) -> Iterator[None]:
    yield
    load_in(page[0], "en")


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_nodes_speak_the_pages_language(page: tuple[Any, list[str]], english_again: None, language: str):
    here, errors = page
    load_in(here, language)
    assert here.evaluate(ADD_ALL) > 20
    here.wait_for_timeout(1000)
    assert english(here.evaluate(ON_THE_CANVAS)) == set()
    editor = here.locator(".compinv-layout .bar")
    assert english(editor.all_inner_texts()) == set() and editor.count()
    render_with(here, nodes_2=True)
    here.wait_for_timeout(2000)
    shown = here.evaluate(ON_THE_PAGE)
    assert len(shown) > 200 and english(shown) == set()
    assert not errors
