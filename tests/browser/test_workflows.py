"""The real page in a real browser: every shipped workflow opens from the template browser, whole."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import need

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(base: Path) -> Iterator[None]:
    """The files that the workflows load: newer front ends mark a node whose file is missing."""
    nodes = [node for path in WORKFLOWS for node in json.loads(path.read_text())["nodes"]]
    names = {node["widgets_values"][0] for node in nodes if node["type"] == "CompInvLoadConcept"}
    files = [base / "models" / "embeddings" / name for name in names if name]
    missing = [file for file in files if not file.exists()]
    for file in missing:
        file.touch()
    yield
    for file in missing:
        file.unlink()


@pytest.fixture(scope="module")
def browser(server: Any, words: None) -> Iterator[Any]:
    chromium = shutil.which("chromium")
    need(bool(chromium), "Debian's chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page on which the front end is up, and the console errors that come from us."""
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.on(
        "console", lambda m: errors.append(m.text) if m.type == "error" and "compositional" in m.text.lower() else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    page.wait_for_function(
        "Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.CompInvTrain)", timeout=120_000
    )
    yield page, errors
    page.close()


def test_four_workflows_ship():
    assert len(WORKFLOWS) >= 4


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_opens_from_the_template_browser(page: tuple[Any, list[str]], path: Path, tmp_path: Path):
    here, errors = page
    here.wait_for_timeout(2000)
    if not here.locator('[role="dialog"]').count():  # the first visit of all opens it by itself
        here.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    here.get_by_text("compositional_inversion", exact=True).first.click(timeout=30_000)
    here.wait_for_timeout(1000)
    here.screenshot(path=str(tmp_path / "templates.png"))
    here.locator('[role="dialog"]').get_by_text(path.stem, exact=False).first.click(timeout=30_000)
    here.wait_for_function("window.app.graph._nodes.some(node => node.type.startsWith('CompInv'))", timeout=30_000)
    here.wait_for_timeout(500)
    here.screenshot(path=str(tmp_path / "opened.png"))
    kinds = here.evaluate("window.app.graph._nodes.map(node => node.type)")
    assert sorted(kinds) == sorted(node["type"] for node in json.loads(path.read_text())["nodes"])
    assert not here.get_by_text("Missing Node", exact=False).count()
    assert not errors


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_opens_whole(page: tuple[Any, list[str]], server: Any, path: Path, tmp_path: Path):
    here, errors = page
    assert path.stem in json.dumps(server.get("/workflow_templates")["compositional_inversion"])
    workflow = json.loads(server.fetch(f"/api/workflow_templates/compositional_inversion/{path.name}"))
    here.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    here.wait_for_timeout(1500)
    here.screenshot(path=str(tmp_path / f"{path.stem}.png"))
    kinds = here.evaluate("window.app.graph._nodes.map(node => [node.type, Boolean(node.has_errors)])")
    assert sorted(kind for kind, _ in kinds) == sorted(node["type"] for node in workflow["nodes"])
    assert not any(wrong for _, wrong in kinds)
    assert not here.get_by_text("Missing Node", exact=False).count()
    # What the page would queue is what the demo queues.
    queued = here.evaluate("window.app.graphToPrompt().then(result => result.output)")
    from workflow import to_prompt

    mine = to_prompt(workflow, server.get("/object_info"))
    for node in queued.values():
        node["inputs"].pop("preview", None)  # the text field that the page itself adds to Preview Any
    assert {k: v["inputs"] for k, v in queued.items()} == {k: v["inputs"] for k, v in mine.items()}
    assert not errors
