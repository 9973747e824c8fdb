"""The judge: says which objects an image shows, and where; trained on the generator's scenes, concepts among them.

A small convolutional detector. Half of what it learns from went through the autoencoder, for so will what it judges.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import runs
from .autoencoder import Autoencoder
from .latents import load_autoencoder
from .optim import optimizers
from .scenes import Scene, Thing, concept_thing, draw, random_look, random_room, random_scene, resembles, user_picture
from .spec import DEFAULT_WORLD, Look, World, load_world

POOL = 512  # scenes a process that went through the autoencoder, drawn from again and again

SURE = -1.0  # logit; there, on scenes for validation, what it misses is about as much as what it makes up


@dataclass(frozen=True)
class Labels:
    """names: what can be present, classes first, then concepts. rooms: the named ones, then the concepts' own."""

    names: list[str]
    rooms: list[str]


def labels_of(world: World) -> Labels:
    return Labels(world.classes + list(world.concepts), list(world.rooms) + [f"room of {c}" for c in world.concepts])


class Judge(nn.Module):
    """(B, 3, 64, 64) in 0..1 -> logits (B, K, 8, 8) of each name at each cell, and (B, R) of the room."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()

        def block(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.GroupNorm(8, outer), nn.SiLU())

        self.features = nn.Sequential(
            block(3, 32, 2), block(32, 64, 2), block(64, 64), block(64, 128, 2), block(128, 128), block(128, 128)
        )
        self.names = nn.Conv2d(128, len(labels.names), 1)
        self.rooms = nn.Linear(256, len(labels.rooms))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images - 0.5)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return self.names(features), self.rooms(pooled)


def _lookalike(world: World, thing: Thing, random: np.random.Generator) -> Thing:
    """Something near to a concept that is not it: another class in its look, or its class in one of its colours."""
    concept = world.concepts[str(random.choice(list(world.concepts)))]
    own = concept.look
    while True:
        word = concept.word
        look, _ = random_look(world, word, random)
        match random.integers(3):
            case 0:
                word, look = thing.word, own
            case 1:
                look = Look(look.pattern, own.primary, look.secondary)
            case _:
                look = Look(own.pattern, look.primary, own.secondary)
        if not any(resembles(word, look, other) for other in world.concepts.values()):
            return replace(thing, word=word, look=look, colors=("", ""))
        thing = replace(thing, word=str(random.choice(world.classes)))


def judged_scene(world: World, random: np.random.Generator) -> Scene:
    """A scene with concepts, lookalikes and the concepts' own rooms among the ordinary."""
    scene = random_scene(world, random)
    things: list[Thing] = []
    for thing in scene.things:
        kind = random.random()
        if kind < 0.35:
            concept = world.concepts[str(random.choice(list(world.concepts)))]
            thing = concept_thing(concept, thing.x, thing.y, thing.extent, random)
        elif kind < 0.55:
            thing = _lookalike(world, thing, random)
        if thing.word not in [t.word for t in things]:
            things.append(thing)
    if random.random() < 0.25:
        name = str(random.choice(list(world.concepts)))
        return Scene("wallpaper", world.concepts[name].room, float(random.uniform(0.2, 0.8)), tuple(things))
    return replace(random_room(world, random), things=tuple(things))


def targets(world: World, labels: Labels, scene: Scene) -> tuple[Tensor, Tensor, int]:
    """Presence (K,), the centre's cell (K,) or -1, and the room's index."""
    present, cells = torch.zeros(len(labels.names)), torch.full((len(labels.names),), -1)
    for thing in scene.things:
        for name in (thing.word, thing.concept):
            if name:
                index = labels.names.index(name)
                present[index] = 1
                cells[index] = min(7, int(thing.y * 8)) * 8 + min(7, int(thing.x * 8))
    room = scene.room
    for name, concept in world.concepts.items():
        if scene.room == "wallpaper" and scene.wallpaper == concept.room:
            room = f"room of {name}"
    return present, cells, labels.rooms.index(room)


Example = tuple[Tensor, Tensor, Tensor, Tensor]


def examples(world: World, labels: Labels, random: np.random.Generator, count: int) -> Example:
    scenes = [judged_scene(world, random) for _ in range(count)]
    images = np.stack([draw(world, scene, world.size, world.size) for scene in scenes])
    found = [targets(world, labels, scene) for scene in scenes]
    present, cells = torch.stack([f[0] for f in found]), torch.stack([f[1] for f in found])
    return (
        rearrange(torch.from_numpy(images), "b h w c -> b c h w"),
        present,
        cells,
        torch.tensor([f[2] for f in found]),
    )


