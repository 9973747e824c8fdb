import pytest
from workflow import find, to_prompt

INFO = {
    "Sampler": {
        "input": {
            "required": {"model": ["MODEL", {}], "seed": ["INT", {}], "steps": ["INT", {}], "how": [["a", "b"], {}]},
            "optional": {"note": ["STRING", {}]},
        }
    },
    "Loader": {"input": {"required": {"seed": ["INT", {"control_after_generate": False}], "name": ["STRING", {}]}}},
}
LINKS = [[1, 7, 0, 8, 0, "MODEL"]]


def graph(**changes: object) -> dict[str, object]:
    nodes = [
        {"id": 7, "type": "Loader", "widgets_values": [3, "x"]},
        {
            "id": 8,
            "type": "Sampler",
            "title": "The sampler",
            "inputs": [{"name": "model", "link": 1}],
            "widgets_values": [5, "fixed", 20, "b", "hello"],
        },
        {"id": 9, "type": "MarkdownNote", "widgets_values": ["text"]},
    ]
    nodes[1].update(changes)
    return {"nodes": nodes, "links": LINKS}


def test_links_and_widgets_become_inputs():
    prompt = to_prompt(graph(), INFO)
    assert prompt["8"]["inputs"] == {"seed": 5, "steps": 20, "how": "b", "note": "hello", "model": ["7", 0]}
    assert prompt["7"]["inputs"] == {"seed": 3, "name": "x"}
    assert "9" not in prompt
    assert find(prompt, "The sampler") == "8"


def test_a_muted_node_is_left_out():
    assert "8" not in to_prompt(graph(mode=2), INFO)


@pytest.mark.parametrize(("changes", "sentence"), [({"type": "Unknown"}, '"Unknown"'), ({"mode": 4}, "bypassed")])
def test_a_graph_that_cannot_be_queued_is_refused(changes: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        to_prompt(graph(**changes), INFO)
