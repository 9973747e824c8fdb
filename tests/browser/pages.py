"""What browser tests do with a page: choose its renderer, run its graph, measure its nodes."""

from typing import Any


def render_with(page: Any, nodes_2: bool) -> None:
    """Switch to Nodes 2.0, or to the classic canvas."""
    page.evaluate("on => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes_2)
    page.wait_for_timeout(500)


def run(page: Any, server: Any) -> None:
    """Run what the page shows, and show what it gives. The server runs it first, without the page, whose drawing takes far longer;
    the page's own run is then answered from the cache."""
    server.run(page.evaluate("window.app.graphToPrompt().then(result => result.output)"))
    run_from(page)


def run_from(page: Any) -> None:
    """Run what the page shows, from the page."""
    page.evaluate("""() => {
        window.ended = new Promise((resolve, reject) => {
            window.app.api.addEventListener("execution_success", () => resolve(), { once: true })
            window.app.api.addEventListener("execution_error", event => reject(event.detail.exception_message), { once: true })
        })
        return window.app.queuePrompt(0)
    }""")
    page.evaluate("() => window.ended")
    page.wait_for_timeout(1000)  # for the previews to load


RECTANGLES = """nodes_2 => window.app.graph._nodes.map(node => {
    const name = `${node.id} ${node.title}`
    if (!nodes_2) return [name, ...node.getBounding()]
    const shown = document.querySelector(`[data-node-id="${node.id}"]`).getBoundingClientRect()
    const { scale, offset } = window.app.canvas.ds
    return [name, shown.x / scale - offset[0], shown.y / scale - offset[1], shown.width / scale, shown.height / scale]
})"""


def overlaps(page: Any, nodes_2: bool) -> list[str]:
    """Which nodes lie on each other, and how far in pixels of the graph, by what the page draws."""
    page.evaluate(
        "() => { Object.assign(window.app.canvas.ds, { scale: 0.2 }); window.app.canvas.ds.offset = [600, 400] }"
    )
    page.evaluate("() => window.app.canvas.setDirty(true, true)")
    page.wait_for_timeout(700)
    rectangles = page.evaluate(RECTANGLES, nodes_2)
    assert all(wide > 0 and high > 0 for *_, wide, high in rectangles), rectangles
    found: list[str] = []
    for i, (a, left, top, wide, high) in enumerate(rectangles):
        for b, x, y, w, h in rectangles[:i]:
            across, down = min(left + wide, x + w) - max(left, x), min(top + high, y + h) - max(top, y)
            if min(across, down) > 1:
                found.append(f"{b} / {a}: {across:.0f} x {down:.0f}")
    return found
