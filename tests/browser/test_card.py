"""A concept card that is dropped on the page opens the workflow that made it."""

import base64
from pathlib import Path
from typing import Any

from concept_files import concept_files
from pages import run_from

NAME = "moss-cup"
DROP = """async data => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0))
    const [there, transfer] = [document.querySelector("#graph-canvas"), new DataTransfer()]
    transfer.items.add(new File([bytes], "card.png", { type: "image/png" }))
    for (const kind of ["dragenter", "dragover", "drop"]) {
        there.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }))
    }
}"""


def test_a_card_that_is_dropped_opens_its_workflow(page: tuple[Any, list[str]], base: Path):
    here, errors = page
    graph = {
        "1": {"class_type": "CompInvLoadConcept", "inputs": {"file": f"{NAME}.safetensors", "class_word": "cup"}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 255}},
        "3": {"class_type": "CompInvSaveCard", "inputs": {"concept": ["1", 0], "images": ["2", 0], "filename_prefix": "dropped"}},
    }  # fmt: skip
    with concept_files(base, {f"{NAME}.safetensors"}):
        here.evaluate("graph => window.app.loadApiJson(graph, 'graph')", graph)
        here.wait_for_timeout(1000)
        here.evaluate("() => { window.app.graph._nodes[0].pos = [777, 333] }")
        run_from(here)
    (card,) = (base / "output").glob("dropped_*.png")
    here.evaluate("() => window.app.graph.clear()")
    here.evaluate(DROP, base64.b64encode(card.read_bytes()).decode())
    here.wait_for_function("() => window.app.graph._nodes.length === 3", timeout=30_000)
    kinds = here.evaluate("() => window.app.graph._nodes.map(node => node.type)")
    assert sorted(kinds) == sorted(one["class_type"] for one in graph.values())
    assert [777, 333] in here.evaluate("() => window.app.graph._nodes.map(node => [...node.pos])")  # as it lay there
    assert not errors
