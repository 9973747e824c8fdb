"""Every template is laid out so that no node lies on another, as it opens and after its run, in both renderers."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from pages import overlaps, render_with, run
from PIL import Image
from workflow import on_micro_world

WORKFLOWS = sorted((Path(__file__).parent.parent.parent / "workflows").glob("*.json"))
QUICK = {
    "CompInvTrain": 12,
    "CompInvTrainModel": 12,
    "CompInvRepairConcept": 12,
}  # steps; the size of nodes is the same


def show_large(route: Any) -> None:
    """The micro world's images in the size of a user's: previews grow by it."""
    answer = route.fetch()
    image = Image.open(io.BytesIO(answer.body()))
    data = io.BytesIO()
    (image.resize((512, 512)) if image.size == (64, 64) else image).save(data, "PNG")
    route.fulfill(response=answer, body=data.getvalue(), content_type="image/png")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_node_of_a_template_lies_on_another_before_and_after_its_run(
    page: tuple[Any, list[str]], server: Any, path: Path, tmp_path: Path
):
    here, errors = page
    workflow = json.loads(path.read_text())
    assert workflow["extra"] == {"ds": {"scale": 0.8, "offset": [480, 120]}}
    workflow = on_micro_world(workflow, server.get("/object_info"))
    here.route("**/view?*", show_large)
    found: dict[str, list[str]] = {}
    for renderer, nodes_2 in {"Nodes 2.0": True, "classic": False}.items():
        render_with(here, nodes_2)
        here.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        here.wait_for_timeout(1000)
        here.evaluate(
            """quick => window.app.graph._nodes.forEach(node => {
                const steps = quick[node.type] && node.widgets.find(widget => widget.name === "steps")
                if (steps) steps.value = quick[node.type]
            })""",
            QUICK,
        )
        found[f"{renderer}, before"] = overlaps(here, nodes_2)
        run(here, server)
        found[f"{renderer}, after"] = overlaps(here, nodes_2)
        here.screenshot(path=str(tmp_path / f"{path.stem}-{renderer}.png"))
    here.unroute_all(behavior="wait")
    assert not any(found.values()), found
    assert not errors
