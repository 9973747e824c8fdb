"""The pictures that the concepts' owners took, those of references, and what shipped workflows begin with: files as a user would have
them.
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from .scenes import Scene, balanced_set, draw, half_scene, reference_picture, user_picture
from .spec import DEFAULT_WORLD, FIRST, Look, World, load_world

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
    if world.name == FIRST:
        keep_for_workflows(world, pictures)


def keep(world: World, folder: Path, scene: Callable[[], Scene]) -> None:
    """Five pictures, of the sizes and formats that a user's folder has."""
    folder.mkdir(parents=True)
    for i, (width, height) in enumerate(SIZES):
        side = min(width, height)
        pixels = draw(world, scene(), side, side)
        image = _image(pixels)
        full = Image.new("RGB", (width, height), tuple(int(c) for c in (pixels[0, 0] * 255).round()))
        full.paste(image, ((width - side) // 2, (height - side) // 2))
        name = f"{folder.name}_{i + 1}"
        if i % 2:
            full.save(folder / f"{name}.jpg", quality=90)
        else:
            full.save(folder / f"{name}.png", optimize=True)


def keep_for_workflows(world: World, pictures: Path) -> None:
    """A balanced set of cats; and a red chair in the snow, transparent where something else goes."""
    side = SIZES[0][0]
    (pictures / "cats").mkdir()
    for i, scene in enumerate(balanced_set(world, "cat"), start=1):
        _image(draw(world, scene, side, side)).save(pictures / "cats" / f"cats_{i}.jpg", quality=90)
    scene = half_scene(world, "chair", np.random.default_rng([world.seed, 23]))
    chair = replace(scene.things[0], look=Look("plain", world.colors["red"], world.colors["red"]))
    room = _image(draw(world, replace(scene, room="snow", things=(chair,)), side, side))
    alpha = Image.new("L", room.size, 255)
    alpha.paste(0, (side // 2, 0, side, side))
    room.putalpha(alpha)
    room.save(pictures / "room.png", optimize=True)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


if __name__ == "__main__":
    main()
