"""Two concepts in one run: on both training nodes, and on the command line with a change of the model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tunes import fine_tune, pictures_of
from safetensors import safe_open


def options(pack: Any, **changes: Any) -> Any:
    inputs = {
        "preset": "as set on the training node", "anchor_schedule": "constant", "noise_levels": "even", "rescale": False,
        "prompts": "", "second_placeholder": "zippy", "second_class_word": "car", **changes,
    }  # fmt: skip
    lists = {name: [value] for name, value in inputs.items()}
    return pack.run("CompInvTrainingOptions", second_images=pictures_of("zippy"), **lists)[0]


def test_two_concepts_are_learnt_with_one_adapter(pack: Any, microworld: Any):
    first, lora, _, _, preview, *_, second, _ = fine_tune(
        pack, microworld, pictures_of("mittens"), options=options(pack), steps=12, vectors=2
    )
    assert (first.name, first.class_word, second.name, second.class_word) == ("my-mittens", "cat", "zippy", "car")
    assert first.count == second.count == 2 and not torch.equal(first.vectors["clip_l"], second.vectors["clip_l"])
    assert preview.shape[0] == 2 and all(tensor.any() for tensor in lora.values())


def test_two_concepts_are_learnt_as_words_alone(pack: Any, microworld: Any):
    model, clip, vae = microworld
    settings = {
        "model": model, "clip": clip, "vae": vae, "placeholder": "my-mittens", "class_word": "cat", "resolution": 64,
        "steps": 12, "batch": 2, "vectors": 1, "learning_rate": 0.05, "anchor_weight": 0.1, "kind": "object", "mirror": True,
        "ignore_background": True, "seed": 0, "options": options(pack),
    }  # fmt: skip
    with torch.inference_mode():
        lists = {name: [value] for name, value in settings.items()}
        first, *_, second, _ = pack.run("CompInvTrain", images=pictures_of("mittens"), **lists)
    from compositional_inversion.compinv_core.host.text_encoder import vocabulary

    for concept in (first, second):
        start = vocabulary(clip, "clip_l").vector(concept.class_word)
        assert (concept.vectors["clip_l"] - start).norm() > 0
    assert (first.name, second.name) == ("my-mittens", "zippy")


def test_a_second_concept_needs_a_name_of_its_own(pack: Any, microworld: Any):
    for changes, sentence in (
        ({"second_placeholder": ""}, '"second_placeholder" and "second_class_word" are needed'),
        ({"second_class_word": " "}, '"second_placeholder" and "second_class_word" are needed'),
        ({"second_placeholder": "my-mittens"}, 'The placeholder "my-mittens" is given twice'),
    ):
        with pytest.raises(ValueError, match=sentence):
            fine_tune(pack, microworld, pictures_of("mittens"), options=options(pack, **changes))


@pytest.fixture
def place(base: Path, comfyui: Path, tmp_path: Path) -> Path:
    lines = ["jointly = true", f'checkpoint = "{base}/models/checkpoints/microworld.safetensors"', 'output = "files"']
    for name, word in (("mittens", "cat"), ("zippy", "car")):
        lines += [
            "[[concepts]]", f'placeholder = "my-{name}"', f'class_word = "{word}"', f'pictures = "{base}/input/{name}"',
            "resolution = 64", "steps = 4", "batch = 2", "seed = 5", "vectors = 1",
            'what = "attention"', "rank = 2", 'prior = "DCO"',
        ]  # fmt: skip
    (tmp_path / "config.toml").write_text("\n".join(lines))
    return tmp_path


def test_the_command_line_learns_two_concepts_with_one_adapter_and_minds_its_file(
    place: Path, pack: Any, capfd: pytest.CaptureFixture[str]
):
    from compositional_inversion.compinv_core.cli.config import ConfigError
    from compositional_inversion.compinv_core.cli.train import train_all

    config = place / "config.toml"
    assert train_all(config) == []
    files = {file.name: file for file in (place / "files").iterdir()}
    adapter = files["my-mittens+my-zippy-adapter.safetensors"]
    assert set(files) == {"my-mittens.safetensors", "my-zippy.safetensors", adapter.name}
    runs = set[str]()
    for file in files.values():
        with safe_open(file, framework="pt") as opened:
            runs.add(opened.metadata()["run"])
    assert len(runs) == 1
    learnt = adapter.read_bytes()
    adapter.write_bytes(b"the user's own")
    with pytest.raises(ConfigError, match=re.escape(f'The adapter "{adapter.name}" exists already')):
        train_all(config)
    adapter.unlink()  # what is left of a training is no whole one
    config.write_text(config.read_text().replace("seed = 5", "seed = 5\nreplace = true"))
    assert train_all(config) == [] and adapter.read_bytes() == learnt
    capfd.readouterr()
    assert train_all(config) == [] and "learnt already" in capfd.readouterr().err


def test_the_papers_preset_of_the_command_line_is_the_nodes(place: Path, pack: Any, microworld: Any):
    """Custom Diffusion: each matrix in full, class images, and, of two concepts, half the batch."""
    from compositional_inversion.compinv_core.cli.config import read_config
    from compositional_inversion.compinv_core.cli.train import _training

    text = (place / "config.toml").read_text().replace('what = "attention"', 'paper = true\nwhat = "keys and values"')
    (place / "config.toml").write_text(text)
    run = _training(microworld, read_config(place / "config.toml").concepts, place)
    assert (run.fine_tune.rank, run.fine_tune.prior, run.fine_tune.prior_count) == (0, "class images", 200)
    assert (run.recipe.steps, run.recipe.batch, run.recipe.weights_learning_rate) == (500, 1, 2e-5)
