import json
from itertools import combinations
from pathlib import Path

import pytest
from workflow import find, on_micro_world, to_prompt

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


def test_on_the_micro_world_a_workflow_has_its_model_its_names_and_its_sizes():
    info = {
        "CompInvTrain": {
            "input": {"required": {"placeholder": ["STRING", {}], "resolution": ["INT", {}], "seed": ["INT", {}]}}
        }
    }
    node = {"id": 1, "type": "CompInvTrain", "widgets_values": ["my-concept-tuned", 512, 7, "fixed"], "properties": {}}
    changed = on_micro_world({"nodes": [node], "links": []}, info)
    assert changed["nodes"][0]["widgets_values"] == ["zippy-tuned", 64, 7, "fixed"]
    assert node["widgets_values"] == ["my-concept-tuned", 512, 7, "fixed"]


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
def test_a_shipped_workflow_is_for_a_users_model_and_says_where_to_get_it(path: Path):
    nodes = json.loads(path.read_text())["nodes"]
    (loader,) = (node for node in nodes if node["type"] == "CheckpointLoaderSimple")
    (model,) = loader["properties"]["models"]
    assert loader["widgets_values"] == [model["name"]] and model["directory"] == "checkpoints"
    assert model["url"].startswith("https://huggingface.co/") and model["name"] in model["url"]
    side = 1024 if path.stem.endswith("_sdxl") else 512
    sizes = [node["widgets_values"][:2] for node in nodes if node["type"] == "EmptyLatentImage"]
    assert all(size == [side, side] for size in sizes)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_node_of_a_shipped_workflow_stands_in_one_titled_group(path: Path):
    workflow = json.loads(path.read_text())
    boxes = [group["bounding"] for group in workflow["groups"]]
    assert all(group["title"] for group in workflow["groups"])
    for node in workflow["nodes"]:
        (x, y), (w, h) = node["pos"], node["size"]
        around = [
            box
            for box in boxes
            if box[0] <= x and x + w <= box[0] + box[2] and box[1] <= y - TITLE and y + h <= box[1] + box[3]
        ]
        assert len(around) == 1, node["type"]
    for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(boxes, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


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
