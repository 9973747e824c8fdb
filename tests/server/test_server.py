"""The pack in a real server, over its own API."""

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from concept_files import concept_files
from safetensors.torch import load_file
from stock import pixels, stock
from workflow import find, shipped

ROOT = Path(__file__).parent.parent.parent
IDS = {
    "CompInvAnchorSelect", "CompInvTrain", "CompInvSaveConcept", "CompInvLoadConcept", "CompInvApplyConcept", "CompInvPrompt",
    "CompInvLayoutRecover", "CompInvRegularizedSampler", "CompInvRegularizeModel", "CompInvTrainingOptions",
    "CompInvSetRegion", "CompInvMergeLayouts", "CompInvSwapRegions", "CompInvLayoutToBoxes", "CompInvTrainLayoutPredictor",
    "CompInvRepairConcept", "CompInvConceptReport", "CompInvTrainModel", "CompInvSaveAdapter", "CompInvMergeAdapters",
    "CompInvLoadAdapter", "CompInvTrainAttributes", "CompInvAttributePrompt", "CompInvAttributeProbe",
    "CompInvLoadPictures", "CompInvLayoutEditor", "CompInvBoxesToLayout", "CompInvDoctor", "CompInvSaveCard",
}  # fmt: skip


def graph(server: Any, name: str) -> dict[str, Any]:
    return shipped(name, server.get("/object_info"))


def inputs_of(prompt: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(node["inputs"] for node in prompt.values() if node["class_type"] == kind)


def short(server: Any, steps: int = 3) -> dict[str, Any]:
    """The shipped workflow with little training and sampling."""
    prompt = graph(server, "1_learn_and_compose")
    inputs_of(prompt, "CompInvTrain")["steps"] = steps
    inputs_of(prompt, "CompInvRegularizedSampler")["steps"] = 4
    return prompt


def test_the_pack_starts_without_a_warning(server: Any):
    assert {name for name in server.get("/object_info") if name.startswith("CompInv")} == IDS
    for line in server.log.read_text().splitlines():
        ours = "compositional_inversion" in line or "comfyui_microworld" in line or "compinv" in line.lower()
        assert not (ours and ("warn" in line.lower() or "error" in line.lower() or "failed" in line.lower())), line


@pytest.mark.parametrize("name", sorted(IDS))
def test_every_input_and_output_has_a_tooltip_and_every_node_a_page(server: Any, name: str):
    node = server.get("/object_info")[name]
    described = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    assert all(description[1].get("tooltip") for description in described.values())
    assert all(node["output_tooltips"])
    with urllib.request.urlopen(f"{server.url}/extensions/compositional_inversion/docs/{name}/en.md") as page:
        assert page.read().decode().startswith("# " + node["display_name"])


def test_the_shipped_workflows_run_and_leave_the_model_as_it_was(server: Any, base: Path):
    before = stock(server)
    prompt = short(server)
    outputs = server.run(prompt)
    assert len(outputs[find(prompt, "Composition")]["images"]) == 4
    assert (base / "models" / "embeddings" / "zippy.safetensors").exists()
    assert stock(server) == before
    (base / "models" / "embeddings" / "sippy.safetensors").write_bytes(
        (base / "models" / "embeddings" / "zippy.safetensors").read_bytes()
    )
    (base / "models" / "embeddings" / "zippy-plain-1.safetensors").write_bytes(
        (base / "models" / "embeddings" / "zippy.safetensors").read_bytes()
    )
    prompt = graph(server, "4_repair_embedding")
    inputs_of(prompt, "CompInvRepairConcept").update(steps=3, pictures=2)
    outputs = server.run(prompt)
    assert all(outputs[find(prompt, title)]["images"] for title in ("As it was", "Composition"))
    assert (base / "models" / "embeddings" / "zippy-plain-1-repaired.safetensors").exists()
    for name in ("2_compose_saved_concept", "3_two_concepts"):
        prompt = graph(server, name)
        inputs_of(prompt, "CompInvRegularizedSampler")["steps"] = 4
        assert server.run(prompt)[find(prompt, "Composition")]["images"]


@pytest.fixture
def zippy(base: Path) -> Iterator[None]:
    with concept_files(base, ["zippy.safetensors"]):
        yield


USES = {
    "7_variations_and_scenes": ("Variations", "Scene", "Another scene"),
    "8_bias_reduction": ("Class word", "Balanced"),
    "9_inpainting": ("Inpainted",),
    "6_attributes": ("Colour", "Style", "Layout"),
}


@pytest.mark.usefixtures("zippy")
@pytest.mark.parametrize("name", USES)
def test_the_workflows_of_the_uses_run(server: Any, name: str):
    prompt = graph(server, name)
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
    kinds = {node["class_type"]: number for number, node in prompt.items()}
    if name == "9_inpainting":
        for kind in ("VAEEncode", "CompInvRegularizedSampler"):
            prompt[f"latents {kind}"] = {
                "class_type": "SaveLatent",
                "inputs": {"samples": [kinds[kind], 0], "filename_prefix": f"latents/{kind}"},
            }
    outputs = server.run(prompt)
    shown = [
        [pixels(server.picture(image)) for image in outputs[find(prompt, title)]["images"]] for title in USES[name]
    ]
    assert len({data for images in shown for data in images}) == sum(map(len, shown)) > 0  # no two are alike
    if name == "9_inpainting":
        before, after = (
            load_file(next((server.base / "output" / "latents").glob(f"{kind}_*.latent")))["latent_tensor"]
            for kind in ("VAEEncode", "CompInvRegularizedSampler")
        )
        assert torch.allclose(after[..., :4], before[..., :4].expand_as(after[..., :4]), rtol=0, atol=1e-6)
        assert (after[..., 4:] - before[..., 4:]).abs().amax(dim=(1, 2, 3)).min() > 0.1


def test_the_workflow_of_a_fine_tune_runs_and_stock_nodes_give_its_images_from_its_files(server: Any, base: Path):
    before, prompt = stock(server), graph(server, "5_fine_tune")
    inputs_of(prompt, "CompInvTrainModel")["steps"] = 3
    inputs_of(prompt, "CompInvSaveAdapter")["dtype"] = "float32"
    sampler = inputs_of(prompt, "CompInvRegularizedSampler")
    sampler["steps"] = 4
    assert len(server.run(prompt)[find(prompt, "Composition")]["images"]) == 4
    assert stock(server) == before
    sampler.pop("layout")  # now it equals KSampler
    tuned = server.run(prompt)[find(prompt, "Composition")]["images"]
    lora = {"model": ["1", 0], "clip": ["1", 1], "lora_name": "zippy-tuned.safetensors"}
    settings = {key: sampler[key] for key in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")}
    files = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "microworld.safetensors"}},
        "2": {"class_type": "LoraLoader", "inputs": {**lora, "strength_model": 1.0, "strength_clip": 1.0}},
        "3": {
            "class_type": "CLIPTextEncode",
            "inputs": {"clip": ["2", 1], "text": "a photo of embedding:zippy-tuned and a boat"},
        },
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": ""}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 4}},
        "6": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["2", 0], "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0], **settings,
            },
        },
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
    }  # fmt: skip
    given = server.run(files)["8"]["images"]
    assert [pixels(server.picture(image)) for image in given] == [pixels(server.picture(image)) for image in tuned]


