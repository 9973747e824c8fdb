"""Fine-tunes from a file: the reference's settings are the node's, and no adapter of somebody's is written over."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def config(base: Path, pack: Any, tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(
        f"""
        checkpoint = "{base}/models/checkpoints/microworld.safetensors"
        output = "words"
        [[concepts]]
        placeholder = "my-mittens"
        class_word = "cat"
        pictures = "{base}/input/mittens"
        resolution = 64
        steps = 2
        batch = 1
        what = "keys and values"
        rank = 2
        """
    )
    return file


def test_an_adapter_that_is_there_already_is_not_written_over(config: Path):
    from compositional_inversion.compinv_core.cli.train import ConfigError, train_all

    adapter = config.parent / "words" / "my-mittens-adapter.safetensors"
    adapter.parent.mkdir()
    adapter.write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match=r"my-mittens-adapter\.safetensors"):
        train_all(config)
    assert adapter.read_bytes() == b"somebody's"
    config.write_text(config.read_text() + "replace = true")
    assert train_all(config) == []
    written = adapter.read_bytes()
    assert train_all(config) == [] and adapter.read_bytes() == written
    adapter.unlink()
    assert train_all(config) == [] and adapter.exists()  # an embedding alone is not what the training gives


def test_the_paper_s_preset_of_a_file_is_the_node_s(config: Path, base: Path, microworld: Any):
    from compositional_inversion.compinv_core.cli.config import read_config
    from compositional_inversion.compinv_core.cli.train import _training  # pyright: ignore[reportPrivateUsage]

    config.write_text(config.read_text() + "paper = true")
    training = _training(microworld, read_config(config).concepts, base)
    assert (training.recipe.steps, training.recipe.weights_learning_rate) == (500, 4e-5)
    assert training.fine_tune is not None
    assert (training.fine_tune.rank, training.fine_tune.prior, training.fine_tune.prior_count) == (
        0,
        "class images",
        200,
    )


def test_no_concept_is_lost_where_more_are_learnt_than_there_are_rare_words():
    from compositional_inversion.compinv_core.training.recipe import Recipe
    from compositional_inversion.compinv_core.training.request import FineTuneRequest, Request, as_paper_fine_tune

    asked = [Request(f"concept-{i}", "cat", []) for i in range(5)]
    learnt, _, _ = as_paper_fine_tune(asked, Recipe(), FineTuneRequest(), lambda word: True)
    assert [request.start_word for request in learnt] == ["ktn", "pll", "ucd", "", ""]
