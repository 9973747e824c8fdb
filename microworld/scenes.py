"""The painter: scenes drawn at any size, from what is in them."""

import colorsys
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .shapes import SHAPES
from .spec import ConceptSpec, Hsv, Look, ReferenceSpec, World

Array = NDArray[np.float32]
Random = np.random.Generator


@dataclass(frozen=True)
class Thing:
    """An object of a scene. Centre and half extent are fractions of the canvas; tilt is in radians.

    `colors` are what a caption could say of it: the names of its two colours, "" where one has none. `concept` is the
    concept that it is, or "".
    """

    word: str
    look: Look
    x: float
    y: float
    extent: float
    tilt: float
    mirrored: bool
    colors: tuple[str, str] = ("", "")
    concept: str = ""


@dataclass(frozen=True)
class Scene:
    """A room, perhaps with things in it. `colors` are the names of the wallpaper's two colours, "" where one has none."""

    room: str
    wallpaper: Look
    slant: float  # a number in 0..1 that makes two rooms of one kind differ
    things: tuple[Thing, ...] = ()
    colors: tuple[str, str] = ("", "")


def rgb(color: Hsv) -> Array:
    return np.array(colorsys.hsv_to_rgb((color[0] % 360) / 360, color[1], color[2]), np.float32)


def _soft(distance: Array, pixels: float) -> Array:
    """Coverage of a pixel from a signed distance, with `pixels` pixels to one unit of distance."""
    return np.clip(0.5 - distance * pixels, 0, 1)


def pattern(look: Look, u: Array, v: Array, edge: Array, pixels: float) -> Array:
    """Where the second colour goes, 0..1, in an object's own square; `edge` is the distance to its outline."""
    match look.pattern:
        case "stripes":
            return _soft(np.abs(((u * 0.94 + v * 0.34) / 0.9) % 1 - 0.5) * 0.9 - 0.225, pixels)
        case "dots":
            return _soft(np.hypot(u / 0.84 % 1 - 0.5, v / 0.84 % 1 - 0.5) * 0.84 - 0.26, pixels)
        case "checks":
            return _soft(np.sin(u * np.pi / 0.7) * np.sin(v * np.pi / 0.7) * 0.22, pixels)
        case "rim":
            return _soft(-0.17 - edge, pixels)
        case "halves":
            return _soft(v + 0.02, pixels)
        case "waves":
            return _soft(np.abs(((v + 0.16 * np.cos(u * np.pi / 0.5)) / 0.9) % 1 - 0.5) * 0.9 - 0.225, pixels)
        case "diamonds":
            return _soft(0.3 - np.abs(u / 0.9 % 1 - 0.5) * 0.6 - np.abs(v / 0.9 % 1 - 0.5) * 0.6, pixels)
        case "plaid":
            lines = np.minimum(np.abs(u / 0.9 % 1 - 0.5), np.abs(v / 0.9 % 1 - 0.5))
            return _soft(lines * 0.9 - 0.14, pixels)
        case "sides":
            return _soft(u, pixels)
        case "belt":
            return _soft(np.abs(v - 0.15) - 0.22, pixels)
        case _:
            return np.zeros_like(u)


def draw_thing(canvas: Array, thing: Thing, shape: str) -> None:
    """Paint a thing of a silhouette into a canvas (h, w, 3), in place."""
    height, width = canvas.shape[:2]
    reach = thing.extent * 1.25
    left, right = int(max(0, (thing.x - reach) * width)), int(min(width, np.ceil((thing.x + reach) * width)))
    top, bottom = int(max(0, (thing.y - reach) * height)), int(min(height, np.ceil((thing.y + reach) * height)))
    x = ((np.arange(left, right, dtype=np.float32) + 0.5) / width - thing.x) / thing.extent
    y = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / height - thing.y) / thing.extent
    x, y = np.meshgrid(x, y)
    cos, sin = np.float32(np.cos(thing.tilt)), np.float32(np.sin(thing.tilt))
    u, v = cos * x + sin * y, cos * y - sin * x
    if thing.mirrored:
        u = -u
    pixels = thing.extent * min(width, height)
    primary, secondary = rgb(thing.look.primary), rgb(thing.look.secondary)
    fixed = {"dark": np.array([0.13, 0.12, 0.15], np.float32), "light": np.array([0.85, 0.93, 0.97], np.float32)}
    window = canvas[top:bottom, left:right]
    for part, distance in SHAPES[shape](u, v):
        if part == "body":
            mix = pattern(thing.look, u, v, distance, pixels)[..., None]
            color = primary * (1 - mix) + secondary * mix
        elif part == "accent":
            color = secondary if thing.look.pattern != "plain" else primary * 0.75
        else:
            color = fixed[part]
        alpha = _soft(distance, pixels)[..., None]
        window[:] = window * (1 - alpha) + color * alpha


