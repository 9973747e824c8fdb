"""The pictures that the concepts' owners took, and those of references: files as a user would have them."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .scenes import Scene, draw, reference_picture, user_picture
from .spec import DEFAULT_WORLD, World, load_world

SIZES = [(320, 320), (384, 320), (320, 400), (400, 400), (360, 320)]  # width, height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    args = parser.parse_args()
    world = load_world(args.world)
    pictures = world.folder / "user_pictures"
    shutil.rmtree(pictures, ignore_errors=True)  # another world's concepts
    for number, concept in enumerate(world.concepts.values()):
        random = np.random.default_rng([world.seed, 5, number])
        keep(world, pictures / concept.name, lambda c=concept, r=random: user_picture(world, c, r))
    for number, reference in enumerate(world.references.values()):
        random = np.random.default_rng([world.seed, 6, number])
        keep(world, pictures / reference.name, lambda one=reference, r=random: reference_picture(world, one, r))


def keep(world: World, folder: Path, scene: Callable[[], Scene]) -> None:
    """Five pictures, of the sizes and formats that a user's folder has."""
    folder.mkdir(parents=True)
    for i, (width, height) in enumerate(SIZES):
        side = min(width, height)
        pixels = draw(world, scene(), side, side)
        image = Image.fromarray((pixels * 255).round().astype(np.uint8))
        full = Image.new("RGB", (width, height), tuple(int(c) for c in (pixels[0, 0] * 255).round()))
        full.paste(image, ((width - side) // 2, (height - side) // 2))
        name = f"{folder.name}_{i + 1}"
        if i % 2:
            full.save(folder / f"{name}.jpg", quality=90)
        else:
            full.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
