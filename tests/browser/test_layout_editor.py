"""The layout editor on its node, in both renderers: drag, draw, keys, undo, reload, another run, another layout."""

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pages import render_with, run, run_from

ROOT = Path(__file__).parent.parent.parent
SEEDS = count(1)
SCRIPT = "<img src=x onerror=window.ran=1>"


def graph(right: float = 0.5) -> dict[str, Any]:
    edges = {"top": 0.2, "bottom": 0.8, "width": 64, "height": 64}
    return {
        "1": {"class_type": "CompInvSetRegion", "inputs": {"subject": SCRIPT, "left": 0.1, "right": right, **edges}},
        "2": {
            "class_type": "CompInvSetRegion",
            "inputs": {"subject": "car", "left": 0.55, "right": 0.95, **edges, "layout": ["1", 0]},
        },
        "3": {"class_type": "CompInvLayoutEditor", "inputs": {"edits": "", "width": 64, "height": 64, "layout": ["2", 0]}},
    }  # fmt: skip


class Editor:
    """The one on a page."""

    def __init__(self, page: Any, kind: str = "CompInvLayoutEditor"):
        self.page, self.kind = page, kind
        self.boxes, self.stage = (page.locator(f".compinv-layout:visible .{part}") for part in ("box", "stage"))

    def show(self) -> None:
        """Bring it into view, at its full size."""
        self.page.evaluate(
            """kind => {
                const { pos } = window.app.graph._nodes.find(node => node.type === kind)
                window.app.canvas.ds.scale = 1
                window.app.canvas.ds.offset = [120 - pos[0], -20 - pos[1]]
                window.app.canvas.setDirty(true, true)
            }""",
            self.kind,
        )
        self.page.wait_for_timeout(1000)

    def edits(self) -> dict[str, list[float]]:
        """The boxes by subject in what the workflow holds, {} for none."""
        text = self.page.evaluate("""() => window.app.graph._nodes.find(node => node.type === "CompInvLayoutEditor")
            .widgets.find(widget => widget.name === "edits").value""")
        return {region["subject"]: region["box"] for region in json.loads(text)["regions"]} if text else {}

    def open(self) -> None:
        """By its button, which is a widget of the node's."""
        self.page.evaluate(
            """kind => window.app.graph._nodes.find(node => node.type === kind)
                .widgets.find(widget => widget.name === "draw the layout").callback()""",
            self.kind,
        )
        self.show()

    def widget(self, name: str) -> Any:
        return self.page.evaluate(
            """([kind, name]) => window.app.graph._nodes.find(node => node.type === kind)
                .widgets.find(widget => widget.name === name).value""",
            [self.kind, name],
        )

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """From one place of the stage to another, in fractions."""
        at = self.stage.bounding_box()
        (x, y), (to_x, to_y) = ((at["x"] + a * at["width"], at["y"] + b * at["height"]) for a, b in (start, end))
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(to_x, to_y, steps=3)
        self.page.mouse.up()

    def draw(self, subject: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.show()
        self.drag(start, end)
        self.page.keyboard.type(subject)
        self.page.keyboard.press("Enter")

    def position(self) -> list[float]:
        return self.page.evaluate('[...window.app.graph._nodes.find(node => node.type === "CompInvLayoutEditor").pos]')


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_a_layout_is_edited_on_its_node(page: tuple[Any, list[str]], server: Any, nodes_2: bool, tmp_path: Path):
    here, errors = page
    editor, press = Editor(here), here.keyboard.press
    render_with(here, nodes_2)
    here.evaluate("window.ran = 0")
    here.evaluate("graph => window.app.loadApiJson(graph, 'graph')", graph())
    here.wait_for_timeout(1000)
    run(here, server)
    editor.show()
    assert editor.boxes.all_inner_texts() == [SCRIPT, "car"] and editor.edits() == {}  # as it came, the graph as it was
    node = here.evaluate("window.app.graph._nodes.find(node => node.type === 'CompInvLayoutEditor').size[0]")
    assert editor.stage.bounding_box()["width"] <= node

    where = editor.position()
    editor.drag((0.3, 0.6), (0.4, 0.65))
    assert editor.edits()[SCRIPT] == pytest.approx([0.2, 0.25, 0.6, 0.85], abs=0.02)
    assert editor.position() == where  # the box was dragged, not its node
    moved = editor.edits()
    press("Control+z")
    here.wait_for_timeout(500)
    assert editor.edits() == {} and here.evaluate("window.app.graph._nodes.length") == 3
    press("Control+y")
    assert editor.edits() == moved

    editor.boxes.nth(1).focus()
    press("ArrowRight")
    press("Control+ArrowDown")
    assert editor.edits()["car"] == pytest.approx([0.56, 0.2, 0.96, 0.81])
    editor.drag((0.96, 0.505), (0.8, 0.505))
    assert editor.edits()["car"] == pytest.approx([0.56, 0.2, 0.8, 0.81], abs=0.02)
    press("Delete")
    assert list(editor.edits()) == [SCRIPT] and here.evaluate("window.app.graph._nodes.length") == 3
    editor.drag((0.7, 0.02), (0.95, 0.17))
    here.keyboard.type("boat")
    press("Enter")
    assert editor.edits()["boat"] == pytest.approx([0.7, 0.0, 0.95, 0.18], abs=0.03)
    here.screenshot(path=str(tmp_path / "edited.png"))

    edited = editor.edits()
    saved = here.evaluate("window.app.graph.serialize()")
    here.evaluate("() => { window.app.graph.clear(); window.app.nodeOutputs = {} }")
    here.evaluate("workflow => window.app.loadGraphData(workflow)", saved)
    here.wait_for_timeout(1000)
    assert editor.edits() == edited and editor.boxes.count() == 2
    run(here, server)
    assert editor.edits() == edited and editor.boxes.all_inner_texts() == [SCRIPT, "boat"]
    here.evaluate("""() => {
        const region = window.app.graph._nodes.find(node => node.type === "CompInvSetRegion" && node.inputs[0].link === null)
        region.widgets.find(widget => widget.name === "right").value = 0.4
    }""")
    run(here, server)
    assert editor.boxes.all_inner_texts() == [SCRIPT, "car"]  # another layout came: the edits no longer count
    assert here.evaluate("window.ran") == 0
    assert not errors


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_another_workflow_whose_node_has_the_same_number_shows_its_own(page: tuple[Any, list[str]], nodes_2: bool):
    here, errors = page
    editor = Editor(here)
    render_with(here, nodes_2)
    alone = {**graph()["3"], "inputs": {"edits": "", "width": 64, "height": 64}}
    for subject in ("boat", "kite"):
        here.evaluate("graph => window.app.loadApiJson(graph, 'graph')", {"3": alone})
        here.wait_for_timeout(1000)
        editor.draw(subject, (0.1, 0.1), (0.4, 0.4))
        assert editor.boxes.all_inner_texts() == list(editor.edits()) == [subject]
    assert not errors


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_a_recovered_layout_is_edited_where_it_was_recovered(
    page: tuple[Any, list[str]], server: Any, nodes_2: bool, tmp_path: Path
):
    here, errors = page
    render_with(here, nodes_2)
    canvas = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    asked = {"method": "default boxes", "boxes": "", "steps": 2, "cfg": 5.0, "seed": next(SEEDS), "pictures": 1}
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "microworld.safetensors"}},
        "2": {"class_type": "CompInvPrompt", "inputs": {"clip": ["1", 1], "text": "a photo of a cat and a car", "subjects": "cat, car"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "CompInvLayoutRecover", "inputs": {**canvas, **asked}},
        "6": {"class_type": "PreviewAny", "inputs": {"source": ["5", 3]}},
    }  # fmt: skip
    here.evaluate("graph => window.app.loadApiJson(graph, 'graph')", graph)
    here.wait_for_timeout(1000)
    editor = Editor(here, "CompInvLayoutRecover")
    assert editor.stage.count() == 0
    run_from(here)  # the server tells nothing of a node whose answer it had before
    editor.open()
    assert editor.stage.is_visible() and editor.boxes.all_inner_texts() == ["cat", "car"]
    start = [float(edge) for edge in came(here, server)["cat"]]
    middle = ((start[0] + start[2]) / 2, (start[1] + start[3]) / 2)
    editor.drag((middle[0], middle[1]), (middle[0], middle[1] - 0.05))
    assert editor.widget("method") == "my boxes"
    edited = {region["subject"]: region["box"] for region in json.loads(editor.widget("boxes"))["regions"]}
    here.screenshot(path=str(tmp_path / "recovered.png"))
    assert edited["cat"][1] < start[1]
    assert {name: pytest.approx(box, abs=1e-3) for name, box in came(here, server).items()} == edited
    here.locator(".compinv-layout:visible").get_by_title("Back to the layout as it came").click()
    assert editor.widget("method") == "default boxes"
    assert came(here, server)["cat"] == pytest.approx(start, abs=1e-3)
    assert not errors


