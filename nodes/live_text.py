"""A line of text under a node while it works."""

import sys

from comfy_api.latest import io


def say(cls: type[io.ComfyNode], text: str) -> None:
    """Show it where a server is running and the node asked for its id."""
    host = sys.modules.get("server")
    server = getattr(getattr(host, "PromptServer", None), "instance", None)
    if server is not None and cls.hidden is not None and cls.hidden.unique_id:
        server.send_progress_text(text, cls.hidden.unique_id)
