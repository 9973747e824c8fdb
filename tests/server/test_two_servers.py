"""Two servers on one base folder, and one whose folders cannot be written: every graph ends well or in a sentence, nothing is lost."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_server import ComfyServer, failure
from safetensors.torch import load_file
from stock import stock
from test_server import inputs_of, short


@pytest.fixture(scope="module")
def shared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(base / "input", folder / "input")
    return folder


@pytest.fixture(scope="module")
def servers(shared: Path, comfyui: Path) -> Iterator[list[ComfyServer]]:
    with ComfyServer(shared) as first, ComfyServer(shared) as second:
        yield [first, second]


def test_the_same_graph_in_two_servers_at_once_gives_one_whole_file_and_leaves_nothing(
    servers: list[ComfyServer], shared: Path
):
    before = [stock(server) for server in servers]
    prompt = short(servers[0])
    inputs_of(prompt, "CompInvSaveConcept")["if_it_exists"] = "replace it"
    queued = [server.queue(prompt) for server in servers]
    ended = [server.wait(number) for server, number in zip(servers, queued, strict=True)]
    assert [entry["status"]["status_str"] for entry in ended] == ["success"] * 2, [failure(entry) for entry in ended]
    assert [path.name for path in (shared / "models" / "embeddings").iterdir()] == ["zippy.safetensors"]
    assert load_file(shared / "models" / "embeddings" / "zippy.safetensors")["clip_l"].isfinite().all()
    assert not list((shared / "user" / "compositional_inversion" / "runs").glob("*"))
    assert [stock(server) for server in servers] == before


def test_a_folder_that_may_not_be_written_is_named_and_what_was_learnt_is_kept_elsewhere(
    servers: list[ComfyServer], shared: Path
):
    folder = shared / "models" / "embeddings"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no disk may be mounted here")
    try:
        prompt: Any = short(servers[0], steps=2)
        inputs_of(prompt, "CompInvTrain")["placeholder"] = "locked"
        said = failure(servers[0].wait(servers[0].queue(prompt)))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    assert 'locked.safetensors" cannot be written: ' in said and "Read-only file system" in said
    (kept,) = (shared / "output" / "embeddings").glob("locked-*.safetensors")
    assert str(kept) in said and load_file(kept)["clip_l"].isfinite().all()
