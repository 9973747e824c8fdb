"""The archive that the registry hands out: what is in it, and what a ComfyUI without the rest of the repository makes of it."""

import ast
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import archive
import pytest
import tomllib
from comfy_server import NAME, ComfyServer
from needs import need
from test_server import IDS
from workflow import to_prompt

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {"compinv_core", "locales", "nodes", "web", "workflows"}
FILES = {"CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "icon.svg", "pyproject.toml"}
MAX_SIZE = 1_150_000  # bytes; docs/development.md says what it is
FORBIDDEN = {"eval", "exec", "compile", "__import__", "system", "popen", "execv", "execve"}
FORBIDDEN_MODULES = {"subprocess", "pip", "pty", "pexpect", "ctypes", "socket", "urllib", "requests", "http"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder in which only the archive is installed."""
    need((ROOT / ".git").exists(), "the archive is made of what git tracks, and this is no clone")
    base = tmp_path_factory.mktemp("bare")
    archive.write(base / "pack.zip")
    assert (base / "pack.zip").stat().st_size < MAX_SIZE
    with zipfile.ZipFile(base / "pack.zip") as packed:
        packed.extractall(base / "custom_nodes" / NAME)
    return base


@pytest.fixture(scope="module")
def bare(unpacked: Path, comfyui: Path) -> Iterator[ComfyServer]:
    with ComfyServer(unpacked, bare=True) as running:
        yield running


def test_the_archive_holds_what_the_pack_needs_and_nothing_else(unpacked: Path):
    pack = unpacked / "custom_nodes" / NAME
    assert {path.name for path in pack.iterdir() if path.is_dir()} == FOLDERS
    assert {path.name for path in pack.iterdir() if path.is_file()} == FILES
    for folder in FOLDERS:
        kinds = {path.suffix for path in (pack / folder).rglob("*") if path.is_file()}
        assert kinds <= (
            {".py"} if folder in ("compinv_core", "nodes") else {".md", ".js", ".json", ".jpg", ".png", ".webp"}
        )
        here, there = (  # git lists only what was added
            {str(path.relative_to(root)) for path in (root / folder).rglob("*") if path.suffix not in ("", ".pyc")}
            for root in (ROOT, pack)
        )
        assert here == there


def test_nothing_in_the_archive_runs_text_or_programs_or_installs(unpacked: Path):
    """What the registry and the Manager look for."""
    for path in (unpacked / "custom_nodes" / NAME).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                    name = node.func.attr if node.func.value.id in ("os", "builtins") else ""
                assert name not in FORBIDDEN, (path, node.lineno)
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.split(".")[0] for name in names} & FORBIDDEN_MODULES, (path, names)


def test_what_the_registry_asks_for_is_there():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, comfy = told["project"], told["tool"]["comfy"]
    assert all(comfy[key] for key in ("PublisherId", "DisplayName", "requires-comfyui"))
    assert (ROOT / comfy["Icon"]).stat().st_size < 5000
    assert "comfyui" not in project["name"].lower() and project["name"] and project["description"]
    assert project["dependencies"] == [] and (ROOT / project["license"]["file"]).is_file()
    init = (ROOT / "compinv_core" / "__init__.py").read_text()
    assert f'"{project["version"]}"' in init


def test_a_bare_comfyui_loads_every_node_page_and_template_from_the_archive(bare: ComfyServer):
    info = bare.get("/object_info")
    assert {name for name in info if name.startswith("CompInv")} == IDS
    for name in IDS:
        page = bare.fetch(f"/extensions/{NAME}/docs/{name}/en.md").decode()
        assert page.startswith("# " + info[name]["display_name"])
    languages = {path.name for path in (ROOT / "locales").iterdir()}
    assert {name: set(texts["nodeDefs"]) for name, texts in bare.get("/i18n").items()} == dict.fromkeys(languages, IDS)
    templates = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
    assert sorted(bare.get("/workflow_templates")[NAME]) == templates
    for name in templates:
        graph = json.loads(bare.fetch(f"/api/workflow_templates/{NAME}/{name}.json"))
        assert to_prompt(graph, info)
        assert (bare.base / "custom_nodes" / NAME / "workflows" / f"{name}.jpg").is_file()
    said = [line for line in bare.log.read_text().splitlines() if NAME in line or "compinv" in line.lower()]
    assert not [line for line in said if "warn" in line.lower() or "error" in line.lower() or "failed" in line.lower()]


def test_the_command_line_of_the_archive_starts(unpacked: Path, comfyui: Path):
    done: Any = subprocess.run(
        [sys.executable, "-m", "compinv_core", "train", "missing.toml"],
        cwd=unpacked / "custom_nodes" / NAME, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode and "Traceback" not in done.stderr and "missing.toml" in done.stderr
