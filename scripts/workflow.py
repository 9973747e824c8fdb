"""A saved workflow (what the front end writes) as a prompt (what the server runs), by the server's own node descriptions."""

from typing import Any

NOTES = {"Note", "MarkdownNote"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
MUTED, BYPASSED = 2, 4


def is_widget(description: list[Any]) -> bool:
    kind = description[0]
    options = description[1] if len(description) > 1 else {}
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")


def has_control(name: str, description: list[Any]) -> bool:
    """Whether the front end shows "control after generate" behind a widget, whose value it saves too."""
    options = description[1] if len(description) > 1 else {}
    asked = options.get("control_after_generate")
    return description[0] == "INT" and (bool(asked) if asked is not None else name in ("seed", "noise_seed"))


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
        described = object_info[kind]["input"]
        inputs: dict[str, Any] = {}
        values = list(node.get("widgets_values", []))
        for name, description in {**described.get("required", {}), **described.get("optional", {})}.items():
            if not is_widget(description):
                continue
            if not values:
                break
            inputs[name] = values.pop(0)
            if has_control(name, description) and values:
                values.pop(0)
        for slot in node.get("inputs", []):
            if slot.get("link") is not None:
                inputs[slot["name"]] = list(links[slot["link"]])
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs, "_meta": {"title": node.get("title", kind)}}
    return prompt


def find(prompt: dict[str, Any], title: str) -> str:
    """The id of the node with a title."""
    return next(number for number, node in prompt.items() if node["_meta"]["title"] == title)
