"""A saved workflow (what the front end writes) as a prompt (what the server runs), by the server's own node descriptions."""

import copy
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

NOTES = {"Note", "MarkdownNote"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
MUTED, BYPASSED = 2, 4

MICRO_WORLD: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": "microworld.safetensors"},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "ImageScale": {"width": 64},
    "LoadImage": {"image": "room.png"},
    "CompInvAnchorSelect": {"class_word": "car"},
    "CompInvTrain": {"resolution": 64, "steps": 200},
    "CompInvTrainModel": {"resolution": 64},
    "CompInvTrainAttributes": {"resolution": 64, "steps": 200, "class_word": "kite", "style_word": "plain"},
    "CompInvRepairConcept": {"resolution": 64},
    "CompInvLayoutRecover": {"seed": 1},
    "CompInvRegularizedSampler": {"seed": 1, "cfg": 5.0},
    "KSampler": {"seed": 1, "cfg": 5.0},
}
"""What the shipped workflows are run with on the micro world in place of a user's model and pictures, by class of node."""

NAMES = {
    "my-concept-xl": "zippy",
    "my-concept": "zippy",
    "my-other-concept": "sippy",
    "their-embedding": "zippy-plain-1",
    "my-reference": "ember",
    "my-class": "cats",
    "fair-class": "fair-cat",
}
"""What is a folder, a file or a concept there, by what the shipped workflows call it."""


def is_widget(description: list[Any]) -> bool:
    kind = description[0]
    options = description[1] if len(description) > 1 else {}
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")


def has_control(name: str, description: list[Any]) -> bool:
    """Whether the front end shows "control after generate" behind a widget, whose value it saves too."""
    options = description[1] if len(description) > 1 else {}
    asked = options.get("control_after_generate")
    return description[0] == "INT" and (bool(asked) if asked is not None else name in ("seed", "noise_seed"))


def widget_names(description: dict[str, Any]) -> list[str]:
    """Of the values that a saved node has, in their order; "" for its "control after generate"."""
    inputs = description["input"]
    names: list[str] = []
    for name, one in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
        if is_widget(one):
            names += [name, ""] if has_control(name, one) else [name]
    return names


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The graph in API form: node id -> class and inputs.

    Raises:
        ValueError: a node that the server does not know, or one that is bypassed.
    """
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    prompt: dict[str, Any] = {}
    for node in workflow["nodes"]:
        kind, mode = node["type"], node.get("mode", 0)
        if kind in NOTES or mode == MUTED:
            continue
        if kind not in object_info:
            raise ValueError(
                f'The workflow has a node "{kind}" that this ComfyUI does not know; install the pack it is from.'
            )
        if mode == BYPASSED:
            raise ValueError(f'The node "{kind}" is bypassed; only whole graphs can be queued here.')
        named = zip(widget_names(object_info[kind]), node.get("widgets_values", []), strict=False)
        inputs: dict[str, Any] = {name: value for name, value in named if name}
        for slot in node.get("inputs", []):
            if slot.get("link") is not None:
                inputs[slot["name"]] = list(links[slot["link"]])
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs, "_meta": {"title": node.get("title", kind)}}
    return prompt


def on_micro_world(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """A shipped workflow as the micro world can run it: its model, its sizes, its pictures and their names."""
    workflow = copy.deepcopy(workflow)
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        own = MICRO_WORLD.get(node["type"], {})
        names = widget_names(object_info[node["type"]])
        pairs = zip_longest(names, node.get("widgets_values", []))  # the page may save more than the server knows
        node["widgets_values"] = [own.get(name, renamed(value)) for name, value in pairs]
        node["properties"].pop("models", None)
    return workflow


def shipped(name: str, object_info: dict[str, Any]) -> dict[str, Any]:
    """A shipped workflow as a prompt for the micro world."""
    file = Path(__file__).resolve().parent.parent / "workflows" / f"{name}.json"
    return to_prompt(on_micro_world(json.loads(file.read_text()), object_info), object_info)


def renamed(value: Any) -> Any:
    """A widget's value with the micro world's names."""
    if isinstance(value, str):
        for name, there in NAMES.items():
            value = value.replace(name, there)
    return value


def find(prompt: dict[str, Any], title: str) -> str:
    """The id of the node with a title."""
    return next(number for number, node in prompt.items() if node["_meta"]["title"] == title)
