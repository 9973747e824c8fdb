"""The training of a layout predictor, from a model that is made up: what was recovered is stored, and gone on from."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from compositional_inversion.compinv_core.layout import predictor
from compositional_inversion.compinv_core.layout.predictor import LayoutPredictor
from compositional_inversion.compinv_core.layout.predictor_training import (
    PredictorTraining,
    Recovered,
    known_categories,
    train_predictor,
)
from compositional_inversion.compinv_core.layout.regions import Box, Layout, Region
from torch import Tensor

REQUEST = PredictorTraining(prompts=30, resolution=64, seed=7)
WORDS = ("cat", "car", "kite", "dog", "cup", "boat")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learnt is another test's."""
    monkeypatch.setattr(predictor, "STEPS", 2)


class Stopped(Exception):
    pass


@dataclass
class Source:
    """Things stand side by side, in the prompt's order; each word has a row of its own."""

    model: str = "made up"
    words: tuple[str, ...] = WORDS
    seeds: list[int] = field(default_factory=list)

    def recover(self, text: str, subjects: tuple[str, ...], seed: int) -> Recovered:
        self.seeds.append(seed)
        count = len(subjects)
        regions = [Region(name, Box(i / count, 0.2, (i + 1) / count, 0.8)) for i, name in enumerate(subjects)]
        return Layout(tuple(regions), "attention"), torch.ones(count, 8, 8), None

    def rows(self, text: str, subjects: tuple[str, ...]) -> Tensor:
        return torch.stack([torch.eye(len(WORDS))[WORDS.index(name)] for name in subjects])


def train(source: Source, file: Path, stop_after: int = 1000) -> LayoutPredictor:
    done: list[int] = []

    def stop_if_asked() -> None:
        if len(done) == stop_after:
            raise Stopped

    return train_predictor(
        source, REQUEST, file, stop_if_asked=stop_if_asked, on_recovery=lambda number, *_: done.append(number)
    )


def test_a_training_that_was_stopped_goes_on_to_the_same_predictor(tmp_path: Path):
    whole = train(Source(), tmp_path / "whole.json")
    source = Source()
    with pytest.raises(Stopped):
        train(source, tmp_path / "parts.json", stop_after=10)
    assert source.seeds == list(range(7, 17))
    parts = train(source, tmp_path / "parts.json")
    assert source.seeds == list(range(7, 37))  # none twice
    assert parts.provenance == whole.provenance
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, parts.network.state_dict()[name])


@pytest.mark.parametrize(
    "text",
    [
        "[[[0.1",
        "5",
        '["cat"]',
        "[[[0, 0, 1]]]",
        "[[[0, 0, 1, 9]]]",
        "[[]]",
        "[" * 10**5,
        "[" + "null, " * 2**22 + "null]",
    ],
)
def test_recoveries_that_cannot_be_read_begin_anew(tmp_path: Path, text: str):
    source, file = Source(), tmp_path / "damaged.json"
    file.write_text(text)
    train(source, file)
    assert len(source.seeds) == 30


def test_categories_are_those_that_every_text_encoder_knows():
    known = [{"cat", "dog", "teddy", "bear", "car"}, {"cat", "dog", "teddy", "bear"}]
    assert set(known_categories(known)) == {"cat", "dog", "teddy bear", "bear"}
    with pytest.raises(ValueError, match="fewer than 3"):
        known_categories([{"cat", "dog"}])