def came(page: Any, server: Any) -> dict[str, list[float]]:
    """The boxes that the graph of a page gives now; with a seed of its own, for a server says nothing of what it has done before."""
    prompt = page.evaluate("window.app.graphToPrompt().then(result => result.output)")
    outputs = server.run({**prompt, "5": {**prompt["5"], "inputs": {**prompt["5"]["inputs"], "seed": next(SEEDS)}}})
    return json.loads(
        next(text for text in (one.get("text") for one in outputs.values()) if text and text[0][0] == "{")[0]
    )


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_a_region_is_drawn_where_its_edges_are(page: tuple[Any, list[str]], nodes_2: bool, tmp_path: Path):
    here, errors = page
    render_with(here, nodes_2)
    first, *_ = graph().values()
    here.evaluate("graph => window.app.loadApiJson(graph, 'graph')", {"1": first})
    here.wait_for_timeout(1000)
    editor = Editor(here, "CompInvSetRegion")
    editor.open()
    edges = ("left", "top", "right", "bottom")
    editor.drag((0.3, 0.5), (0.4, 0.55))
    assert [editor.widget(edge) for edge in edges] == pytest.approx([0.2, 0.25, 0.6, 0.85], abs=0.02)
    editor.drag((0.7, 0.02), (0.95, 0.17))  # another box in its place
    assert [editor.widget(edge) for edge in edges] == pytest.approx([0.7, 0.0, 0.95, 0.18], abs=0.03)
    here.evaluate("""() => {
        const right = window.app.graph._nodes[0].widgets.find(widget => widget.name === "right")
        right.value = 0.9
        right.callback(0.9)
    }""")
    assert editor.boxes.count() == 1 and "right 90 %" in editor.boxes.first.get_attribute("aria-label")
    here.screenshot(path=str(tmp_path / "region.png"))
    assert editor.widget("subject") == SCRIPT and not errors


def test_the_boxes_have_the_colours_of_the_pictures():
    of_page = re.search(r"COLORS = (\[.*?\])", (ROOT / "web/js/layout_canvas.js").read_text())
    of_pictures = re.search(r"COLORS = (\[.*?\])", (ROOT / "nodes/pictures.py").read_text())
    assert of_page and of_pictures and json.loads(of_page[1]) == json.loads(of_pictures[1])
