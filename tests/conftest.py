"""The four layers: unit needs torch; host a real ComfyUI in process; server one over its API; browser its real page."""

import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

# Before torch is imported: several threads take far longer on models this small, and servers inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from needs import need
from package import finished, package

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # last: our `nodes` must not shadow ComfyUI's module of that name
sys.path.append(str(ROOT / "scripts"))


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Generator[None]:
    """Of unit tests, whose tensors are so small that threads would mostly wait for each other."""
    if request.path.parent.name != "unit":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """ComfyUI's folder, its modules importable, set to the CPU."""
    path = os.environ.get("COMFYUI_PATH")
    need(bool(path), "COMFYUI_PATH is not set; `make test` sets it")
    assert path is not None
    if path not in sys.path:
        sys.path.insert(0, path)
    from comfy.cli_args import args

    args.cpu = True
    return Path(path)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, comfyui: Path) -> Path:
    """A base folder with the micro world's checkpoint and the user pictures."""
    from micro import checkpoint

    folder = tmp_path_factory.mktemp("base")
    (folder / "models" / "checkpoints").mkdir(parents=True)
    (folder / "models" / "embeddings").mkdir()
    checkpoint(folder / "models" / "checkpoints")
    shutil.copytree(ROOT / "microworld" / "user_pictures", folder / "input")
    return folder


class Pack:
    """The pack's nodes by id, as ComfyUI calls them."""

    def __init__(self, nodes: dict[str, Any]):
        self.nodes = nodes

    def run(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        return self.nodes[node].execute(**inputs).args


@pytest.fixture(scope="session")
def pack(comfyui: Path, base: Path) -> Pack:
    import folder_paths

    folder_paths.set_output_directory(str(base / "output"))
    for kind in ("checkpoints", "embeddings"):
        folder_paths.add_model_folder_path(kind, str(base / "models" / kind), is_default=True)
    package("comfyui_microworld", ROOT / "microworld" / "comfyui_microworld")
    extension = finished(package("compositional_inversion", ROOT).comfy_entrypoint())
    return Pack({node.define_schema().node_id: node for node in finished(extension.get_node_list())})


@pytest.fixture(scope="session")
def microworld(pack: Pack) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE), loaded by the stock loader under inference mode, as in the server."""
    import torch

    import nodes

    with torch.inference_mode():
        return nodes.CheckpointLoaderSimple().load_checkpoint("microworld.safetensors")


@pytest.fixture(scope="session")
def server(base: Path) -> Any:
    """A running ComfyServer on the base folder."""
    from comfy_server import ComfyServer

    with ComfyServer(base) as running:
        yield running
