"""The main job, end to end, on a real ComfyUI server: five pictures of somebody's car -> a word -> the car next to things.

Runs plain textual inversion, with one vector as it was published and with as many as ours, then the shipped workflow as it
is, with the same pictures and seeds, and puts them side by side in demo_output/. Started by `make demo`.
"""

import copy
import html
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parent.parent
sys.path.append(str(PACK))

from comfy_server import ComfyServer, ServerError  # noqa: E402
from workflow import find, shipped  # noqa: E402

OUTPUT = PACK / "demo_output"
CONCEPT = "zippy"
WORD, OTHER = "car", "boat"  # what it is, and what the shipped workflow for a saved concept puts next to it
OTHERS = ["cat", "cup", "boat", "umbrella", "donut"]
SEED = 1000
Graph = dict[str, Any]


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def load_graph(server: ComfyServer, name: str) -> Graph:
    return shipped(name, server.get("/object_info"))


def node(graph: Graph, kind: str) -> dict[str, Any]:
    """The inputs of the one node of a class."""
    return next(n["inputs"] for n in graph.values() if n["class_type"] == kind)


def plain(graph: Graph, vectors: int) -> Graph:
    """The same graph without this pack's remedies: the background learnt, no anchors, no layout while sampling."""
    graph = copy.deepcopy(graph)
    for inputs in (n["inputs"] for n in graph.values() if n["class_type"] == "CompInvTrain"):
        inputs["vectors"] = vectors
        inputs["ignore_background"] = False
        inputs["class_word"] = WORD  # which is the anchors' in the template
    for kind, wire in (("CompInvTrain", "anchors"), ("CompInvRegularizedSampler", "layout")):
        for inputs in (n["inputs"] for n in graph.values() if n["class_type"] == kind):
            inputs.pop(wire, None)
    for inputs in (n["inputs"] for n in graph.values()):
        for key, value in inputs.items():
            if isinstance(value, str) and key in ("placeholder", "text", "subjects", "file"):
                inputs[key] = value.replace(CONCEPT, f"{CONCEPT}-plain-{vectors}")
    return graph


ROWS: dict[str, Callable[[Graph], Graph]] = {
    "textual inversion": lambda graph: plain(graph, 1),
    "with three vectors": lambda graph: plain(graph, 3),
    "compositional inversion": lambda graph: graph,
}


def compose(graph: Graph, other: str, seed: int) -> Graph:
    """The graph for a saved concept with another object, and without its side pictures."""
    graph = copy.deepcopy(graph)
    prompt = node(graph, "CompInvPrompt")
    prompt["text"] = prompt["text"].replace(f"a {OTHER}", f"{article(other)} {other}")
    prompt["subjects"] = prompt["subjects"].replace(OTHER, other)
    node(graph, "CompInvLayoutRecover")["seed"] = node(graph, "CompInvRegularizedSampler")["seed"] = seed
    return {k: n for k, n in graph.items() if n["class_type"] not in ("PreviewImage", "PreviewAny")}


def run(server: ComfyServer, graph: Graph, what: str) -> tuple[dict[str, Any], float]:
    began = time.time()

    def tick() -> None:
        if sys.stdout.isatty():
            print(f"  {what} ... {time.time() - began:.0f} s", end="\r", flush=True)

    outputs = server.run(graph, on_poll=tick)
    seconds = time.time() - began
    print(f"  {what}: {seconds:.0f} s   ", flush=True)
    return outputs, seconds


def pictures(server: ComfyServer, outputs: dict[str, Any], number: str) -> list[bytes]:
    return [server.picture(image) for image in outputs[number]["images"]]


def judged(images: list[bytes], other: str) -> list[dict[str, bool]]:
    """What each image shows: the concept, any thing of its class, the other object, the owner's wallpaper."""
    import numpy as np
    import torch
    from PIL import Image

    from microworld.judge import load_judge, verdicts
    from microworld.spec import DEFAULT_WORLD, load_world

    world = load_world(DEFAULT_WORLD)
    arrays = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) / 255 for data in images]
    found = verdicts(load_judge(world), world, torch.from_numpy(np.stack(arrays)))
    return [
        {
            "concept": CONCEPT in v.present,
            "class": WORD in v.present,
            "other": other in v.present,
            "both": {CONCEPT, other} <= v.present,
            "class and other": {WORD, other} <= v.present,
            "wallpaper": v.room == f"room of {CONCEPT}",
        }
        for v in found
    ]


def comparison(rows: dict[str, dict[str, list[bytes]]]) -> Any:
    """One picture to share: an object a line, plain textual inversion on the left, ours on the right, the same seeds."""
    from PIL import Image, ImageDraw

    side, head, gap = 96, 20, 16
    count = len(rows[next(iter(rows))][OTHERS[0]])
    whole = Image.new("RGB", (len(rows) * (count * side + gap) - gap, head + len(OTHERS) * side), "white")
    for column, (name, by_object) in enumerate(rows.items()):
        left = column * (count * side + gap)
        ImageDraw.Draw(whole).text((left + 4, 4), name, "black")
        for line, other in enumerate(OTHERS):
            for i, data in enumerate(by_object[other]):
                image = Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.Resampling.NEAREST)
                whole.paste(image, (left + i * side, head + line * side))
    return whole


