"""Texts below a node: whatever a front end makes of them, no page finds markup in a name."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

NODES = Path(__file__).parent.parent.parent / "nodes"


class Reader(HTMLParser):
    """What a page shows of HTML, and the tags in it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.shown, self.tags = "", list[str]()

    def handle_data(self, data: str) -> None:
        self.shown += data

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    handle_endtag = handle_comment = handle_decl = handle_pi = unknown_decl = lambda self, data: self.tags.append(data)


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>", "</span><script>1</script>", "<!-- x -->", "<?x?>", "&lt;b&gt; &#60; &amp", "a < b & c", "a<b&c",
        "[[here|https://example.com]]", "[[[a|b]]]", "__LNK0__", "____LNK0__", "two\nlines <b>\n", "", "<<b>>",
    ],
)  # fmt: skip
def test_a_text_reaches_the_page_as_written_and_without_markup(pack: Any, monkeypatch: Any, text: str):
    sent: list[tuple[str, str]] = []
    server = SimpleNamespace(
        client_id="page",
        send_progress_text=lambda text, node: sent.append((text, node)),
        send_sync=lambda event, notice, client: sent.append((notice["text"], notice["node"])),
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    live_text = sys.modules["compositional_inversion.nodes.live_text"]
    node = SimpleNamespace(hidden=SimpleNamespace(unique_id="7"))
    live_text.say(node, text)
    live_text.warn(node, "Training stopped", text)
    assert len(sent) == 3
    for said, to in [*sent, (live_text.lasting(text)["text"][0], "7")]:
        page = Reader()
        page.feed(said)
        page.close()
        assert to == "7" and not page.tags
        assert page.shown.replace("\u2060", "") == said.replace("\u2060", "") == text
        assert not re.search(r"\[\[|__", said)  # the front end's own links


def test_no_node_sends_a_text_but_by_live_text():
    sending = re.compile(
        r"send_progress_text|send_sync|PromptServer|\bui=(?!lasting\(|canvas\(|ui\.)|\bui\.(?!PreviewImage|SavedImages|SavedResult)"
    )
    assert [path.name for path in sorted(NODES.glob("*.py")) if sending.search(path.read_text())] == ["live_text.py"]
