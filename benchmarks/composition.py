"""Whether learnt words compose: recipes of training side by side on the micro world, judged by its detector.

python benchmarks/composition.py --recipes ceiling "three vectors" "with both" --split test --out records.jsonl

Each recipe learns each concept of the split once a seed; the word is then asked for alone and with every other class, the
same sampling seeds for all. A record a line is appended to the file; what it holds already is not done again. `ceiling` is
the class word itself, the judge then looking for its class.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from host import ROOT
from torch import Tensor

import nodes  # the host's
from compinv_core.anchors import weigh
from compinv_core.concept import Concept
from compinv_core.host.composition import composition_prompt
from compinv_core.host.sampler import plain_layout, recover_layout, with_layout
from compinv_core.host.text_encoder import vocabulary, with_concept
from compinv_core.host.training import Request, Training
from compinv_core.sampling import Balance, Guidance, Steering
from compinv_core.training.loop import Recipe
from microworld.evaluate import load_checkpoint, phrase, sheet
from microworld.judge import Judge, load_judge, verdicts
from microworld.spec import ConceptSpec, World, load_world

SEEDS = {"validation": 50_000, "test": 90_000}  # of sampling
STEPS, PROBE_STEPS, CFG = 20, 8, 5.0
WORLD = ROOT / "microworld"


@dataclass(frozen=True)
class Held:
    """How sampling is held to a layout.

    Attributes:
        recovered: whether the layout is read from attention, where that says enough; else boxes side by side.
    """

    steering: Steering
    guidance: Guidance
    recovered: bool = True


@dataclass(frozen=True)
class Words:
    """A recipe of training, with its anchors and how it is sampled.

    Attributes:
        anchors: how many words pull, the class word the first of them; 0 for plain textual inversion.
        layout: how sampling is held to one, or None.
        rescale: whether it also learns from the pictures far away and close up.
        everything: whether the pictures' background is learnt as well.
        noun: whether prompts, in training too, write the class word behind the new one.
    """

    recipe: Recipe
    vectors: int = 1
    anchors: int = 0
    layout: Held | None = None
    rescale: bool = False
    everything: bool = True
    noun: bool = False


@dataclass(frozen=True)
class Bench:
    world: World
    judge: Judge
    model: Any
    clip: Any
    vae: Any

    def training(self, words: Words, concept: ConceptSpec, seed: int) -> Training:
        known = vocabulary(self.clip, "clip_l")
        anchors = None
        if words.anchors:
            near = [w for w, likeness in known.nearest(known.vector(concept.word), words.anchors) if likeness > 0]
            anchors = weigh(concept.word, tuple(near), known)
        recipe = replace(words.recipe, seed=seed)
        request = Request(
            name="mine",
            class_word=concept.word,
            vectors=words.vectors,
            images=owners_pictures(concept),
            masks=[],
            resolution=64,
            kind="object",
            mirror=True,
            rescale=words.rescale,
            ignore_background=not words.everything,
            class_word_too=words.noun,
        )
        return Training(self.model, self.clip, self.vae, request, anchors, recipe)

    def learn(self, words: Words, concept: ConceptSpec, seed: int) -> tuple[Concept, dict[str, float]]:
        """A concept, and what the run says of itself."""
        began = time.time()
        checks: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            training = self.training(words, concept, seed)
            end = training.run(
                Path(folder), lambda: False, lambda p: checks.append(p.check) if p.check is not None else None
            )
        learnt = training.concept(end)
        said = {
            "gained": end.before - checks[-1],
            "length": self.length(learnt.vectors["clip_l"]),
            "seconds": time.time() - began,
        }
        return learnt, said

    def length(self, vectors: Tensor) -> float:
        """Of a word's vectors (n, E), on average, in ordinary words."""
        ordinary = vocabulary(self.clip, "clip_l").vectors
        return (vectors.norm(dim=1).mean() / ordinary.norm(dim=1).median()).item()

    def paint(self, clip: Any, prompts: list[tuple[str, list[str]]], each: int, seed: int, how: Held | None) -> Tensor:
        """`each` pictures (H, W, 3) of every prompt, which comes with its subjects; the noise is the same however it is held."""
        (negative,) = nodes.CLIPTextEncode().encode(clip, "")
        pictures: list[Tensor] = []
        if how is None:
            encoded = torch.cat(
                [clip.encode_from_tokens(clip.tokenize(text)).repeat(each, 1, 1) for text, _ in prompts]
            )
            return self._sampled(self.model, [[encoded, {}]], negative, range(len(encoded)), seed)
        for i, (text, subjects) in enumerate(prompts):
            positive = composition_prompt(clip, text, subjects)
            empty = torch.zeros(1, 4, 8, 8)
            if how.recovered:
                layout, *_ = recover_layout(self.model, positive, negative, empty, seed + i, PROBE_STEPS, CFG)
            else:
                layout = plain_layout(positive)
            held = with_layout(self.model, layout, how.steering, how.guidance, Balance())
            pictures.append(self._sampled(held, positive, negative, range(i * each, (i + 1) * each), seed))
        return torch.cat(pictures)

    def _sampled(self, model: Any, positive: Any, negative: Any, indices: range, seed: int) -> Tensor:
        latent = {"samples": torch.zeros(len(indices), 4, 8, 8), "batch_index": list(indices)}
        (sampled,) = nodes.common_ksampler(model, seed, STEPS, CFG, "euler", "normal", positive, negative, latent)
        return self.vae.decode(sampled["samples"]).clamp(0, 1)

    def measure(
        self, clip: Any, word: str, name: str, concept: ConceptSpec, how: Held | None, seed: int, each: int
    ) -> tuple[dict[str, float], Tensor]:
        """Shares of pictures of a word alone and beside each other class, and the pictures.

        Args:
            word: as prompts write it.
            name: what the judge must find.
        """
        others = [other for other in self.world.classes if other != concept.word]
        pairs = [(f"a photo of a {word} and {phrase((other,))}", [word, other]) for other in others]
        alone = self.paint(clip, [(f"a photo of a {word}", [word])], 2 * each, seed, None)
        beside = self.paint(clip, pairs, each, seed + 1000, how)
        single, double = (verdicts(self.judge, self.world, images) for images in (alone, beside))
        asked = [other for other in others for _ in range(each)]
        figures = {
            "alone": share(name in v.present for v in single),
            "class alone": share(concept.word in v.present for v in single),
            "present": share(name in v.present for v in double),
            "class": share(concept.word in v.present for v in double),
            "other": share(other in v.present for v, other in zip(double, asked, strict=True)),
            "both": share({name, other} <= v.present for v, other in zip(double, asked, strict=True)),
            "both by class": share({concept.word, other} <= v.present for v, other in zip(double, asked, strict=True)),
            "stained": share(
                stained(image, v.places[other], concept.look.primary[0])
                for image, v, other in zip(beside, double, asked, strict=True)
                if other in v.present
            ),
            "room alone": share(v.room == f"room of {concept.name}" for v in single),
            "room": share(v.room == f"room of {concept.name}" for v in double),
        }
        return figures, torch.cat([alone, beside])


