"""The layout editor under fingers, in both renderers: drag, resize, draw; a second finger changes nothing."""

from collections.abc import Iterator
from typing import Any

import pytest
from pages import render_with

REGION = {
    "class_type": "CompInvSetRegion",
    "inputs": {"subject": "cat", "left": 0.2, "top": 0.2, "right": 0.6, "bottom": 0.6, "width": 64, "height": 64},
}
OPEN = """() => {
    const [node] = window.app.graph._nodes
    node.widgets.find(widget => widget.name === "draw the layout").callback()
    Object.assign(window.app.canvas.ds, { scale: 1 })
    window.app.canvas.ds.offset = [120 - node.pos[0], 40 - node.pos[1]]
    window.app.canvas.setDirty(true, true)
}"""
BOX = """() => ["left", "top", "right", "bottom"].map(name => window.app.graph._nodes[0].widgets.find(one => one.name === name).value)"""
HERE = "() => [...window.app.graph._nodes[0].pos, ...window.app.canvas.ds.offset, window.app.canvas.ds.scale]"
Point = tuple[float, float]


@pytest.fixture(scope="module")
def touched(browser: Any, server: Any) -> Iterator[Any]:
    """A page of a device with a touch screen."""
    server.fetch("/settings/Comfy.TutorialCompleted", True)
    context = browser.new_context(has_touch=True, viewport={"width": 1200, "height": 1200})
    page = context.new_page()
    page.set_default_timeout(300_000)
    page.goto(server.url)
    page.wait_for_function("Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.CompInvTrain)")
    page.wait_for_timeout(1000)
    yield page
    render_with(page, nodes_2=False)
    context.close()


class Fingers:
    """On the stage of the editor; places are fractions of it."""

    def __init__(self, page: Any):
        self.page, self.session = page, page.context.new_cdp_session(page)
        self.at = page.locator(".compinv-layout:visible .stage").bounding_box()

    def send(self, kind: str, *points: Point) -> None:
        places = [
            {"x": self.at["x"] + x * self.at["width"], "y": self.at["y"] + y * self.at["height"], "id": number}
            for number, (x, y) in enumerate(points)
        ]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})
        self.page.wait_for_timeout(100)  # moves arrive with the next frame

    def place(self, x: float, y: float) -> Point:
        return (x - self.at["x"]) / self.at["width"], (y - self.at["y"]) / self.at["height"]

    def drag(self, start: Point, end: Point) -> list[float]:
        """The box afterwards."""
        self.send("touchStart", start)
        for part in (0.3, 0.7, 1.0):
            self.send("touchMove", (start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])))
        self.send("touchEnd")
        return self.page.evaluate(BOX)


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_a_finger_drags_resizes_and_draws(touched: Any, nodes_2: bool):
    page = touched
    render_with(page, nodes_2)
    page.evaluate("graph => window.app.loadApiJson(graph, 'graph')", {"1": REGION})
    page.wait_for_timeout(1000)
    page.evaluate(OPEN)
    page.wait_for_timeout(1000)
    fingers, where = Fingers(page), page.evaluate(HERE)
    assert fingers.drag((0.4, 0.4), (0.47, 0.45)) == pytest.approx([0.27, 0.25, 0.67, 0.65], abs=0.015)
    handle = page.locator(".compinv-layout:visible .selected .handle").nth(4).bounding_box()  # right bottom
    assert min(handle["width"], handle["height"]) >= 24
    corner = fingers.place(handle["x"] + handle["width"] - 3, handle["y"] + handle["height"] - 3)
    assert fingers.drag(corner, (corner[0] + 0.16, corner[1] + 0.2)) == pytest.approx(
        [0.27, 0.25, 0.83, 0.85], abs=0.03
    )

    fingers.send("touchStart", (0.5, 0.5))
    fingers.send("touchStart", (0.5, 0.5), (0.9, 0.1))
    fingers.send("touchMove", (0.5, 0.5), (0.7, 0.3))
    fingers.send("touchMove", (0.4, 0.4), (0.6, 0.2))
    fingers.send("touchEnd")
    assert page.evaluate(BOX) == pytest.approx([0.17, 0.15, 0.73, 0.75], abs=0.03)

    assert fingers.drag((0.98, 0.98), (0.77, 0.79)) == pytest.approx([0.77, 0.79, 0.98, 0.98], abs=0.025)
    assert page.evaluate(HERE) == where  # neither the node nor the canvas went along
