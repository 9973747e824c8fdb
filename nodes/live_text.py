"""A line of text under a node while it works."""

import re
import sys

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
    host = sys.modules.get("server")
    server = getattr(getattr(host, "PromptServer", None), "instance", None)
    if server is not None and cls.hidden is not None and cls.hidden.unique_id:
        server.send_progress_text(harmless(text), cls.hidden.unique_id)