def write_report(rows: dict[str, dict[str, list[bytes]]], figures: dict[str, Any], side: dict[str, bytes]) -> Path:
    folder = OUTPUT / "images"
    folder.mkdir(parents=True)

    def picture(name: str, data: bytes, size: int = 128) -> str:
        (folder / f"{name}.png").write_bytes(data)
        return f'<img src="images/{name}.png" width="{size}" style="image-rendering:pixelated">'

    lines = ["<!doctype html><meta charset=utf-8><title>Compositional Inversion: demo</title>"]
    lines += [
        "<style>body{font:16px sans-serif;margin:2em;max-width:75em}td,th{padding:.3em .8em;text-align:left}</style>"
    ]
    lines += [f"<h1>Somebody's {WORD}, next to other things</h1><h2>The five pictures</h2>"]
    for path in sorted((PACK / "microworld" / "user_pictures" / CONCEPT).iterdir()):
        shutil.copy(path, folder / path.name)
        lines.append(f'<img src="images/{path.name}" width="128">')
    lines.append(
        f"<h2>Shares of images, same seeds</h2><table><tr><th><th>the {WORD} in its colour<th>a {WORD}<th>the other object<th>the {WORD} in its colour and the other<th>a {WORD} and the other<th>the owner's wallpaper"
    )
    for name, share in figures["shares"].items():
        cells = "".join(f"<td>{value:.0%}" for value in share.values())
        lines.append(f"<tr><th>{html.escape(name)}{cells}")
    lines.append(f"</table><p>{figures['images']} images each, judged by the micro world's detector.</p>")
    for other in OTHERS:
        lines.append(f"<h2>the {WORD} and {article(other)} {other}</h2><table>")
        for name, by_object in rows.items():
            cells = [picture(f"{name}_{other}_{i}".replace(" ", "_"), d) for i, d in enumerate(by_object[other])]
            lines.append(f"<tr><th>{html.escape(name)}<td>{' '.join(cells)}")
        lines.append("</table>")
    lines.append("<h2>On the way</h2>")
    for name, data in side.items():
        lines.append(f"<figure>{picture(name, data, 320)}<figcaption>{html.escape(name)}</figcaption></figure>")
    lines.append(f"<p>Times: {html.escape(json.dumps(figures['seconds']))}</p>")
    report = OUTPUT / "report.html"
    report.write_text("\n".join(lines))
    (OUTPUT / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return report


def demo(server: ComfyServer) -> Path:
    rows: dict[str, dict[str, list[bytes]]] = {}
    verdicts: dict[str, list[dict[str, bool]]] = {}
    seconds: dict[str, float] = {}
    side: dict[str, bytes] = {}
    trained, saved = load_graph(server, "1_learn_and_compose"), load_graph(server, "2_compose_saved_concept")
    for name, change in ROWS.items():
        graph = change(trained)
        outputs, seconds[f"{name}: the workflow"] = run(server, graph, f"{name}: train and compose")
        if name == list(ROWS)[-1]:
            for title in ("Losses", "The new word", "Layout", "Attention"):
                side[title] = pictures(server, outputs, find(graph, title))[0]
        rows[name], verdicts[name] = {}, []
        for i, other in enumerate(OTHERS):
            graph = compose(change(saved), other, SEED + i)
            outputs, seconds[f"{name}: {other}"] = run(server, graph, f"{name}: with {other}")
            rows[name][other] = pictures(server, outputs, find(graph, "Composition"))
            verdicts[name] += judged(rows[name][other], other)
    shares = {name: {key: sum(v[key] for v in said) / len(said) for key in said[0]} for name, said in verdicts.items()}
    figures = {"shares": shares, "images": len(next(iter(verdicts.values()))), "seconds": seconds}
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    report = write_report(rows, figures, side)
    comparison(rows).save(OUTPUT / "comparison.jpg", quality=90)
    for name, share in shares.items():
        print(
            f"  {name}: a {WORD} in {share['class']:.0%}, in its colour in {share['concept']:.0%}, the other object in "
            f"{share['other']:.0%}, a {WORD} and the other in {share['class and other']:.0%}"
        )
    return report


def main() -> int:
    for needed in ("microworld.safetensors", "judge.safetensors"):
        if not (PACK / "microworld" / needed).exists():
            print(f"microworld/{needed} is not there; `make world` makes it, in hours on a CPU.", file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory(prefix="compinv-demo-") as folder:
        base = Path(folder)
        shutil.copytree(PACK / "microworld" / "user_pictures", base / "input")
        print("Starting ComfyUI.", flush=True)
        try:
            with ComfyServer(base) as server:
                report = demo(server)
        except ServerError as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
    print(f"The images are in {OUTPUT / 'images'}, the report is {report}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
