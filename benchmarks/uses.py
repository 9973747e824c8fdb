"""What a learnt word is used for, on the micro world: a class without its bias, and a concept inside a mask (Gal et al. 2022).

python benchmarks/uses.py --uses bias inpainting        appends what is missing to records/uses.jsonl

bias: a class word's things wear some colours more often than others. A word is learnt from pictures of the same class, one in each
colour that has a name; it should show them all.
inpainting: half of a drawn scene, in which something else stands in the other half, is painted anew with a learnt concept.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from attributes import Viewer, load_viewer
from composition import CFG, KEPT, OURS, RECIPES, STEPS, Bench, Prompt, named, word_file
from composition import Thing as Asked
from measures import inside
from recorded import FOLDER, records
from torch import Tensor

import nodes  # the host's
from compinv_core.concept import Concept, read_concept, write_concept
from compinv_core.host.backbone import ComfyBackbone
from compinv_core.host.composition import composition_prompt
from compinv_core.host.sampler import with_layout
from compinv_core.host.text_encoder import encode, with_concept
from compinv_core.layout.editing import layout_from_json
from compinv_core.training.concept_training import ConceptTraining
from compinv_core.training.palette import lab
from compinv_core.training.request import Request
from microworld.scenes import balanced_set, draw, half_scene, rgb
from microworld.spec import ConceptSpec

FILE = FOLDER / "uses.jsonl"
SEED = 110_000
LEARNT = "ours, no layout"  # how concepts are learnt, of `RECIPES`
FAIR = "three vectors"  # how a class is learnt anew: anchors would draw it to the class word, and its bias
IMAGES = 96  # of a word, for its colours
ALONE, SCENES, EACH = 16, 4, 4  # images of a concept alone; drawn scenes, and images of each
FAR = 24  # pixels from the mask; nearer ones the decoder makes of latents on both sides
Done = set[tuple[str, ...]]


def colour_of(viewer: Viewer, images: Tensor, word: str) -> list[str | None]:
    """Of images (B, H, W, 3), the named colour that most of a thing has, by the nearest in CIELAB; None without the thing."""
    colors = viewer.bench.world.colors
    known = lab(torch.from_numpy(np.stack([rgb(color) for color in colors.values()])))
    found: list[str | None] = []
    for shown in viewer.see(images, [word]):
        if shown.place is None or shown.looks is None:
            found.append(None)
            continue
        pixels = lab(torch.from_numpy(inside(shown.image, shown.place, shown.looks.extent)))
        nearest: list[int] = torch.cdist(pixels, known).argmin(dim=1).tolist()
        found.append(list(colors)[Counter(nearest).most_common(1)[0][0]])
    return found


def bias(viewer: Viewer, done: Done) -> Iterator[dict[str, Any]]:
    """The colours of a class word's things, of a balanced set's, and of those of the word that is learnt from it."""
    bench = viewer.bench
    for number, word in enumerate(bench.world.classes):
        for row in ("balanced set", "class word", "learnt"):
            if ("bias", row, word) not in done:
                images = _of_class(bench, row, word, SEED + number)
                yield {"use": "bias", "row": row, "unit": word, "colours": colour_of(viewer, images, word)}


def _of_class(bench: Bench, row: str, word: str, seed: int) -> Tensor:
    """Images (B, H, W, 3) of a class."""
    world = bench.world
    drawn = [draw(world, scene, world.size, world.size) for scene in balanced_set(world, word)]
    pictures = [torch.from_numpy(one)[None] for one in drawn]
    if row == "balanced set":
        return bench.vae.decode(bench.vae.encode(torch.cat(pictures))).clamp(0, 1)
    text, clip = f"a photo of {'an' if word[0] in 'aeiou' else 'a'} {word}", bench.clip
    if row == "learnt":
        concept = _fair(bench, word, pictures)
        text, clip = f"a photo of a embedding:{concept.name}", with_concept(clip, concept)
    return bench.paint(clip, [(text, [])], IMAGES, seed, None)


def _fair(bench: Bench, word: str, pictures: list[Tensor]) -> Concept:
    """A class as it is learnt from pictures of it, from the cache when it was before."""
    words = RECIPES[FAIR]
    name = f"balanced-{word}"
    file = KEPT / "uses" / f"{named(words)}-{name}.safetensors"
    if not file.exists():
        request = Request(name, word, pictures, vectors=words.vectors, resolution=64)
        training = ConceptTraining(ComfyBackbone(bench.model, bench.clip, bench.vae), [request], words.recipe)
        end = training.run(KEPT / "runs", lambda: False, lambda _: None)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_concept(training.concepts(end)[0], file)
        training.forget(KEPT / "runs")
    return read_concept(file)


def inpainting(viewer: Viewer, done: Done) -> Iterator[dict[str, Any]]:
    """How often a concept has its own look alone, and inside a mask, by KSampler and by Regularized Sampler; and what changes
    outside: `latent` and `pixel` are the largest difference of a latent and of an 8-bit pixel that is FAR from the mask.
    """
    bench = viewer.bench
    for number, concept in enumerate(c for c in bench.world.concepts.values() if c.split == "test"):
        rows = [
            row for row in ("alone", "KSampler", "Regularized Sampler") if ("inpainting", row, concept.name) not in done
        ]
        for row in rows:
            learnt = _own(bench, concept)
            clip, seed = with_concept(bench.clip, replace(learnt, name="mine")), SEED + 1000 + number
            record = {"use": "inpainting", "row": row, "unit": concept.name}
            if row == "alone":
                said = viewer.bench.read(
                    bench.paint(clip, [("a photo of a embedding:mine", [])], ALONE, seed, None),
                    *_asked(bench, concept),
                )
                yield {**record, "look": [[int(r["look"] or 0) for r in said]]}
            else:
                yield {**record, **_inpainted(viewer, clip, concept, row, seed)}


def _own(bench: Bench, concept: ConceptSpec) -> Concept:
    """As `composition.py` learns it, and keeps it."""
    file = word_file(RECIPES[LEARNT], concept, 0)
    if not file.exists():
        write_concept(bench.learn(RECIPES[LEARNT], concept, 0)[0], file)
    return read_concept(file)


def _asked(bench: Bench, concept: ConceptSpec) -> Any:
    return [Prompt((Asked(concept.word, concept.word, concept),))], {concept.name: bench.owner(concept)}


def _inpainted(viewer: Viewer, clip: Any, concept: ConceptSpec, row: str, seed: int) -> dict[str, Any]:
    bench, world = viewer.bench, viewer.bench.world
    (negative,) = nodes.CLIPTextEncode().encode(clip, "")
    random = np.random.default_rng([world.seed, 22, seed])
    said: dict[str, list[Any]] = {"look": [], "other": [], "latent": [], "pixel": []}
    for number in range(SCENES):
        other = str(random.choice([word for word in world.classes if word != concept.word]))
        scene = half_scene(world, other, random)
        latent = bench.vae.encode(torch.from_numpy(draw(world, scene, world.size, world.size))[None])
        mask = torch.zeros(1, 8 * latent.shape[2], 8 * latent.shape[3])
        mask[..., mask.shape[-1] // 2 :] = 1
        text = f"a photo of a embedding:mine and {'an' if other[0] in 'aeiou' else 'a'} {other}"
        if row == "KSampler":
            model, positive = bench.model, encode(clip, text)
        else:
            positive = composition_prompt(clip, text, ["mine", other])
            boxes = {"mine": [0.5, 0, 1, 1], other: [0, 0, 0.5, 1]}
            model = with_layout(
                bench.model,
                layout_from_json(json.dumps(boxes)),
                OURS.steering,
                OURS.guidance,
                balance=OURS.balance,
                regional=OURS.regional,
            )
        given = {
            "samples": latent.repeat(EACH, 1, 1, 1),
            "batch_index": list(range(EACH * number, EACH * (number + 1))),
        }
        (masked,) = nodes.SetLatentNoiseMask().set_mask(given, mask)
        (sampled,) = nodes.common_ksampler(model, seed, STEPS, CFG, "euler", "normal", positive, negative, masked)
        images, before = (bench.vae.decode(samples).clamp(0, 1) for samples in (sampled["samples"], latent))
        shown = viewer.see(images, [concept.word])
        named_there = [one.place is not None and one.place[0] > 0.5 and concept.name in one.present for one in shown]
        others = viewer.see(images, [other])
        half = latent.shape[-1] // 2
        kept = slice(0, images.shape[2] // 2 - FAR)
        change = (images[:, :, kept] - before[:, :, kept]).abs()
        said["look"].append([int(one) for one in named_there])
        said["other"].append([int(one.place is not None and one.place[0] < 0.5) for one in others])
        said["latent"].append((sampled["samples"][..., :half] - latent[..., :half]).abs().amax().item())
        said["pixel"].append(round(255 * change.amax().item(), 3))
    return said


USES: dict[str, Callable[[Viewer, Done], Iterator[dict[str, Any]]]] = {"bias": bias, "inpainting": inpainting}
"""By name: what gives the records of a use, each with its use, row and unit, but those that are done."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uses", nargs="+", choices=list(USES), default=list(USES))
    args = parser.parse_args()
    with torch.inference_mode():
        viewer = load_viewer()
        for use in args.uses:
            done: Done = {(r["use"], r["row"], r["unit"]) for r in records(FILE)}
            began = time.time()
            for record in USES[use](viewer, done):
                with FILE.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(f"{use}, {record['row']}, {record['unit']}: {time.time() - began:.0f} s", flush=True)
                began = time.time()


if __name__ == "__main__":
    main()