def test_a_file_is_the_wire(server: Any):
    """embedding:name in stock CLIP Text Encode gives the picture that Apply Concept gives."""
    prompt = short(server)
    server.run(prompt)
    text = "a photo of embedding:zippy on grass"
    loader = {"class_type": "CompInvLoadConcept", "inputs": {"file": "zippy.safetensors", "class_word": ""}}
    both = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "microworld.safetensors"}},
        "2": loader,
        "3": {"class_type": "CompInvApplyConcept", "inputs": {"clip": ["1", 1], "concept": ["2", 0]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    }
    for number, clip in (("10", ["1", 1]), ("20", ["3", 0])):
        sampler = {
            "model": ["1", 0], "positive": [number, 0], "negative": [number, 0], "latent_image": ["4", 0], "seed": 3,
            "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        }  # fmt: skip
        both[number] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": text}}
        both[f"{number}1"] = {"class_type": "KSampler", "inputs": sampler}
        both[f"{number}2"] = {"class_type": "VAEDecode", "inputs": {"samples": [f"{number}1", 0], "vae": ["1", 2]}}
        both[f"{number}3"] = {"class_type": "PreviewImage", "inputs": {"images": [f"{number}2", 0]}}
    outputs = server.run(both)
    wire, file = (pixels(server.picture(outputs[number]["images"][0])) for number in ("203", "103"))
    assert wire == file


def test_a_graph_takes_up_a_layout_predictor_once_it_is_trained(server: Any, base: Path):
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "microworld.safetensors"}}
    found = {
        "1": loader,
        "2": {
            "class_type": "CompInvPrompt",
            "inputs": {"clip": ["1", 1], "text": "a photo of a cat and a car", "subjects": "cat, car"},
        },
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {
            "class_type": "CompInvLayoutRecover",
            "inputs": {
                "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0],
                "method": "predicted", "boxes": "", "steps": 2, "cfg": 4.0, "seed": 0,
            },
        },
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 1]}},
    }  # fmt: skip
    settings = {"model": ["1", 0], "clip": ["1", 1], "prompts": 20, "resolution": 64, "steps": 2, "cfg": 4.0, "seed": 0}
    training = {"1": loader, "2": {"class_type": "CompInvTrainLayoutPredictor", "inputs": settings}}
    default = pixels(server.picture(server.run(found)["5"]["images"][0]))
    server.run(training)
    assert len(list((base / "models" / "compositional_inversion" / "layout_predictors").iterdir())) == 1
    assert pixels(server.picture(server.run(found)["5"]["images"][0])) != default


def test_training_is_cancelled_within_a_step(server: Any, base: Path):
    before = stock(server)
    prompt = short(server, steps=100_000)
    inputs_of(prompt, "CompInvTrain")["placeholder"] = "stopped"
    number = server.queue(prompt)
    runs, deadline = base / "user" / "compositional_inversion" / "runs", time.monotonic() + 120
    while not list(runs.glob("stopped-*.pt")) and time.monotonic() < deadline:  # something is learnt
        time.sleep(0.2)
    server.interrupt()
    began = time.monotonic()
    assert server.wait(number, seconds=60)["status"]["status_str"] == "error"
    assert time.monotonic() - began < 20
    assert list((base / "output" / "embeddings").glob("stopped-unfinished-*.safetensors"))
    assert stock(server) == before


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("CompInvTrain", {"class_word": "xylophone"}, "not a single token of this text encoder"),
        ("CompInvTrain", {"placeholder": "cat"}, "ordinary word"),
        ("CompInvPrompt", {"subjects": "zebra"}, "not in the prompt"),
        ("CompInvLayoutRecover", {"method": "my boxes", "boxes": "{}"}, "cannot be read"),
    ],
)
def test_a_node_that_refuses_says_one_sentence(server: Any, kind: str, change: dict[str, str], sentence: str):
    from comfy_server import ServerError

    prompt = short(server)
    inputs_of(prompt, kind).update(change)
    with pytest.raises(ServerError, match=sentence):
        server.run(prompt)
