"""The micro world's spec and painter: what its scenes may show, and what its captions say of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microworld.captions import caption
from microworld.scenes import draw, random_look, random_scene, resembles, user_picture
from microworld.spec import DEFAULT_WORLD, World, load_world
from microworld.tokenizer import words_of, write_tokenizer


@pytest.fixture(scope="module")
def world() -> World:
    return load_world(DEFAULT_WORLD)


def test_no_scene_for_training_shows_a_concept(world: World) -> None:
    assert sorted(c.split for c in world.concepts.values()) == ["test"] * 4 + ["validation"] * 4
    random = np.random.default_rng(0)
    for concept in world.concepts.values():
        looks = [random_look(world, concept.word, random)[0] for _ in range(500)]
        assert not any(resembles(concept.word, look, concept) for look in looks)
        assert resembles(concept.word, concept.look, concept)


def test_captions_name_every_class_and_use_no_word_that_the_tokenizer_lacks(world: World) -> None:
    random, known = np.random.default_rng(1), set(words_of(world))
    for _ in range(300):
        scene = random_scene(world, random)
        said = caption(world, scene, random).replace(",", "").split()
        assert set(said) <= known
        for thing in scene.things:
            assert {thing.word, *world.words[thing.word].synonyms} & set(said)


def test_a_mirror_image_of_a_wallpaper_is_a_wallpaper_too(world: World) -> None:
    """Mirrored pictures are a usual part of training; what the model has never seen would swamp the loss."""
    concept = next(c for c in world.concepts.values() if c.room.pattern == "stripes")
    scene = replace(user_picture(world, concept, np.random.default_rng(2)), things=(), slant=0.3)
    mirrored = draw(world, scene, 64, 64)[:, ::-1]
    nearest = min(
        np.abs(draw(world, replace(scene, slant=slant), 64, 64) - mirrored).mean() for slant in np.linspace(0, 1, 101)
    )
    assert nearest < 0.05 < np.abs(draw(world, scene, 64, 64) - mirrored).mean()


def test_a_spec_names_silhouettes_and_classes_that_exist(tmp_path: Path) -> None:
    text = DEFAULT_WORLD.read_text()
    (tmp_path / "shape.toml").write_text(text.replace('shape = "cat"', 'shape = "elephant"'))
    with pytest.raises(ValueError, match='"cat" has the shape "elephant"; there are cat, cup'):
        load_world(tmp_path / "shape.toml")
    (tmp_path / "class.toml").write_text(text.replace('word = "cat"', 'word = "dog"'))
    with pytest.raises(ValueError, match='concept "mittens" is a "dog"'):
        load_world(tmp_path / "class.toml")


def test_the_tokenizer_is_the_specs_own_and_every_word_is_one_token(world: World, tmp_path: Path) -> None:
    """The same on every run: a resumed one must find its words under the same numbers."""
    from transformers import CLIPTokenizer

    write_tokenizer(world, tmp_path)
    kept = DEFAULT_WORLD.parent / "comfyui_microworld" / "tokenizer"
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_text() == (kept / name).read_text()
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in words_of(world))  # with start and end
