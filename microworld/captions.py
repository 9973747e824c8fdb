"""What a scene's caption says: the class of each thing, and only sometimes a colour, a pattern, a size or the room."""

import numpy as np

from .scenes import Scene, Thing
from .spec import World

Random = np.random.Generator


def describe(world: World, thing: Thing, random: Random) -> str:
    """Words for one thing, without an article: "red striped cat", or "red blue striped cat" of a look in two colours."""
    says = world.scenes
    words: list[str] = []
    first, second = thing.colors
    if first and random.random() < says["says_color"]:
        words.append(first)
        if second and random.random() < says["says_second"]:
            words.append(second)
    pattern = world.patterns[thing.look.pattern]["word"]
    if pattern and random.random() < says["says_pattern"]:
        words.append(pattern)
    synonyms = world.words[thing.word].synonyms
    words.append(str(random.choice(synonyms)) if synonyms and random.random() < says["says_synonym"] else thing.word)
    return " ".join(words)


def describe_room(world: World, scene: Scene, random: Random) -> str:
    """Words for a room: "on grass", or "on pink dotted wallpaper"."""
    says = world.scenes["says_wall"]
    words: list[str] = []
    first, second = scene.colors
    if first and random.random() < says:
        words.append(first)
        if second and scene.room == "wallpaper" and random.random() < says:
            words.append(second)
    if scene.room == "wallpaper" and random.random() < says:
        words.append(world.patterns[scene.wallpaper.pattern]["word"])
    return " ".join(world.rooms[scene.room]["phrase"].format(" ".join(words)).split())


def caption(world: World, scene: Scene, random: Random) -> str:
    says, forms = world.scenes, world.captions
    things = [scene.things[i] for i in random.permutation(len(scene.things))]
    texts: list[str] = []
    for thing in things:
        text = describe(world, thing, random)
        article = str(random.choice(forms["articles"]))
        if article == "a" and text[0] in "aeiou":
            article = "an"
        texts.append(f"{article} {text}")
    template = str(random.choice(forms["templates"]))
    if len(things) == 1 and random.random() < says["says_size"]:
        low, high = says["extent"][0]
        size = (things[0].extent - low) / (high - low)
        if size > 0.75:
            template = str(random.choice(forms["large"]))
        elif size < 0.25:
            template = str(random.choice(forms["small"]))
    if "a very small {}" in template:
        texts[0] = texts[0].split(" ", 1)[1]
    joint = str(random.choice(forms["joints"]))
    phrase = f" {joint} ".join(texts[-2:])
    if len(texts) == 3:
        phrase = f"{texts[0]}, {phrase}"
    text = template.format(phrase)
    if random.random() < says["says_room"]:
        text = f"{text} {describe_room(world, scene, random)}"
    return text
