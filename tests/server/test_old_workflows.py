"""Workflows that users saved with earlier states of the pack load and run as they did."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from concept_files import concept_files
from workflow import find, to_prompt, widget_names

OLD = sorted((Path(__file__).parent / "old_workflows").glob("*.json"))
NAMES = ("zippy.safetensors", "sippy.safetensors", "zippy-plain-1.safetensors")


@pytest.fixture(scope="module")
def saved(base: Path) -> Iterator[None]:
    with concept_files(base, NAMES):
        yield


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_a_workflow_of_before_runs(server: Any, path: Path):
    workflow, info = json.loads(path.read_text()), server.get("/object_info")
    for node in workflow["nodes"]:
        if node["type"].startswith("CompInv"):
            known = info[node["type"]]["output_name"]
            assert [one["name"] for one in node["outputs"]] == known[: len(node["outputs"])]
            assert len(node["widgets_values"]) <= len(widget_names(info[node["type"]]))
    prompt = to_prompt(workflow, info)
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 3
        if node["class_type"] == "CompInvRepairConcept":
            node["inputs"]["pictures"] = 2
    assert len(server.run(prompt)[find(prompt, "Composition")]["images"]) == 4