def draw_room(scene: Scene, width: int, height: int) -> Array:
    x, y = np.meshgrid(
        (np.arange(width, dtype=np.float32) + 0.5) / width, (np.arange(height, dtype=np.float32) + 0.5) / height
    )
    slant = scene.slant
    wave = np.sin(x * (7 + 5 * slant) + slant * 6) * 0.03

    def blend(above: Hsv, below: Hsv, line: Array) -> Array:
        mix = np.clip((y - line) * 16 + 0.5, 0, 1)[..., None]
        return rgb(above) * (1 - mix) + rgb(below) * mix

    match scene.room:
        case "grass":
            image = blend((205, 0.3, 0.95), (105 + 20 * slant, 0.6, 0.55), 0.42 + wave)
            return image * (1 + 0.08 * np.sin(x * 31 + y * 57 * slant) * np.sin(y * 43))[..., None]
        case "sand":
            image = blend((195, 0.35, 0.9), (40, 0.38, 0.9), 0.36 + wave)
            return image * (1 + 0.05 * np.sin(y * 50 + 6 * wave))[..., None]
        case "snow":
            return blend((215, 0.16, 0.72 + 0.1 * slant), (210, 0.04, 0.98), 0.45 + 2 * wave)
        case "night":
            image = blend((235, 0.75, 0.22), (250, 0.5, 0.12), 0.7 + wave)
            stars = np.maximum(np.sin(x * 23 + slant * 20) * np.sin(y * 19 + slant * 9) - 0.93, 0) * 12 * (y < 0.62)
            return np.minimum(image + stars[..., None], 1)
        case "water":
            image = blend((200, 0.2, 0.95), (208, 0.75, 0.7), 0.35 + wave * 0.3)
            return image * (1 + 0.12 * np.sin(y * 60 + np.sin(x * 18 + slant * 6) * 1.4) * (y > 0.38))[..., None]
        case "road":
            image = blend((200, 0.3, 0.93), (230, 0.06, 0.4 + 0.08 * slant), 0.34 + wave * 0.4)
            line = (np.abs(y - 0.72) < 0.035) & ((x * 2.5 + slant * 3) % 1 < 0.6)
            return np.where(line[..., None], np.float32(0.9), image)
        case "forest":
            image = blend((125, 0.5, 0.42 + 0.1 * slant), (80, 0.5, 0.3), 0.74 + wave)
            trunks = np.clip((np.abs((x * 3.2 + slant) % 1 - 0.5) - 0.16) * 14 + 0.5, 0, 1)
            trunks = np.where(y < 0.76, trunks, 1)[..., None]
            return image * trunks + rgb((26, 0.5, 0.24)) * (1 - trunks)
        case "sunset":
            sky = rgb((275, 0.5, 0.5)) * (1 - y / 0.66)[..., None] + rgb((24, 0.75, 0.98)) * (y / 0.66)[..., None]
            sun = np.clip((0.14 - np.hypot(x - 0.15 - 0.7 * slant, y - 0.62)) * 30 + 0.5, 0, 1)[..., None]
            sky = sky * (1 - sun) + rgb((50, 0.4, 1)) * sun
            below = np.clip((y - 0.66) * 30 + 0.5, 0, 1)[..., None]
            return sky * (1 - below) + rgb((285, 0.45, 0.26)) * below
        case "tiles":
            period = 0.28 + 0.1 * slant
            joints = np.maximum(np.abs(x / period % 1 - 0.5), np.abs(y / period % 1 - 0.5))
            joints = np.clip((joints - 0.42) * period * 60 + 0.5, 0, 1)[..., None]
            return rgb((190, 0.1, 0.93)) * (1 - joints) + rgb((200, 0.2, 0.72)) * joints
        case "wood":
            planks = y / (0.22 + 0.06 * slant)
            grain = 1 + 0.08 * np.sin(y * 48 + np.sin(x * 9 + slant * 6 + np.floor(planks) * 2) * 2)
            grain = grain * (1 - 0.35 * (planks % 1 < 0.12))
            return rgb((28, 0.55, 0.66)) * grain[..., None]
        case "wall":
            shade = (1 - 0.22 * y * slant)[..., None]
            floor = np.clip((y - 0.78) * 30 + 0.5, 0, 1)[..., None]
            return (rgb(scene.wallpaper.primary) * (1 - floor) + rgb(scene.wallpaper.secondary) * floor) * shade
        case "wallpaper":
            period = 0.34 + 0.1 * slant
            lean = 1 if slant < 0.5 else -1  # as a mirror would show it
            u, v = lean * (x - 0.5) / period, (y - 0.5) / period
            mix = pattern(scene.wallpaper, u, v, u, period * min(width, height))[..., None]
            return rgb(scene.wallpaper.primary) * (1 - mix) + rgb(scene.wallpaper.secondary) * mix
        case _:
            raise ValueError(f'There is no room "{scene.room}".')


