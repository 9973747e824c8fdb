import json
from itertools import combinations
from pathlib import Path

import pytest
from workflow import find, to_prompt

WORKFLOWS = sorted((Path(__file__).parent.parent.parent / "workflows").glob("*.json"))
TITLE = 30  # pixels above a node's position

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


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shipped_workflow_says_how_it_is_looked_at_and_has_a_thumbnail(path: Path):
    """Without a scale of its own the newer renderer flings its nodes apart."""
    assert json.loads(path.read_text())["extra"] == {"ds": {"scale": 0.8, "offset": [480, 120]}}
    assert path.with_suffix(".jpg").is_file()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_nodes_of_a_shipped_workflow_lie_apart(path: Path):
    for a, b in combinations(json.loads(path.read_text())["nodes"], 2):
        (ax, ay), (bx, by), (aw, ah), (bw, bh) = a["pos"], b["pos"], a["size"], b["size"]
        beside = ax + aw <= bx or bx + bw <= ax
        below = ay + ah <= by - TITLE or by + bh <= ay - TITLE
        assert beside or below, (a["type"], b["type"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_links_of_a_shipped_workflow_are_those_of_its_nodes(path: Path):
    workflow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, output, target, slot, _ in workflow["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == number
    ends = [slot["link"] for node in nodes.values() for slot in node["inputs"] if slot["link"] is not None]
    assert sorted(ends) == sorted(link[0] for link in workflow["links"])
