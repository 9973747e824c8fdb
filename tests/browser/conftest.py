"""A real page in a real browser, in either renderer of the front end."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from concept_files import concept_files
from needs import need
from pages import render_with
from workflow import renamed

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def words(base: Path) -> Iterator[None]:
    """The concepts that the workflows load: newer front ends mark a node whose file is missing."""
    nodes = [node for path in (ROOT / "workflows").glob("*.json") for node in json.loads(path.read_text())["nodes"]]
    with concept_files(
        base, {renamed(node["widgets_values"][0]) for node in nodes if node["type"] == "CompInvLoadConcept"}
    ):
        yield


@pytest.fixture(scope="session")
def browser(server: Any, words: None) -> Iterator[Any]:
    chromium = shutil.which("chromium")
    need(bool(chromium), "Debian's chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def loaded(browser: Any, server: Any) -> Iterator[tuple[Any, list[str]]]:
    """One page for all tests, as loading it takes longer than most of them, and the console errors that come from us."""
    errors: list[str] = []
    server.fetch("/settings/Comfy.TutorialCompleted", True)  # else the first page shows the templates over all else
    page = browser.new_page(viewport={"width": 1200, "height": 750})
    page.set_default_timeout(300_000)
    page.on(
        "console", lambda m: errors.append(m.text) if m.type == "error" and "compositional" in m.text.lower() else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    page.wait_for_function(
        "Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.CompInvTrain)", timeout=300_000
    )
    yield page, errors
    page.close()


@pytest.fixture
def page(loaded: tuple[Any, list[str]]) -> Iterator[tuple[Any, list[str]]]:
    """The page, empty, in the classic canvas unless a test chooses, and the errors of this test."""
    here, errors = loaded
    here.evaluate(
        "() => { window.app.graph.clear(); window.app.canvas.ds.reset(); window.app.extensionManager.toast.removeAll?.() }"
    )
    errors.clear()
    yield loaded
    here.keyboard.press("Escape")  # closes what a test left open
    render_with(here, nodes_2=False)
