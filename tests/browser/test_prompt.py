"""{concept} in Composition Prompt beside the front end's dynamic prompts, in both renderers."""

from typing import Any

import pytest
from pages import render_with

GRAPH = {
    "1": {"class_type": "CompInvPrompt", "inputs": {"text": "", "subjects": "{concept}, boat"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "{a|b}"}},
}
SENT = """async text => {
    const node = window.app.graph._nodes.find(node => node.type === "CompInvPrompt")
    const widget = node.widgets.find(widget => widget.name === "text")
    widget.value = text
    let changes = 0
    const { callback } = widget
    widget.callback = () => changes++
    const { output, workflow } = await window.app.graphToPrompt()
    widget.callback = callback
    const { inputs } = output[node.id]
    const saved = Object.fromEntries(workflow.nodes.map(node => [node.type, node.widgets_values[0]]))
    return [inputs.text, saved, widget.value, changes, inputs.subjects]
}"""


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_a_concept_in_braces_is_sent_as_it_is_written_and_choices_are_made(page: tuple[Any, list[str]], nodes_2: bool):
    here, errors = page
    render_with(here, nodes_2)
    here.evaluate("graph => window.app.loadApiJson(graph, 'graph')", GRAPH)
    here.wait_for_timeout(500)
    for text, sent in {
        "a {concept} // and no {concept}": ["a {concept} "],
        "{a {concept} on grass|{snow|ice} and {concept}} // no": [
            f"{one} " for one in ("a {concept} on grass", "snow and {concept}", "ice and {concept}")
        ],
        "{red|blue} \\{concept\\} {concept|cat}": [
            f"{one} {{concept}} {two}" for one in ("red", "blue") for two in ("concept", "cat")
        ],
    }.items():
        came, saved, kept, changes, subjects = here.evaluate(SENT, text)
        as_written = saved["CLIPTextEncode"] == "{a|b}"  # or else what was chosen, by the front end
        assert came in sent and saved["CompInvPrompt"] == (text if as_written else came)
        assert (kept, changes, subjects) == (text, 0, "{concept}, boat")
    made = {here.evaluate(SENT, "{red|blue} {concept}")[0] for _ in range(20)}
    assert made == {"red {concept}", "blue {concept}"}
    assert not errors
