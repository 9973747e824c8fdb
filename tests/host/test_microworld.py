"""The trained world is what the other tests' figures rest on: it composes, and the judge can be trusted."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def world(comfyui: Path) -> Any:
    from microworld.spec import DEFAULT_WORLD, load_world

    return load_world(DEFAULT_WORLD)


def present(world: Any, loaded: tuple[Any, Any, Any], asked: list[tuple[str, ...]], seed: int) -> float:
    from microworld.evaluate import paint, phrase
    from microworld.judge import load_judge, verdicts

    images = paint(*loaded, [f"a photo of {phrase(words)}" for words in asked], seed)
    found = verdicts(load_judge(world), world, images)
    return sum(set(words) <= v.present for words, v in zip(asked, found, strict=True)) / len(asked)


def test_one_ordinary_object_is_drawn(world: Any, microworld: Any) -> None:
    assert present(world, microworld, [(word,) for word in world.classes] * 12, seed=31) >= 0.9


def test_two_ordinary_objects_are_drawn(world: Any, microworld: Any) -> None:
    pairs = list(itertools.permutations(world.classes, 2))
    assert present(world, microworld, pairs, seed=47) >= 0.65


def test_the_judge_finds_a_drawn_thing_and_no_other(world: Any, microworld: Any) -> None:
    """Scenes go through the checkpoint's own autoencoder, as ComfyUI loads it."""
    import numpy as np

    from microworld.judge import judged_scene, load_judge, verdicts
    from microworld.scenes import draw

    random = np.random.default_rng(5)
    scenes = [judged_scene(world, random) for _ in range(192)]
    images = torch.from_numpy(np.stack([draw(world, scene, world.size, world.size) for scene in scenes]))
    _, _, vae = microworld
    with torch.inference_mode():
        seen = vae.decode(vae.encode(images)).clamp(0, 1)
    shown = [{t.word for t in s.things} | {t.concept for t in s.things if t.concept} for s in scenes]
    found = [v.present for v in verdicts(load_judge(world), world, seen)]
    hits = sum(len(a & b) for a, b in zip(shown, found, strict=True))
    assert hits / sum(map(len, shown)) >= 0.93
    assert sum(len(b - a) for a, b in zip(shown, found, strict=True)) / len(scenes) <= 0.2
