"""What a node had to say is still there when its job has ended, also when it was cancelled."""

import json
from pathlib import Path
from typing import Any

import pytest
from pages import render_with, run_from
from workflow import on_micro_world

TRAINING = Path(__file__).parent.parent.parent / "workflows" / "1_learn_and_compose.json"


def test_a_text_that_matters_stays_below_its_node(page: tuple[Any, list[str]]):
    """Run from the page, with what no other test loads: of what is in its cache the server says nothing."""
    here, errors = page
    pictures = {"class_type": "CompInvLoadPictures", "inputs": {"folder": "canopy"}}
    sheet = {"class_type": "PreviewImage", "inputs": {"images": ["1", 3]}}
    here.evaluate("graph => window.app.loadApiJson(graph, 'graph')", {"1": pictures, "2": sheet})
    run_from(here)
    assert here.get_by_text("5 images.").count() == 1
    assert not errors


def test_a_cancelled_training_says_so_in_a_message_and_below_its_node(page: tuple[Any, list[str]], server: Any):
    here, errors = page
    workflow = on_micro_world(json.loads(TRAINING.read_text()), server.get("/object_info"))
    here.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    here.evaluate("""() => {
        const { api } = window.app
        const cancel = ({ detail }) => { // not every step is told where much else runs
            if (detail.value < 2) return
            api.removeEventListener("progress", cancel)
            api.interrupt()
        }
        api.addEventListener("progress", cancel)
        window.ended = new Promise((resolve, reject) => {
            api.addEventListener("execution_interrupted", () => resolve(), { once: true })
            api.addEventListener("execution_success", () => reject(Error("it ended before it was cancelled")), { once: true })
        })
        return window.app.queuePrompt(0)
    }""")
    here.evaluate("() => window.ended")
    here.wait_for_timeout(2000)
    said = here.get_by_text("Training was cancelled")
    assert here.get_by_role("alert").get_by_text("Training was cancelled").count() and said.count() > 1
    assert not errors


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_a_text_below_a_node_keeps_its_lines(page: tuple[Any, list[str]], nodes_2: bool, tmp_path: Path):
    here, errors = page
    render_with(here, nodes_2)
    here.evaluate(
        "graph => window.app.loadApiJson(graph, 'graph')", {"1": {"class_type": "CompInvTrain", "inputs": {}}}
    )
    here.wait_for_timeout(1000)
    here.evaluate("""() => window.app.api.dispatchCustomEvent("progress_text", {
        nodeId: `${window.app.graph._nodes[0].id}`, text: "step 3 of 9\\nloss 0.12; norm 1.1\\nno notices"
    })""")
    shown = here.locator("span, p").filter(has_text="loss 0.12").last
    shown.wait_for(timeout=30_000)
    here.screenshot(path=str(tmp_path / "lines.png"))
    assert shown.inner_text().splitlines() == ["step 3 of 9", "loss 0.12; norm 1.1", "no notices"]
    assert not errors
