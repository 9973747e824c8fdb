"""What the judge's word is worth: what it misses and makes up, by name, and what image alignment means on scenes of known things.

python benchmarks/judging.py [--world SPEC]     writes records/judge.json, of another world NAME_judge.json, unless it is there
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from composition import Bench, load_bench
from einops import rearrange
from measures import at, mean
from recorded import FOLDER
from torch import Tensor

from microworld.judge import examples, labels_of, verdicts
from microworld.scenes import Scene, Thing, concept_thing, draw, random_look, random_scene
from microworld.spec import DEFAULT_WORLD, FIRST, ConceptSpec, load_world

SEED = 11  # of scenes that neither the judge nor anything else has seen
SCENES, ALIGNED = 2048, 64


def through(bench: Bench, images: Tensor) -> Tensor:
    """What the autoencoder leaves of pictures (B, H, W, 3), as of all that is judged."""
    return torch.cat([bench.vae.decode(bench.vae.encode(part)).clamp(0, 1) for part in images.split(64)])


def errors(bench: Bench, random: np.random.Generator) -> dict[str, dict[str, float]]:
    """By name, of things and of owners' rooms: the share found of the scenes with it, and the share of those without where it
    is made up."""
    labels = labels_of(bench.world)
    images, present, _, rooms = examples(bench.world, labels, random, SCENES)
    said = verdicts(bench.judge, bench.world, through(bench, rearrange(images, "b c h w -> b h w c")))
    own = [room for room in labels.rooms if room not in bench.world.rooms]
    names = [*labels.names, *own]
    truth = torch.cat([present > 0, torch.stack([rooms == labels.rooms.index(room) for room in own], dim=1)], dim=1)
    found = torch.tensor([[name in {*verdict.present, verdict.room} for name in names] for verdict in said]).float()
    return {
        name: {"found": found[truth[:, i], i].mean().item(), "made up": found[~truth[:, i], i].mean().item()}
        for i, name in enumerate(names)
    }


def alignment(bench: Bench, concept: ConceptSpec, random: np.random.Generator) -> dict[str, float]:
    """Image alignment of scenes with the concept itself, and with its class in any look but its own."""

    def itself(thing: Thing) -> Thing:
        return concept_thing(concept, thing.x, thing.y, thing.extent, random)

    def another(thing: Thing) -> Thing:
        return replace(itself(thing), look=random_look(bench.world, concept.word, random)[0], concept="")

    owner = bench.owner(concept)
    values: dict[str, float] = {}
    for name, change in (("itself", itself), ("another look", another)):
        scenes: list[Scene] = []
        while len(scenes) < ALIGNED:
            scene = random_scene(bench.world, random)
            if concept.word not in [thing.word for thing in scene.things[1:]]:
                scenes.append(replace(scene, things=(change(scene.things[0]), *scene.things[1:])))
        size = bench.world.size
        images = through(bench, torch.from_numpy(np.stack([draw(bench.world, s, size, size) for s in scenes])))
        said = verdicts(bench.judge, bench.world, images)
        values[name] = mean(
            torch.cosine_similarity(owner, at(features, verdict.places[concept.word])[None]).mean().item()
            for features, verdict in zip(bench.features(images), said, strict=True)
            if concept.word in verdict.places
        ) or float("nan")
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    args = parser.parse_args()
    name = load_world(args.world).name
    file = FOLDER / ("judge.json" if name == FIRST else f"{name}_judge.json")
    if file.exists():
        return
    with torch.inference_mode():
        bench = load_bench(args.world)
        random = np.random.default_rng([bench.world.seed, SEED])
        names = {name: {k: round(v, 4) for k, v in said.items()} for name, said in errors(bench, random).items()}
        aligned = {
            concept.name: {k: round(v, 4) for k, v in alignment(bench, concept, random).items()}
            for concept in bench.world.concepts.values()
        }
    split = {concept.name: concept.split for concept in bench.world.concepts.values()}
    file.write_text(
        json.dumps({"scenes": SCENES, "names": names, "alignment": aligned, "split": split}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
