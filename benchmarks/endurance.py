"""A hundred runs of every node in one server process: does it hold more and more memory, and is stock sampling what it was?

    python scripts/host.py python benchmarks/endurance.py --rounds 100 --out endurance.jsonl

Each round queues one graph in which every node of the pack runs once, with another seed, so that nothing comes from ComfyUI's
cache. After it the tensors that live in the server's process and the process's memory are counted. One line of the file is one
round. A stopped command goes on with what is missing in a server of its own; memory is compared within each server alone.
"""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))

from comfy_server import ComfyServer, failure  # noqa: E402
from stock import stock  # noqa: E402
from workflow import is_widget  # noqa: E402

WARM_UP = 3  # rounds, after which what is loaded or compiled once is there
COUNTER = """
import gc
import torch
from aiohttp import web
from server import PromptServer

@PromptServer.instance.routes.get("/endurance")
async def living(request):
    gc.collect()
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return web.json_response({"tensors": len(tensors), "tensor_bytes": sum(storages.values())})

NODE_CLASS_MAPPINGS = {}
"""
"""What runs in the server beside the pack: a route that counts the tensors of its process."""


@dataclass(frozen=True)
class Round:
    """What lived in the server's process after a round.

    Attributes:
        server: counts the processes that a stopped and resumed command had.
        tensors: that Python knows of.
        tensor_bytes: of their storages.
        memory: bytes of the process that lie in RAM.
    """

    number: int
    server: int
    tensors: int
    tensor_bytes: int
    memory: int


def prepare(base: Path) -> None:
    """What the graph loads, and the counter, in a server's base folder before it starts."""
    if not (base / "input").exists():
        shutil.copytree(ROOT / "microworld" / "user_pictures", base / "input")
    for folder in ("custom_nodes", "models/loras", "models/embeddings"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "custom_nodes" / "endurance_counter.py").write_text(COUNTER)
    name = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    with safe_open(ROOT / "microworld" / "microworld.safetensors", "pt") as file:
        weight = 1.1 * file.get_tensor(f"model.diffusion_model.{name}").float()
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    save_file({name: weight}, base / "models" / "loras" / "custom_diffusion.safetensors")
    save_file({"clip_l": torch.ones(1, weight.shape[1])}, base / "models" / "embeddings" / "saved.safetensors")


def graph(info: dict[str, Any], number: int) -> dict[str, Any]:
    """Every node of the pack once, by id; `number` changes each from round to round.

    Args:
        info: the server's /object_info, by which inputs that are not named here get their defaults.
    """
    nodes: dict[str, Any] = {}

    def node(kind: str, again: str = "", **inputs: Any) -> str:
        described = info[kind]["input"]
        every = {**described.get("required", {}), **described.get("optional", {})}
        given = {name: default(one) for name, one in every.items() if is_widget(one)}
        nodes[kind + again] = {"class_type": kind, "inputs": {**given, **inputs}}
        return kind + again

    def default(description: list[Any]) -> Any:
        options = description[1] if len(description) > 1 else {}
        choices = description[0] if isinstance(description[0], list) else options.get("options", [""])
        return options.get("default", choices[0])

    even, loaded = number % 2 == 0, node("CheckpointLoaderSimple", ckpt_name="microworld.safetensors")
    model, clip, vae = ({name: [loaded, i]} for i, name in enumerate(("model", "clip", "vae")))
    images = {"images": [node("CompInvLoadPictures", folder="zippy" if even else "mittens"), 0]}
    word, other = ("car", "cat") if even else ("cat", "car")
    anchors = [node("CompInvAnchorSelect", **clip, class_word=word, count=3 + even), 0]
    options = [node("CompInvTrainingOptions", prompts=f"a photo of {{}}\na photo of {{}} {number}"), 0]
    training: dict[str, Any] = {
        **model, **clip, **vae, **images, "class_word": word, "resolution": 64, "steps": 2, "batch": 2, "vectors": 1,
        "seed": number, "anchors": anchors, "options": options,
    }  # fmt: skip
    concept = [node("CompInvTrain", **training, placeholder="endured"), 0]
    tuned = node("CompInvTrainModel", **training, placeholder="endured-tuned", prior="none")
    second = node("CompInvTrainModel", " again", **training, placeholder="endured-too", prior="none")
    of_attributes = {key: value for key, value in training.items() if key not in ("vectors", "anchors", "options")}
    attributes = [node("CompInvTrainAttributes", **of_attributes, placeholder="endured-parts", style_word="photo"), 0]
    replace = {"if_it_exists": "replace it"}
    saved = [node("CompInvSaveConcept", concept=concept, name="saved", **replace), 0]
    node("CompInvSaveCard", concept=saved, **images)
    merged = node(
        "CompInvMergeAdapters", **model, **clip, concept_1=[tuned, 0], adapter_1=[tuned, 1], concept_2=[second, 0], adapter_2=[second, 1]
    )  # fmt: skip
    node("CompInvSaveAdapter", concept=[tuned, 0], adapter=[merged, 0], name="endured-tuned", **replace)
    node("CompInvLoadAdapter", **model, file="custom_diffusion.safetensors", class_word=word)
    node("CompInvLoadConcept", file="saved.safetensors")
    node("CompInvDoctor", **model, **clip, file="saved.safetensors", class_word=word, convert_to="A1111")
    applied = [node("CompInvApplyConcept", **clip, concept=saved, strength=1.0 + number / 1000), 0]
    size = {"width": 64, "height": 64}
    prompt = f"a photo of embedding:saved and a {other}"
    positive = [node("CompInvPrompt", clip=applied, text=prompt, subjects=f"saved, {other}"), 0]
    negative = [node("CLIPTextEncode", **clip, text=""), 0]
    conditions = {"positive": positive, "negative": negative, "latent_image": [node("EmptyLatentImage", **size), 0]}
    tiny = {"steps": 2, "cfg": 3.0, "seed": number}
    found = [node("CompInvLayoutRecover", **model, **conditions, **tiny), 0]
    box = {"left": 0.1 + 0.1 * even, "top": 0.1, "right": 0.6, "bottom": 0.6}
    region = [node("CompInvSetRegion", layout=found, subject=other, **box, **size), 0]
    both = [node("CompInvMergeLayouts", first=found, second=region), 0]
    swapped = [node("CompInvSwapRegions", layout=both, first="saved", second=other), 0]
    boxes = [node("CompInvLayoutToBoxes", layout=swapped, **size), 0]
    node("CompInvBoxesToLayout", boxes=boxes, subjects=f"embedding:saved, {other}", **size)
    node("CompInvLayoutEditor", layout=swapped, **size)
    guided = {"layout": swapped, "guidance": 10.0, "corrections": 1}
    sampler = {"sampler_name": "euler", "scheduler": "normal"}
    node("CompInvRegularizedSampler", **model, **conditions, **tiny, **guided, **sampler)
    regular = [node("CompInvRegularizeModel", **model, **guided), 0]
    node("KSampler", model=regular, **conditions, **tiny, **sampler, denoise=1.0)
    node("CompInvAttributePrompt", **model, **clip, text="a photo of a dog", concept_1=attributes)
    node("CompInvAttributeProbe", **model, **clip, **tiny, images=1, resolution=64)
    node("CompInvTrainLayoutPredictor", **model, **clip, **tiny, prompts=20, resolution=64)
    node(
        "CompInvRepairConcept", **model, **clip, concept=concept, class_word=word, placeholder="endured-repaired", resolution=64,
        pictures=2, steps=2, batch=2, vectors=1, seed=number,
    )  # fmt: skip
    node(
        "CompInvConceptReport",
        **model,
        **clip,
        **vae,
        concept=concept,
        class_word=word,
        beside=other,
        resolution=64,
        **tiny,
    )
    shown = {
        kind: {"class_type": "PreviewAny", "inputs": {"source": [kind, 0]}}
        for kind in nodes
        if info[kind.split()[0]]["output"]
    }
    return {**nodes, **{f"show {kind}": one for kind, one in shown.items()}}


