"""Text under a node: while it works, and what of it stays when its job has ended (web/js/notices.js)."""

import re
import sys
from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

WORD_JOINER = "\u2060"  # shows as nothing


def harmless(text: str) -> str:
    """The same to a reader, whatever a page makes of markup in it: a subject or a file's name may be somebody else's.

    Some front ends render these texts as HTML and some escape them first, so entities would show in the latter. A tag, an entity,
    and the front end's own [[label|link]] and __LNK0__, are none with a word joiner in them.
    """
    return re.sub(r"(?<=[<&])(?=\S)|(?<=\[)(?=\[)|(?<=_)(?=_)", WORD_JOINER, text)


def say(cls: type[io.ComfyNode], text: str) -> None:
    """Show it where a server is running and the node asked for its id."""
    if server := _server(cls):
        server.send_progress_text(harmless(text), cls.hidden.unique_id)


def lasting(text: str, drawn: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same as a part of a node's output, by which it stays below the node and in the history.

    Args:
        drawn: what else the page draws on the node.
    """
    return {**(drawn or {}), "text": [harmless(text)], "text_lasts": [True]}


def warn(cls: type[io.ComfyNode], title: str, text: str) -> None:
    """Show it below a node that will have no output, and in a message that stays until it is closed."""
    say(cls, text)
    if server := _server(cls):
        notice = {"node": cls.hidden.unique_id, "title": title, "text": harmless(text)}
        server.send_sync("compinv_notice", notice, server.client_id)


def _server(cls: type[io.ComfyNode]) -> Any:
    """None without one, or for a node that did not ask for its id."""
    host = sys.modules.get("server")
    asked = cls.hidden is not None and cls.hidden.unique_id
    return getattr(getattr(host, "PromptServer", None), "instance", None) if asked else None
