"""{concept} in Composition Prompt beside the front end's dynamic prompts, in both renderers."""

from typing import Any

import pytest
from pages import render_with

PROMPT = {"class_type": "CompInvPrompt", "inputs": {"text": "", "subjects": "{concept}, boat"}}
SENT = """async text => {
    const widget = window.app.graph._nodes[0].widgets.find(widget => widget.name === "text")
    widget.value = text
    let changes = 0
    const { callback } = widget
    widget.callback = () => changes++
    const { output, workflow } = await window.app.graphToPrompt()
    widget.callback = callback
    const [sent] = Object.values(output)
    return [sent.inputs.text, workflow.nodes[0].widgets_values[0], widget.value, changes, sent.inputs.subjects]
}"""


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_a_concept_in_braces_is_sent_as_it_is_written_and_choices_are_made(page: tuple[Any, list[str]], nodes_2: bool):
    here, errors = page
    render_with(here, nodes_2)
    here.evaluate("graph => window.app.loadApiJson(graph, 'graph')", {"1": PROMPT})
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
        assert came in sent and saved == came  # a picture's workflow holds what gave it
        assert (kept, changes, subjects) == (text, 0, "{concept}, boat")
    made = {here.evaluate(SENT, "{red|blue} {concept}")[0] for _ in range(20)}
    assert made == {"red {concept}", "blue {concept}"}
    assert not errors
