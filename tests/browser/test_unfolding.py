"""Inputs that few need: a button unfolds them where the page folds them, and all others show them; their values are saved."""

from typing import Any

import pytest
from pages import render_with

FOLDED = {
    "CompInvTrain": {"batch": 2, "learning_rate": 0.05, "mirror": False, "seed": 7},
    "CompInvTrainModel": {"vectors": 2, "rank": 4, "prior_count": 12},
    "CompInvTrainAttributes": {"anchor_weight": 0.3, "colour_style_loss": False},
    "CompInvRegularizedSampler": {"guidance": 30.0, "threshold": 0.1, "class_words": "coarse blocks"},
    "CompInvLayoutRecover": {"steps": 4, "cfg": 3.0, "pictures": 2},
}
"""A value of some of them, none of which is the default."""
FOLDING = (1, 58)  # the oldest front end known to fold, in Nodes 2.0
ADD = """kind => {
    const node = window.LiteGraph.createNode(kind)
    node.pos = [60, 60]
    window.app.graph.clear()
    window.app.graph.add(node)
    window.app.canvas.ds.reset()
}"""
SHOWN = """([nodes_2, names]) => {
    const [node] = window.app.graph._nodes
    if (!nodes_2) return names.filter(name => node.isWidgetVisible(node.widgets.find(widget => widget.name === name)))
    const rows = [...document.querySelectorAll(`[data-node-id="${node.id}"] *`)].filter(one => one.checkVisibility() && !one.children.length)
    const texts = new Set(rows.map(one => one.textContent.trim()))
    return names.filter(name => texts.has(name))
}"""


@pytest.mark.parametrize("kind", FOLDED)
@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_folded_inputs_can_be_unfolded_and_are_saved(page: tuple[Any, list[str]], nodes_2: bool, kind: str):
    here, errors = page
    values = FOLDED[kind]
    render_with(here, nodes_2)
    here.evaluate(ADD, kind)
    here.wait_for_timeout(700)
    button = here.locator("[data-node-id]").get_by_text("Show advanced inputs")
    version = tuple(map(int, here.evaluate("window.__COMFYUI_FRONTEND_VERSION__").split(".")[:2]))
    assert button.count() or not nodes_2 or version < FOLDING
    shown = here.evaluate(SHOWN, [nodes_2, list(values)])
    assert shown == ([] if button.count() else list(values))
    if button.count():
        button.click()
        here.wait_for_timeout(300)
        assert here.evaluate(SHOWN, [nodes_2, list(values)]) == list(values)
    here.evaluate(
        "values => window.app.graph._nodes[0].widgets.forEach(one => { if (one.name in values) one.value = values[one.name] })",
        values,
    )
    saved = here.evaluate("window.app.graph.serialize()")
    here.evaluate("() => window.app.graph.clear()")
    here.evaluate("workflow => window.app.loadGraphData(workflow)", saved)
    here.wait_for_timeout(700)
    found = here.evaluate(
        "() => Object.fromEntries(window.app.graph._nodes[0].widgets.map(one => [one.name, one.value]))"
    )
    assert {name: found[name] for name in values} == values
    assert not errors
