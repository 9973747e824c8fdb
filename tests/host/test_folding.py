"""Which inputs are folded: nodes stay short, and no template sets a value that nobody sees."""

import json
from pathlib import Path
from typing import Any

import pytest
from workflow import is_widget, widget_names

WORKFLOWS = sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))
MOST = 8


def described(node: Any) -> dict[str, Any]:
    """As the page gets it."""
    return node.GET_NODE_INFO_V1()


def widgets(node: Any, advanced: bool) -> dict[str, dict[str, Any]]:
    """A node's widgets by name, only what is folded or only the rest."""
    parts = described(node)["input"]
    every = {
        name: one for kind in ("required", "optional") for name, one in parts.get(kind, {}).items() if is_widget(one)
    }
    return {name: one[1] for name, one in every.items() if one[1].get("advanced", False) is advanced}


@pytest.mark.parametrize(
    "name",
    [
        "CompInvTrain", "CompInvTrainModel", "CompInvTrainAttributes", "CompInvRegularizedSampler", "CompInvRegularizeModel",
        "CompInvLayoutRecover",
    ],
)  # fmt: skip
def test_few_widgets_stand_on_a_node(pack: Any, name: str):
    node = pack.nodes[name]
    assert len(widgets(node, advanced=False)) <= MOST and len(widgets(node, advanced=True)) >= 3


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_template_folds_only_defaults(pack: Any, path: Path):
    for node in json.loads(path.read_text())["nodes"]:
        if node["type"] not in pack.nodes:
            continue
        values = dict(zip(widget_names(described(pack.nodes[node["type"]])), node["widgets_values"], strict=False))
        folded = widgets(pack.nodes[node["type"]], advanced=True)
        assert {name: values[name] for name in folded} == {name: one["default"] for name, one in folded.items()}