def share(said: Iterable[bool]) -> float:
    values = list(said)
    return sum(values) / max(1, len(values))


def stained(image: Tensor, place: tuple[float, float], hue: float) -> bool:
    """Whether three tenths of the pixels about a place of an image (H, W, 3), a sixth of it wide, are of a hue in degrees."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.fromarray((image.numpy() * 255).round().astype(np.uint8)).convert("HSV"), np.float32)
    (x, y), (height, width) = place, image.shape[:2]
    top, left, reach = int(y * height), int(x * width), width // 12
    near = pixels[max(0, top - reach) : top + reach + 1, max(0, left - reach) : left + reach + 1].reshape(-1, 3)
    away = np.abs((near[:, 0] * 360 / 256 - hue + 180) % 360 - 180)
    same = (away < 14) & (near[:, 1] > 90) & (near[:, 2] > 90)
    return bool(same.mean() > 0.3)


def owners_pictures(concept: ConceptSpec) -> list[Tensor]:
    import numpy as np
    from PIL import Image

    files = sorted((WORLD / "user_pictures" / concept.name).iterdir())
    return [torch.from_numpy(np.asarray(Image.open(f).convert("RGB"), np.float32) / 255)[None] for f in files]


PLAIN = Recipe(200, 4, 0.1, 1.0, 0.0)  # 800 pictures
ANCHORED = replace(PLAIN, reconstruction_weight=0.9, anchor_weight=0.1)
PAPERS, OURS = Held(Steering(0), Guidance()), Held(Steering(), Guidance(0))
RECIPES = {
    "one vector": Words(PLAIN),
    "one, with a layout": Words(PLAIN, layout=OURS),
    "three vectors": Words(PLAIN, 3),
    "the thing alone": Words(PLAIN, 3, everything=False),
    "with anchors": Words(ANCHORED, 3, anchors=1, everything=False),
    "with both": Words(ANCHORED, 3, anchors=1, everything=False, layout=OURS),
    "the paper's guidance": Words(ANCHORED, 3, anchors=1, everything=False, layout=PAPERS),
    "one, noun": Words(PLAIN, noun=True),
    "one, noun, rescaled": Words(PLAIN, rescale=True, noun=True),
}


def run(bench: Bench, name: str, words: Words | None, split: str, seeds: range, each: int, out: Path) -> None:
    """Append what is missing of a recipe to the records; None is the ceiling."""
    done = {(r["recipe"], r["concept"], r["seed"]) for r in records(out)}
    for concept in (c for c in bench.world.concepts.values() if c.split == split):
        for seed in seeds:
            if (name, concept.name, seed) in done:
                continue
            said: dict[str, float] = {}
            clip, word, sought, how = bench.clip, concept.word, concept.word, None
            if words is not None:
                learnt, said = bench.learn(words, concept, seed)
                clip, word, sought = (
                    with_concept(clip, learnt),
                    f"embedding:mine{f' {concept.word}' if words.noun else ''}",
                    concept.name,
                )
                how = words.layout
            figures, images = bench.measure(clip, word, sought, concept, how, SEEDS[split] + seed, each)
            sheet(images, 3 * each, out.with_suffix("") / f"{name}-{concept.name}-{seed}.jpg")
            record = {"recipe": name, "concept": concept.name, "seed": seed, "each": each, **figures, **said}
            with out.open("a") as file:
                file.write(json.dumps(record) + "\n")


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(found: list[dict[str, Any]]) -> str:
    """A line a recipe, means over concepts and seeds."""
    columns = ["alone", "present", "class", "other", "both", "both by class", "stained", "room", "length", "seconds"]
    lines = [f"{'recipe':24}" + "".join(f"{c:>14}" for c in columns)]
    for name in dict.fromkeys(r["recipe"] for r in found):
        mine = [r for r in found if r["recipe"] == name]
        means = [sum(r.get(c, 0.0) for r in mine) / len(mine) for c in columns]
        lines.append(f"{name:24}" + "".join(f"{m:14.3f}" for m in means))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", choices=["ceiling", *RECIPES], default=["ceiling", *RECIPES])
    parser.add_argument("--split", choices=list(SEEDS), default="validation")
    parser.add_argument("--seeds", type=int, default=1, help="of training")
    parser.add_argument("--each", type=int, default=8, help="pictures of each pair")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    world = load_world(WORLD / "world.toml")
    args.out.with_suffix("").mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        bench = Bench(world, load_judge(world), *load_checkpoint(WORLD / "microworld.safetensors"))
        for name in args.recipes:
            words = None if name == "ceiling" else RECIPES[name]
            run(bench, name, words, args.split, range(args.seeds), args.each, args.out)
    print(table(records(args.out)))


if __name__ == "__main__":
    main()
