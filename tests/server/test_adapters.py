"""A fine-tune in a real server on checkpoints of every family, and its files in a stock graph.

The checkpoints are those of test_families.py, but their text encoders have three layers: what becomes of the UNet is tested.
"""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from shallow_encoders import EXTENSION, shallow_encoders
from stock import pixels
from test_families import need_room, write

KEYS, LORA, WHOLE = "keys and values (Custom Diffusion)", "LoRA on attention (DreamBooth)", "whole UNet (DreamBooth)"
WAYS = {
    "keys": {"what": KEYS, "rank": 0, "prior": "DCO"},
    "lora": {"what": LORA, "rank": 4, "prior": "class images", "prior_count": 1},
    "whole": {"what": WHOLE, "rank": 0, "prior": "none"},
}


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One whose text encoders have three layers."""
    from comfy_server import ComfyServer

    folder = tmp_path_factory.mktemp("adapters")
    (folder / "input").symlink_to(base / "input", target_is_directory=True)
    (folder / "custom_nodes").mkdir()
    (folder / "custom_nodes" / "shallow_encoders_here.py").write_text(EXTENSION)
    with ComfyServer(folder) as running:
        yield running


@pytest.fixture
def checkpoint(server: Any, microworld: Any, request: pytest.FixtureRequest) -> Any:
    """Its name for the stock loader."""
    need_room(request.param, server.base)
    file = server.base / "models" / "checkpoints" / f"{request.param}.safetensors"
    with shallow_encoders():
        write(file, request.param, microworld[2])
    yield file.name
    file.unlink()


def link(node: str, output: int = 0) -> list[Any]:
    return [node, output]


def learnt(checkpoint: str, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Loader, images, Compositional Fine-Tune, Save Concept Adapter, and the latter's summary."""
    train = {
        "model": link("1"), "clip": link("1", 1), "vae": link("1", 2), "images": link("2"), "placeholder": name,
        "class_word": "car", "resolution": 64, "steps": 2, "batch": 1, "vectors": 1, "learning_rate": 0.1,
        "anchor_weight": 0.1, "kind": "object", "mirror": True, "ignore_background": False, "seed": 0,
        "weights_learning_rate": 0.05, "options": link("6"), **settings,
    }  # fmt: skip
    save = {
        "concept": link("3"),
        "adapter": link("3", 1),
        "name": "",
        "rank": 0,
        "dtype": "float16",
        "if_it_exists": "replace it",
    }
    options = {
        "preset": "as set on the training node", "anchor_schedule": "constant", "noise_levels": "even", "rescale": False,
        "prompts": "a photo of a {}",  # one alone, for all of them are encoded
    }  # fmt: skip
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "LoadImageDataSetFromFolder", "inputs": {"folder": "zippy"}},
        "3": {"class_type": "CompInvTrainModel", "inputs": train},
        "4": {"class_type": "CompInvSaveAdapter", "inputs": save},
        "5": {"class_type": "PreviewAny", "inputs": {"source": link("4", 2)}},
        "6": {"class_type": "CompInvTrainingOptions", "inputs": options},
    }


def stock(checkpoint: str, lora: str | None, text: str) -> dict[str, Any]:
    """A graph without a node of ours."""
    sampler = {
        "model": link("2" if lora else "1"), "positive": link("3"), "negative": link("4"), "latent_image": link("5"),
        "seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    graph: dict[str, Any] = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": link("1", 1), "text": text}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": link("1", 1), "text": ""}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "KSampler", "inputs": sampler},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": link("6"), "vae": link("1", 2)}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": link("7")}},
    }
    if lora:
        load = {"model": link("1"), "lora_name": lora, "strength_model": 1.0}
        graph["2"] = {"class_type": "LoraLoaderModelOnly", "inputs": load}
    return graph


def picture(server: Any, graph: dict[str, Any]) -> bytes:
    return pixels(server.picture(server.run(graph)["8"]["images"][0]))


@pytest.mark.parametrize("checkpoint", ["sdxl", "sd2", "sd1"], indirect=True)  # what a large one frees serves the next
def test_every_way_is_learnt_saved_and_loaded_by_stock_nodes(server: Any, checkpoint: str):
    family = checkpoint.split(".")[0]
    for way, settings in WAYS.items():
        name = f"{family}-{way}"
        outputs = server.run(learnt(checkpoint, name, settings))
        assert f"{name}.safetensors" in outputs["5"]["text"][0]
        before = server.log.read_text().count("lora key not loaded")
        text = f"a photo of a embedding:{name}"
        plain, tuned = (picture(server, stock(checkpoint, lora, text)) for lora in (None, f"{name}.safetensors"))
        assert tuned != plain, way
        assert server.log.read_text().count("lora key not loaded") == before, way
        file = server.base / "models" / "loras" / f"{name}.safetensors"
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())
        file.unlink()
