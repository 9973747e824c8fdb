"""The micro worlds' specs and painter: what their scenes may show, and what their captions say of them."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microworld.captions import caption
from microworld.scenes import (
    Scene,
    Thing,
    alike,
    draw,
    draw_room,
    random_look,
    random_room,
    random_scene,
    resembles,
    user_picture,
)
from microworld.spec import DEFAULT_WORLD, Look, World, load_world
from microworld.tokenizer import words_of, write_text_encoder

SECOND = DEFAULT_WORLD.parent / "second.toml"


@pytest.fixture(scope="module", params=[DEFAULT_WORLD, SECOND], ids=["first", "second"])
def world(request: pytest.FixtureRequest) -> World:
    return load_world(request.param)


def test_settings_are_chosen_on_half_of_the_first_worlds_concepts() -> None:
    first, second = load_world(DEFAULT_WORLD), load_world(SECOND)
    assert sorted(c.split for c in first.concepts.values()) == ["test"] * 4 + ["validation"] * 4
    assert [c.split for c in second.concepts.values()] == ["test"] * 8


def test_the_worlds_share_no_thing_no_pattern_and_no_place_and_each_has_its_own_folders() -> None:
    first, second = load_world(DEFAULT_WORLD), load_world(SECOND)
    for mine, other in ((first.words, second.words), (first.concepts, second.concepts)):
        assert not mine.keys() & other.keys()
    assert first.patterns.keys() & second.patterns.keys() == {"plain"}
    assert first.rooms.keys() & second.rooms.keys() == {"wall", "wallpaper"}
    assert (first.model.width, first.model.prediction) == (96, "epsilon")
    assert (second.model.width, second.model.prediction) == (128, "v")
    assert first.checkpoint == DEFAULT_WORLD.parent / "microworld.safetensors" == second.model.start
    assert second.checkpoint == DEFAULT_WORLD.parent / "second" / "second.safetensors"


def test_a_concepts_colour_lies_between_those_that_have_names(world: World) -> None:
    for concept in world.concepts.values():
        assert not any(alike(concept.look.primary, color) for color in world.colors.values())


def test_no_scene_for_training_shows_a_concept(world: World) -> None:
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
    for pattern in world.scenes["wallpapers"]:
        concept = next(c for c in world.concepts.values() if c.room.pattern == pattern)
        scene = replace(user_picture(world, concept, np.random.default_rng(2)), things=(), slant=0.3)
        mirrored = draw(world, scene, 64, 64)[:, ::-1]
        slants = np.linspace(0, 1, 101)
        nearest = min(np.abs(draw(world, replace(scene, slant=s), 64, 64) - mirrored).mean() for s in slants)
        assert nearest < 0.05
        leans = np.abs(draw(world, scene, 64, 64) - mirrored).mean() > 0.05
        assert leans == (pattern in ("stripes", "checks"))


def test_every_silhouette_pattern_and_room_is_a_picture_of_its_own(world: World) -> None:
    random = np.random.default_rng(4)
    room = replace(random_room(world, random), room="wall", slant=0.5)
    red, blue = (0.0, 0.9, 0.9), (240.0, 0.9, 0.9)

    def thing(word: str, pattern: str) -> Scene:
        return replace(room, things=(Thing(word, Look(pattern, red, blue), 0.5, 0.5, 0.4, 0, False),))

    pictures = [draw(world, thing(word, "plain"), 64, 64) for word in world.words]
    pictures += [draw(world, thing(word, p), 64, 64) for word in world.words for p in world.patterns if p != "plain"]
    pictures += [draw(world, replace(room, room=kind), 64, 64) for kind in world.rooms]
    for a, b in itertools.combinations(pictures, 2):
        assert np.abs(a - b).mean() > 0.01


def test_a_room_that_the_painter_does_not_know_is_named(world: World) -> None:
    with pytest.raises(ValueError, match='There is no room "cellar"'):
        draw_room(replace(random_room(world, np.random.default_rng(0)), room="cellar"), 8, 8)


def test_a_spec_names_silhouettes_and_classes_that_exist(tmp_path: Path) -> None:
    text = DEFAULT_WORLD.read_text()
    (tmp_path / "shape.toml").write_text(text.replace('shape = "cat"', 'shape = "elephant"'))
    with pytest.raises(ValueError, match='"cat" has the shape "elephant"; there are cat, cup'):
        load_world(tmp_path / "shape.toml")
    (tmp_path / "class.toml").write_text(text.replace('word = "cat"', 'word = "dog"'))
    with pytest.raises(ValueError, match='concept "mittens" is a "dog"'):
        load_world(tmp_path / "class.toml")
    (tmp_path / "prediction.toml").write_text(text.replace('prediction = "epsilon"', 'prediction = "x0"'))
    with pytest.raises(ValueError, match='the prediction is "x0"; there are epsilon, v'):
        load_world(tmp_path / "prediction.toml")
    (tmp_path / "width.toml").write_text(text.replace("width = 96", "width = 90"))
    with pytest.raises(ValueError, match="the width is 90, which is no multiple of 4"):
        load_world(tmp_path / "width.toml")


def test_the_tokenizer_is_the_specs_own_and_every_word_is_one_token(world: World, tmp_path: Path) -> None:
    """The same on every run: a resumed one must find its words under the same numbers."""
    from transformers import CLIPTokenizer

    write_text_encoder(world, tmp_path)
    for name in ("tokenizer/vocab.json", "tokenizer/merges.txt", "text_encoder.json"):
        assert (tmp_path / name).read_text() == (world.host_folder / name).read_text()
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in words_of(world))  # with start and end