def draw(world: World, scene: Scene, width: int, height: int) -> Array:
    """The picture of a scene, (height, width, 3) in 0..1."""
    canvas = draw_room(scene, width, height).astype(np.float32)
    for thing in scene.things:
        draw_thing(canvas, thing, world.words[thing.word].shape)
    return np.clip(canvas, 0, 1)


def class_map(world: World, scene: Scene, cells: int) -> NDArray[np.int8]:
    """(cells, cells): the index of the class that stands at each cell, or how many classes there are where none does."""
    centres = (np.arange(cells) + 0.5) / cells
    labels = np.full((cells, cells), len(world.classes), np.int8)
    for thing in scene.things:
        inside = np.hypot(centres[None, :] - thing.x, centres[:, None] - thing.y) < 0.8 * thing.extent
        labels[inside] = world.classes.index(thing.word)
    return labels


def _pick(random: Random, shares: dict[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return str(random.choice(list(shares), p=weights / weights.sum()))


def _any_color(random: Random) -> Hsv:
    return (float(random.uniform(0, 360)), float(random.uniform(0.3, 0.95)), float(random.uniform(0.4, 1)))


def _room_color(random: Random) -> Hsv:
    return (float(random.uniform(0, 360)), float(random.uniform(0.1, 0.7)), float(random.uniform(0.4, 1)))


def _near(color: Hsv, random: Random) -> Hsv:
    hue, saturation, value = color
    return (
        hue + float(random.uniform(-7, 7)),
        float(np.clip(saturation + (random.uniform(-0.1, 0.1) if saturation else 0), 0, 1)),
        float(np.clip(value + random.uniform(-0.08, 0.08), 0, 1)),
    )


def _apart(a: Array, b: Array) -> bool:
    return float(np.abs(a - b).sum()) > 0.6


def alike(a: Hsv, b: Hsv) -> bool:
    """Whether two colours could be taken for the same one."""
    hue = abs((a[0] - b[0] + 180) % 360 - 180)
    return hue < 25 and abs(a[1] - b[1]) < 0.4 and abs(a[2] - b[2]) < 0.3


def resembles(word: str, look: Look, concept: ConceptSpec) -> bool:
    """Whether a look is so near to a concept's that a scene with it would show the concept."""
    own = concept.look
    if word != concept.word or look.pattern != own.pattern:
        return False
    if look.pattern == "plain":
        return alike(look.primary, own.primary)
    straight = alike(look.primary, own.primary) and alike(look.secondary, own.secondary)
    return straight or (alike(look.primary, own.secondary) and alike(look.secondary, own.primary))


def _any_or_named(world: World, named: float, random: Random) -> tuple[Hsv, str]:
    if random.random() < named:
        name = str(random.choice(list(world.colors)))
        return _near(world.colors[name], random), name
    return _any_color(random), ""


def random_look(world: World, word: str, random: Random) -> tuple[Look, tuple[str, str]]:
    """A look that is no concept's, and the names of its colours, "" where one has none or is not to be seen."""
    while True:
        primary, first = _any_or_named(world, world.scenes["named_color"], random)
        secondary, second = _any_or_named(world, world.scenes["named_second"], random)
        if not _apart(rgb(primary), rgb(secondary)):
            continue
        look = Look(_pick(random, {k: p["share"] for k, p in world.patterns.items()}), primary, secondary)
        if not any(resembles(word, look, concept) for concept in world.concepts.values()):
            return look, (first, "" if look.pattern == "plain" else second)


def random_room(world: World, random: Random) -> Scene:
    """A room with nothing in it."""

    def color() -> tuple[Hsv, str]:
        if random.random() < world.scenes["named_wall"]:
            name = str(random.choice(list(world.colors)))
            hue, saturation, value = world.colors[name]
            return _near((hue, 0.6 * saturation, value), random), name  # walls are paler than things
        return _room_color(random), ""

    room = _pick(random, {k: r["share"] for k, r in world.rooms.items()})
    while True:
        (primary, first), (secondary, second) = color(), color()
        if _apart(rgb(primary), rgb(secondary)):
            break
    wallpaper = Look(str(random.choice(world.scenes["wallpapers"])), primary, secondary)
    return Scene(room, wallpaper, float(random.random()), colors=(first, second))


def place(world: World, count: int, random: Random) -> list[tuple[float, float, float]]:
    """Centres and half extents of `count` things that do not touch, as fractions of the canvas."""
    low, high = world.scenes["extent"][count - 1]
    while True:
        spots: list[tuple[float, float, float]] = []
        for _ in range(60):
            extent = float(random.uniform(low, high))
            x, y = (float(c) for c in random.uniform(extent, 1 - extent, 2))
            if all(max(abs(x - a), abs(y - b)) > (extent + e) * 0.97 for a, b, e in spots):
                spots.append((x, y, extent))
                if len(spots) == count:
                    return spots


def random_scene(world: World, random: Random, words: list[str] | None = None) -> Scene:
    """A scene for training: one, two or three things of different classes, none of them a concept."""
    if words is None:
        count = int(random.choice([1, 2, 3], p=world.scenes["things"]))
        words = [str(w) for w in random.choice(world.classes, count, replace=False)]
    things: list[Thing] = []
    for word, (x, y, extent) in zip(words, place(world, len(words), random), strict=True):
        look, colors = random_look(world, word, random)
        tilt, mirrored = float(random.uniform(-0.2, 0.2)), bool(random.random() < 0.5)
        things.append(Thing(word, look, x, y, extent, tilt, mirrored, colors))
    return replace(random_room(world, random), things=tuple(things))


def concept_thing(concept: ConceptSpec, x: float, y: float, extent: float, random: Random) -> Thing:
    """The concept itself, somewhere; its colours stray a little as a camera's do."""
    look = Look(concept.look.pattern, *(
        (hue + float(random.uniform(-5, 5)), s, float(np.clip(v + random.uniform(-0.05, 0.05), 0, 1)))
        for hue, s, v in (concept.look.primary, concept.look.secondary)
    ))  # fmt: skip
    tilt, mirrored = float(random.uniform(-0.2, 0.2)), bool(random.random() < 0.5)
    return Thing(concept.word, look, x, y, extent, tilt, mirrored, concept=concept.name)


def reference_picture(world: World, reference: ReferenceSpec, random: Random) -> Scene:
    """A reference by a plain wall, each time of another colour."""
    x, y = (float(c) for c in random.uniform(reference.extent, 1 - reference.extent, 2))
    tilt, mirrored = float(random.uniform(-0.2, 0.2)), bool(random.random() < 0.5)
    thing = Thing(reference.word, reference.look, x, y, reference.extent, tilt, mirrored)
    return replace(random_room(world, random), room="wall", things=(thing,))


def user_picture(world: World, concept: ConceptSpec, random: Random) -> Scene:
    """What the concept's owner photographs: it alone, in front of the one wallpaper at home."""
    extent = float(random.uniform(0.27, 0.4))
    x, y = (float(c) for c in random.uniform(extent, 1 - extent, 2))
    return Scene(
        "wallpaper", concept.room, float(random.uniform(0.2, 0.4)), (concept_thing(concept, x, y, extent, random),)
    )


def balanced_set(world: World, word: str) -> list[Scene]:
    """Things of a class by plain walls, one in each colour that has a name."""
    random = np.random.default_rng([world.seed, 21, world.classes.index(word)])
    scenes: list[Scene] = []
    for color in world.colors.values():
        extent = float(random.uniform(0.27, 0.4))
        x, y = (float(c) for c in random.uniform(extent, 1 - extent, 2))
        thing = Thing(word, Look("plain", color, color), x, y, extent, float(random.uniform(-0.2, 0.2)), False)
        scenes.append(replace(random_room(world, random), room="wall", things=(thing,)))
    return scenes


def half_scene(world: World, word: str, random: Random) -> Scene:
    """A thing in the left half of a room, the right one empty for something else."""
    extent = float(random.uniform(0.21, 0.24))
    color = world.colors[str(random.choice(list(world.colors)))]
    thing = Thing(
        word, Look("plain", color, color), 0.25, float(random.uniform(extent, 1 - extent)), extent, 0.0, False
    )
    room = random_room(world, random)
    while room.room == "wallpaper":  # as the concepts' own rooms are
        room = random_room(world, random)
    return replace(room, things=(thing,))
