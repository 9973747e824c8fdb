"""The pictures on the help pages: each node with what it gives, run on the micro world and photographed on a real page.

python3 scripts/host.py --browser python scripts/help_pictures.py                  all, after a change to a node's look
python3 scripts/host.py --browser python scripts/help_pictures.py CompInvTrain     some
"""

import io
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from comfy_server import PACK, ComfyServer
from demo import CONCEPT, WORD, Graph, load_graph, plain
from PIL import Image
from safetensors import safe_open
from thumbnails import SECOND, SECOND_WORD
from workflow import find, is_widget

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SIZES = {"wide": 320, "besideWide": 270, "least": 130, "most": 290, "margin": 10, "gap": 24}
"""In pixels: of a node, and of what is beside it."""
TRAINING = {"CompInvTrain", "CompInvTrainModel", "CompInvTrainAttributes", "CompInvRepairConcept"}
MAX_STEPS = 20  # of training
MAX_SIZE = 16_000  # bytes of a picture
MERGED = "Concepts, merged"


@dataclass(frozen=True)
class Picture:
    """A node in a graph, and what stands beside it.

    Attributes:
        graph: name of a shipped workflow, or "" for `others`.
        beside: in a column: titles of nodes in the graph; the number of an output is a preview of it.
        values: of the node's inputs, in place of the graph's.
        title: of the node, where the graph has several of its class.
        runs: False for a node whose report names folders of the machine.
    """

    graph: str = ""
    beside: tuple[str | int, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    runs: bool = True


LEARN, SAVED, TUNED, ATTRIBUTES = "1_learn_and_compose", "2_compose_saved_concept", "5_fine_tune", "6_attributes"
COMPOSED = {"text": "a photo of {concept} and a boat", "subjects": "{concept}, boat"}
PICTURES = {
    "CompInvAnchorSelect": Picture(LEARN, ("Anchors",), {"how": "nearest words", "count": 5}),
    "CompInvTrain": Picture(LEARN, ("What is learnt of your images", "The new word")),
    "CompInvSaveConcept": Picture(LEARN, (1,), {"name": CONCEPT}),
    "CompInvTrainingOptions": Picture(beside=("Training",)),
    "CompInvLoadPictures": Picture(LEARN, (3,)),
    "CompInvLoadConcept": Picture(SAVED, (1,)),
    "CompInvApplyConcept": Picture(SAVED, (1,)),
    "CompInvPrompt": Picture(SAVED, ("Composition",)),
    "CompInvLayoutRecover": Picture(SAVED, ("Layout",)),
    "CompInvRegularizedSampler": Picture(SAVED, ("Composition", "Attention")),
    "CompInvRegularizeModel": Picture(beside=("Regularized",)),
    "CompInvRepairConcept": Picture("4_repair_embedding", ("As it was", "Composition")),
    "CompInvTrainModel": Picture(TUNED, ("The new concept", 8)),
    "CompInvSaveAdapter": Picture(TUNED, (1,)),
    "CompInvMergeAdapters": Picture(beside=(MERGED,)),
    "CompInvLoadAdapter": Picture(beside=(3,)),
    "CompInvTrainAttributes": Picture(ATTRIBUTES, ("All, then each alone",)),
    "CompInvAttributePrompt": Picture(ATTRIBUTES, ("Colour", 1), title="Colour: prompt"),
    "CompInvAttributeProbe": Picture(beside=(0, 2)),
    "CompInvConceptReport": Picture(beside=(1, 3)),
    "CompInvDoctor": Picture(beside=(0,)),
    "CompInvSaveCard": Picture(),
    "CompInvSetRegion": Picture(beside=(1,), title="Set Region"),
    "CompInvMergeLayouts": Picture(beside=(1,)),
    "CompInvSwapRegions": Picture(beside=("Before", 1)),
    "CompInvLayoutToBoxes": Picture(beside=(2,)),
    "CompInvBoxesToLayout": Picture(beside=(1,)),
    "CompInvTrainLayoutPredictor": Picture(runs=False),
}


class Adder:
    """Adds nodes to a graph, with their defaults for what is not given."""

    def __init__(self, info: dict[str, Any], graph: Graph):
        self.info, self.graph = info, graph

    def __call__(self, kind: str, title: str = "", **inputs: Any) -> str:
        described = self.info[kind]["input"]
        every = {**described.get("required", {}), **described.get("optional", {})}
        values = {name: default(one) for name, one in every.items() if is_widget(one)}
        number = str(1 + max((int(known) for known in self.graph), default=0))
        title = title or self.info[kind]["display_name"]
        self.graph[number] = {"class_type": kind, "inputs": {**values, **inputs}, "_meta": {"title": title}}
        return number

    def preview(self, source: str, output: int) -> str:
        kind = self.info[self.graph[source]["class_type"]]["output"][output]
        if kind == "IMAGE":
            return self("PreviewImage", images=[source, output])
        return self("PreviewAny", source=[source, output])


def default(description: list[Any]) -> Any:
    options = description[1] if len(description) > 1 else {}
    choices = description[0] if isinstance(description[0], list) else options.get("options", [""])
    return options.get("default", choices[0] if choices else "")


def others(info: dict[str, Any]) -> Graph:
    """The nodes that no shipped workflow has."""
    add = Adder(info, {})
    loaded = add("CheckpointLoaderSimple", ckpt_name="microworld.safetensors")
    model, clip, vae = ({name: [loaded, i]} for i, name in enumerate(("model", "clip", "vae")))
    size, canvas = {"width": 64, "height": 64}, {"width": 512, "height": 512}
    small = {"resolution": 64, "seed": 1}

    cat = [add("CompInvSetRegion", "The cat", subject="cat", left=0.05, top=0.3, right=0.5, bottom=0.9, **canvas), 0]
    car = [
        add("CompInvSetRegion", subject="car", left=0.55, top=0.45, right=0.95, bottom=0.85, layout=cat, **canvas),
        0,
    ]
    sun = [add("CompInvSetRegion", "A kite", subject="kite", left=0.3, top=0.05, right=0.65, bottom=0.3, **canvas), 0]
    add("CompInvMergeLayouts", first=car, second=sun)
    add("PreviewImage", "Before", images=[car[0], 1])
    add("CompInvSwapRegions", layout=car, first="cat", second="car")
    boxes = [add("CompInvLayoutToBoxes", layout=car, **canvas), 0]
    add("CompInvBoxesToLayout", boxes=boxes, subjects="cat, car", **canvas)

    concept = [add("CompInvLoadConcept", file=f"{CONCEPT}.safetensors"), 0]
    applied = [add("CompInvApplyConcept", **clip, concept=concept), 0]
    positive = [add("CompInvPrompt", clip=applied, **COMPOSED), 0]
    conditions = {"positive": positive, "negative": [add("CLIPTextEncode", **clip, text=""), 0]}
    sampling = {"sampler_name": "euler", "scheduler": "normal", "cfg": 5.0, "seed": 1}

    def sampled(title: str, model: list[Any], positive: list[Any]) -> list[Any]:
        latent = [add("EmptyLatentImage", **size), 0]
        both = {**conditions, "positive": positive, "latent_image": latent}
        image = [add("VAEDecode", samples=[add("KSampler", model=model, **both, **sampling), 0], **vae), 0]
        add("PreviewImage", title, images=image)
        return image

    latent = [add("EmptyLatentImage", **size), 0]
    layout = [add("CompInvLayoutRecover", **model, **conditions, latent_image=latent, seed=1), 0]
    regular = [add("CompInvRegularizeModel", **model, layout=layout), 0]
    sampled("Regularized", regular, positive)

    one = [add("CompInvPrompt", clip=applied, text="a photo of {concept}", subjects=""), 0]
    images = sampled("Alone", model["model"], one)
    add("CompInvConceptReport", **model, **clip, **vae, concept=concept, beside="cat, boat", **small)
    add("CompInvSaveCard", concept=concept, images=images)
    add("CompInvDoctor", **clip, file=f"{CONCEPT}-plain-1.safetensors", class_word=WORD)
    add("CompInvLoadAdapter", **model, file="delta.bin", class_word=WORD)
    add("CompInvAttributeProbe", **model, **clip, **small)
    add("CompInvTrainLayoutPredictor", **model, **clip, **small)

    training: dict[str, Any] = {**model, **clip, **vae, **small, "steps": 10}
    tuned: list[str] = []
    for name, word in ((CONCEPT, WORD), (SECOND, SECOND_WORD)):
        training["images"] = [add("CompInvLoadPictures", folder=name), 0]
        training["anchors"] = [add("CompInvAnchorSelect", **clip, class_word=word), 0]
        tuned.append(add("CompInvTrainModel", **training, placeholder=f"{name}-tuned"))
    first, second = ({"concept": [number, 0], "adapter": [number, 1]} for number in tuned)
    merged = add(
        "CompInvMergeAdapters",
        **model,
        **clip,
        **{f"{key}_1": wire for key, wire in first.items()},
        **{f"{key}_2": wire for key, wire in second.items()},
    )
    both = clip["clip"]
    for number in tuned:
        both = [add("CompInvApplyConcept", clip=both, concept=[number, 0]), 0]
    words = f"a photo of embedding:{CONCEPT}-tuned and embedding:{SECOND}-tuned"
    prompt = [add("CompInvPrompt", clip=both, text=words, subjects=""), 0]
    sampled(MERGED, [merged, 1], prompt)

    options = [add("CompInvTrainingOptions", prompts="a product photo of {}\n{} on a white table"), 0]
    add("CompInvTrain", "Training", **model, **clip, **vae, images=training["images"], options=options)
    return add.graph


def needed(graph: Graph, shown: list[str]) -> Graph:
    """The nodes that give what others show, and these."""
    wanted, queue = set(shown), list(shown)
    while queue:
        for value in graph[queue.pop()]["inputs"].values():
            if isinstance(value, list) and value[0] not in wanted:
                wanted.add(value[0])
                queue.append(value[0])
    return {number: node for number, node in graph.items() if number in wanted}


def photographed(server: ComfyServer, info: dict[str, Any], kind: str) -> tuple[Graph, list[str]]:
    """The graph of a node's picture, and its nodes that are in the picture, that node first."""
    picture = PICTURES[kind]
    graph = load_graph(server, picture.graph) if picture.graph else others(info)
    title = picture.title or info[kind]["display_name"]
    number = next(
        number
        for number, node in graph.items()
        if node["class_type"] == kind and (not picture.title or node["_meta"]["title"] == title)
    )
    graph[number]["inputs"].update(picture.values)
    for node in graph.values():
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"]["batch_size"] = 1
        if picture.graph and node["class_type"] in TRAINING:
            node["inputs"]["steps"] = min(node["inputs"]["steps"], MAX_STEPS)
    add = Adder(info, graph)
    beside = [find(graph, one) if isinstance(one, str) else add.preview(number, one) for one in picture.beside]
    shown = [number, *beside]
    return needed(graph, shown), shown


SHOW = """async ([graph, outputs, shown, values, { wide, besideWide, least, most, margin, gap }]) => {
    window.app.nodeOutputs = {}  // of the picture before, whose nodes have the same numbers
    await window.app.loadApiJson(graph, "picture")
    for (const node of window.app.graph._nodes) node.pos = [-4000, 0]
    for (const [id, output] of Object.entries(outputs))
        window.app.api.dispatchCustomEvent("executed", { node: id, display_node: id, output, prompt_id: "" })
    const head = window.LiteGraph.NODE_TITLE_HEIGHT
    const [node, ...beside] = shown.map(id => window.app.graph.getNodeById(id))
    for (const widget of node.widgets ?? []) widget.value = values[widget.name] ?? widget.value
    node.title = node.constructor.title
    node.pos = [0, head]
    node.setSize([wide, node.computeSize()[1]])
    const room = (node.size[1] + head - gap * (beside.length - 1)) / Math.max(1, beside.length)
    let top = 0
    const place = () => {
        top = 0
        for (const one of beside) {
            one.pos = [wide + gap, top + head]
            const letters = (outputs[one.id]?.text ?? []).join("").length
            const high = Math.max(Math.min(most, Math.max(least, room)) - head, 50 + 0.3 * letters)
            one.setSize([besideWide, Math.max(high, one.type === "PreviewAny" ? 0 : one.computeSize()[1])])
            top += one.size[1] + head + gap
        }
        window.app.canvas.setDirty(true, true)
    }
    place()
    Object.assign(window.app.canvas.ds, { scale: 1, offset: [200, 100] })
    const seconds = number => new Promise(done => setTimeout(done, 1000 * number))
    const drawn = one => one.widgets?.some(({ name }) => name === "$$canvas-image-preview")
    const loaded = one => (outputs[one.id]?.images ?? []).every(({ filename }, i) => {
        const image = one.imgs?.[i]
        return drawn(one) && image?.complete && new URL(image.src).searchParams.get("filename") === filename
    })
    for (let i = 0; i < 30 && ![node, ...beside].every(loaded); i++) await seconds(1)
    place()  // a node with an image is higher
    node.setSize([wide, node.computeSize()[1]])
    await seconds(2)
    const there = new Set(shown)
    for (const one of window.app.graph._nodes)  // wires to and from a node that is not shown would seem to end at one that is
        if (one !== node) one.inputs.forEach((slot, i) => { if (!there.has(one.id) || !there.has(one.getInputNode(i)?.id)) slot.link = null })
    window.app.canvas.setDirty(true, true)
    await seconds(0.5)
    const right = beside.length ? wide + gap + besideWide : wide
    return { x: 200 - margin, y: 100 - margin, width: right + 2 * margin, height: Math.max(top - gap, node.size[1] + head) + 2 * margin }
}"""


def enlarge(server: ComfyServer, outputs: dict[str, Any]) -> None:
    """The micro world's images in the size of a user's, each pixel a square; the page draws none larger than it is."""
    for image in (image for output in outputs.values() for image in output.get("images", [])):
        file = server.base / image["type"] / image["subfolder"] / image["filename"]
        with Image.open(file) as opened:
            small = opened.convert("RGB")
        if small.height <= 64:
            small.resize((8 * small.width, 8 * small.height), Image.Resampling.NEAREST).save(file)


def photograph(page: Any, server: ComfyServer, graph: Graph, shown: list[str]) -> Image.Image:
    """The nodes that are shown, with what they gave. Where the node has them, the default resolution and steps are shown: those
    that were run are for a small model in a hurry."""
    info = server.get("/object_info")
    inputs = info[graph[shown[0]]["class_type"]]["input"]["required"]
    values = {name: inputs[name][1]["default"] for name in ("resolution", "steps") if name in inputs}
    runs = PICTURES[graph[shown[0]]["class_type"]].runs and any(
        info[node["class_type"]]["output_node"] for node in graph.values()
    )
    outputs = server.run(graph) if runs else {}
    enlarge(server, outputs)
    clip = page.evaluate(SHOW, [graph, outputs, [int(number) for number in shown], values, SIZES])
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


@contextmanager
def opened(server: ComfyServer) -> Generator[Any]:
    from playwright.sync_api import sync_playwright

    server.fetch("/settings/Comfy.TutorialCompleted", True)  # else the first page shows the templates over all else
    server.fetch("/settings/Comfy.NodeBadge.NodeSourceBadgeMode", "None")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(600_000)
        page.goto(server.url)
        page.wait_for_function("Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.CompInvTrain)")
        yield page
        browser.close()


def prepare(server: ComfyServer) -> None:
    """The concepts and the adapter that the graphs load."""
    learn = load_graph(server, LEARN)
    learn = needed(learn, [number for number, node in learn.items() if node["class_type"] == "CompInvSaveConcept"])
    server.run(plain(learn, 1))
    server.run(learn)
    name = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    with safe_open(PACK / "microworld" / "microworld.safetensors", "pt") as file:
        weight = 1.1 * file.get_tensor(f"model.diffusion_model.{name}").float()
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    adapter = {"unet": {name: weight}, "modifier_token": {"<new1>": torch.ones(768)}}
    torch.save(adapter, server.base / "models" / "loras" / "delta.bin")


def save(image: Image.Image, file: Path) -> None:
    """As WebP of the best quality that is small enough."""
    for quality in range(75, 20, -5):
        image.save(file, quality=quality, method=6)
        if file.stat().st_size <= MAX_SIZE:
            return


def main() -> int:
    chosen = sys.argv[1:] or list(PICTURES)
    if unknown := [kind for kind in chosen if kind not in PICTURES]:
        print(f"Of {', '.join(unknown)} no picture is made; there are: {', '.join(PICTURES)}.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="compinv-help-pictures-") as folder:
        base = Path(folder)
        shutil.copytree(PACK / "microworld" / "user_pictures", base / "input")
        (base / "models" / "loras").mkdir(parents=True)
        with ComfyServer(base) as server:
            prepare(server)
            info = server.get("/object_info")
            with opened(server) as page:
                for kind in chosen:
                    image = photograph(page, server, *photographed(server, info, kind))
                    file = PACK / "web" / "docs" / kind / "node.webp"
                    save(image, file)
                    print(f"{kind}: {image.width} x {image.height}, {file.stat().st_size / 1000:.1f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