def run_round(server: ComfyServer, info: dict[str, Any], number: int) -> None:
    """Raises RuntimeError when a node fails, or one of the pack's does not run."""
    asked = graph(info, number)
    entry = server.wait(server.queue(asked))
    if entry["status"]["status_str"] != "success":
        raise RuntimeError(f"Round {number}: {failure(entry)}")
    from_cache = {
        kind for name, told in entry["status"]["messages"] if name == "execution_cached" for kind in told["nodes"]
    }
    ours = {kind for kind in info if kind.startswith("CompInv")}
    if left_out := (ours - set(asked)) | (ours & from_cache):
        raise RuntimeError(f"Round {number}: did not run: {', '.join(sorted(left_out))}")


def measured(server: ComfyServer, number: int, count: int) -> Round:
    assert server.process is not None
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    memory = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return Round(number, count, memory=memory, **server.get("/endurance"))


def growth(rounds: list[Round], what: str) -> float:
    """Of a quantity per round, in one server after its warm-up: from the first half's median to the second's."""
    values = [getattr(one, what) for one in rounds[WARM_UP:]]
    half = len(values) // 2
    return (median(values[-half:]) - median(values[:half])) / (len(values) - half) if half else 0.0


def endure(base: Path, file: Path, rounds: int) -> bool:
    """Run what is missing of the rounds; whether stock sampling gives the same bits before and after."""
    done = read(file)
    prepare(base)
    with ComfyServer(base) as server:
        info, count = server.get("/object_info"), 1 + max((one.server for one in done), default=0)
        before = stock(server)
        for number in range(len(done), rounds):
            run_round(server, info, number)
            one = measured(server, number, count)
            with file.open("a") as lines:
                lines.write(json.dumps(asdict(one)) + "\n")
            print(f"round {number + 1}: {one.tensors} tensors, {one.memory / 1e6:.0f} MB", flush=True)
        return stock(server) == before


def read(file: Path) -> list[Round]:
    return [Round(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs every node again and again in one server.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("endurance.jsonl"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compinv-endurance-") as folder:
        same = endure(Path(folder), asked.out, asked.rounds)
    for server, some in groupby(read(asked.out), lambda one: one.server):
        rounds = list(some)
        told = ", ".join(
            f"{name} {growth(rounds, what):+.2f} {unit} a round"
            for name, what, unit in (
                ("tensors", "tensors", ""),
                ("their bytes", "tensor_bytes", ""),
                ("memory", "memory", "bytes"),
            )
        )
        print(f"server {server}, {len(rounds)} rounds: {told}")
    print(f"stock sampling afterwards: {'the same bits' if same else 'DIFFERENT'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