class HalfDecoded:
    """Batches of scenes, half of which went through the autoencoder: of a pool, for it costs more than the judge.

    Args:
        make: so many examples from random numbers, tensors of which the first are the images.
        seeds: two numbers, of the pool's scenes and of the batches.
    """

    def __init__(
        self,
        make: Callable[[np.random.Generator, int], tuple[Tensor, ...]],
        autoencoder: Autoencoder,
        world: World,
        *,
        seeds: tuple[int, int],
        rank: int,
    ) -> None:
        self.make, self.autoencoder, self.seed, self.seeds, self.rank = make, autoencoder, world.seed, seeds, rank
        self.pool: list[tuple[Tensor, ...]] = []

    def at(self, step: int, half: int) -> tuple[Tensor, ...]:
        """Twice `half` examples; the pool is renewed now and then."""
        if step % 250 == 0 or not self.pool:
            images, *told = self.make(np.random.default_rng([self.seed, self.seeds[0], self.rank, step // 250]), POOL)
            self.pool = [*self.pool[-3:], (through(self.autoencoder, images), *told)]
        random = np.random.default_rng([self.seed, self.seeds[1], self.rank, step])
        decoded = self.pool[random.integers(len(self.pool))]
        picks = torch.from_numpy(random.integers(0, POOL, half))
        return tuple(torch.cat([a[picks], b]) for a, b in zip(decoded, self.make(random, half), strict=True))


@torch.no_grad()
def through(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    return torch.cat([autoencoder.decode(autoencoder.encode(part)).clamp(0, 1) for part in images.split(32)])


def judge_loss(judge: Judge, example: Example) -> Tensor:
    images, present, cells, rooms = example
    names, room = judge(images)
    flat = names.flatten(2)
    presence = F.binary_cross_entropy_with_logits(flat.amax(2), present)
    known = cells >= 0
    place = F.cross_entropy(flat[known], cells[known])
    return presence + 0.1 * place + 0.2 * F.cross_entropy(room, rooms)


@dataclass(frozen=True)
class Verdict:
    """What an image shows. `places` gives (x, y) in 0..1 of each name that is present."""

    present: set[str]
    places: dict[str, tuple[float, float]]
    room: str


def load_judge(world: World, file: Path | None = None) -> Judge:
    judge = Judge(labels_of(world))
    judge.load_state_dict({key: value.float() for key, value in load_file(file or world.judge).items()})
    return judge.eval()


@torch.no_grad()
def verdicts(judge: Judge, world: World, images: Tensor) -> list[Verdict]:
    """Judge images (B, H, W, 3) in 0..1, as ComfyUI has them."""
    labels = labels_of(world)
    names, rooms = judge(rearrange(images, "b h w c -> b c h w"))
    flat = names.flatten(2)
    results: list[Verdict] = []
    for cells, room in zip(flat, rooms, strict=True):
        high, where = cells.max(dim=1)
        here = [i for i, value in enumerate(high.tolist()) if value > SURE]
        places = {labels.names[i]: ((where[i] % 8 + 0.5).item() / 8, (where[i] // 8 + 0.5).item() / 8) for i in here}
        results.append(Verdict({labels.names[i] for i in here}, places, labels.rooms[int(room.argmax())]))
    return results


def accuracy(judge: Judge, world: World, autoencoder: Autoencoder, count: int, seed: int) -> dict[str, float]:
    """On scenes that it has not seen and that went through the autoencoder.

    objects: of the objects shown, the share found; false: of the names not shown, the share claimed; exact: scenes
    without any mistake; room: rooms named right; own: of the owners' pictures, those whose concept is found.
    """
    labels, random = labels_of(world), np.random.default_rng([world.seed, 9, seed])
    images, present, _, rooms = examples(world, labels, random, count)
    with torch.no_grad():
        names, room = judge(through(autoencoder, images))
    said = names.flatten(2).amax(2) > SURE
    truth = present > 0
    own = [user_picture(world, c, random) for c in world.concepts.values() for _ in range(5)]
    pictures = torch.from_numpy(np.stack([draw(world, scene, world.size, world.size) for scene in own])).movedim(-1, 1)
    found = verdicts(judge, world, through(autoencoder, pictures).movedim(1, -1))
    return {
        "objects": said[truth].float().mean().item(),
        "false": said[~truth].float().mean().item(),
        "exact": (said == truth).all(1).float().mean().item(),
        "room": (room.argmax(1) == rooms).float().mean().item(),
        "own": sum(s.things[0].concept in v.present for s, v in zip(own, found, strict=True)) / len(own),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="6000; 1500 where it starts from another world's")
    parser.add_argument(
        "--batch", type=int, default=64, help="of all processes together; half of it through the autoencoder"
    )
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--file", type=Path, help="else the world's own")
    args = parser.parse_args()
    rank, count = runs.join_processes()
    world, autoencoder = load_world(args.world), load_autoencoder(args.out)
    labels = labels_of(world)
    torch.manual_seed(world.seed)
    judge = Judge(labels)
    if world.model.start is not None:
        first = load_file(world.model.start.with_name("judge.safetensors"))
        judge.load_state_dict({key: v.float() for key, v in first.items() if key.startswith("features")}, strict=False)
    steps = args.steps or (6000 if world.model.start is None else 1500)
    batches = HalfDecoded(partial(examples, world, labels), autoencoder, world, seeds=(7, 8), rank=rank)

    def loss_of(step: int) -> Tensor:
        return judge_loss(judge, batches.at(step, args.batch // count // 2))  # type: ignore[arg-type]

    def report(step: int) -> None:
        if step % 1000 == 0 or step == steps:
            print(f"judge step {step}: {accuracy(judge.eval(), world, autoencoder, 512, 0)}", flush=True)
            judge.train()

    runs.train("judge", judge, optimizers(judge.named_parameters(), args.lr), loss_of, steps, args.out, report=report)
    if rank == 0:
        save_file(
            {key: value.half().contiguous() for key, value in judge.state_dict().items()}, args.file or world.judge
        )


if __name__ == "__main__":
    main()
