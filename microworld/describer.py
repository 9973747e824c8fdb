"""The describer: what a thing that the judge found looks like, the pattern that it wears and its size.

The judge's network with other heads, started from it. It learns from the generator's scenes; half of them went through the
autoencoder, for so will what it describes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
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
from .judge import HalfDecoded, Judge, labels_of, through
from .optim import optimizers
from .scenes import draw, random_scene
from .spec import DEFAULT_WORLD, World, load_world


class Describer(nn.Module):
    """(B, 3, 64, 64) in 0..1 -> of each cell (B, P + 1, 8, 8): logits of the patterns, and half the extent."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.features = Judge(labels_of(world)).features
        self.hidden = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.SiLU())
        self.heads = nn.Conv2d(128, len(world.patterns) + 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(self.hidden(self.features(images - 0.5)))


@dataclass(frozen=True)
class Described:
    """How a thing looks.

    Attributes:
        pattern: one of the world's.
        extent: half its size, as a fraction of the canvas.
    """

    pattern: str
    extent: float


Example = tuple[Tensor, Tensor, Tensor, Tensor]
"""Images (B, 3, H, W); of the first thing of each its cell (B,), pattern (B,) and extent (B,)."""


def examples(world: World, random: np.random.Generator, count: int) -> Example:
    patterns = list(world.patterns)
    images, cells, worn, extents = [], [], [], []
    for _ in range(count):
        scene = random_scene(world, random)
        thing = scene.things[0]
        images.append(draw(world, scene, world.size, world.size))
        cells.append(min(7, int(thing.y * 8)) * 8 + min(7, int(thing.x * 8)))
        worn.append(patterns.index(thing.look.pattern))
        extents.append(thing.extent)
    pixels = rearrange(torch.from_numpy(np.stack(images)), "b h w c -> b c h w")
    return pixels, torch.tensor(cells), torch.tensor(worn), torch.tensor(extents)


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """(B, C) of maps (B, C, 8, 8)."""
    return maps.flatten(2)[torch.arange(len(maps)), :, cells]


def loss_of_example(describer: Describer, example: Example) -> Tensor:
    images, cells, worn, extents = example
    said = at_cells(describer(images), cells)
    return 0.2 * F.cross_entropy(said[:, :-1], worn) + 50 * (said[:, -1] - extents).square().mean()


def load_describer(world: World) -> Describer:
    describer = Describer(world)
    describer.load_state_dict({key: value.float() for key, value in load_file(world.describer).items()})
    return describer.eval()


@torch.no_grad()
def describe_things(
    describer: Describer, world: World, images: Tensor, places: Sequence[tuple[float, float] | None]
) -> list[Described | None]:
    """Of images (B, H, W, 3) in 0..1, what is at a place (x, y) in 0..1 of each; None where there is none."""
    patterns = list(world.patterns)
    maps = describer(rearrange(images, "b h w c -> b c h w"))
    result: list[Described | None] = []
    for said, place in zip(maps, places, strict=True):
        if place is None:
            result.append(None)
            continue
        x, y = place
        values = said[:, min(7, int(y * 8)), min(7, int(x * 8))]
        result.append(Described(patterns[int(values[:-1].argmax())], values[-1].item()))
    return result


def accuracy(describer: Describer, world: World, autoencoder: Autoencoder, count: int, seed: int) -> dict[str, float]:
    """Of the first things of scenes that it has not seen and that went through the autoencoder.

    pattern: the share named right. extent: the root of the mean squared error, as a fraction of the canvas.
    """
    images, cells, worn, extents = examples(world, np.random.default_rng([world.seed, 12, seed]), count)
    places = [((cell % 8 + 0.5) / 8, (cell // 8 + 0.5) / 8) for cell in cells.tolist()]
    found = describe_things(describer, world, rearrange(through(autoencoder, images), "b c h w -> b h w c"), places)
    patterns = list(world.patterns)
    pairs = [(said, patterns[w], e) for said, w, e in zip(found, worn.tolist(), extents.tolist(), strict=True) if said]
    return {
        "pattern": float(np.mean([said.pattern == pattern for said, pattern, _ in pairs])),
        "extent": float(np.sqrt(np.mean([(said.extent - extent) ** 2 for said, _, extent in pairs]))),
    }


def world_autoencoder(world: World) -> Autoencoder:
    autoencoder = Autoencoder()
    autoencoder.take_over(world.checkpoint)
    return autoencoder.to(memory_format=torch.channels_last).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument(
        "--batch", type=int, default=64, help="of all processes together; half of it through the autoencoder"
    )
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    rank, count = runs.join_processes()
    world = load_world(args.world)
    autoencoder = world_autoencoder(world)
    torch.manual_seed(world.seed)
    describer = Describer(world)
    judge = load_file(world.judge)
    describer.features.load_state_dict(
        {key.removeprefix("features."): v.float() for key, v in judge.items() if key.startswith("features.")}
    )
    batches = HalfDecoded(partial(examples, world), autoencoder, world, seeds=(10, 11), rank=rank)

    def loss_of(step: int) -> Tensor:
        return loss_of_example(describer, batches.at(step, args.batch // count // 2))  # type: ignore[arg-type]

    def report(step: int) -> None:
        if step % 1000 == 0 or step == args.steps:
            print(f"describer step {step}: {accuracy(describer.eval(), world, autoencoder, 512, 0)}", flush=True)
            describer.train()

    runs.train(
        "describer",
        describer,
        optimizers(describer.named_parameters(), args.lr),
        loss_of,
        args.steps,
        args.out,
        report=report,
    )
    if rank == 0:
        save_file({key: value.half().contiguous() for key, value in describer.state_dict().items()}, world.describer)


if __name__ == "__main__":
    main()
