"""The layout predictor: any number of subjects, boxes that are always valid and apart, and a file that is ours."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.layout.predictor import (
    FORMAT,
    BoxPredictor,
    Example,
    LayoutPredictor,
    Provenance,
    in_order,
    learn,
    read_predictor,
    write_predictor,
)
from compositional_inversion.compinv_core.prompts.templates import prompts_about
from safetensors.torch import save_file

WIDTH = 12
WORDS = {name: torch.randn(WIDTH, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("abcdefgh")}


def untrained(width: int = WIDTH, size: float = 1.0) -> LayoutPredictor:
    torch.manual_seed(0)
    network = BoxPredictor(width).eval()
    for parameter in network.parameters():
        parameter.data *= size
    return LayoutPredictor(network, Provenance("mine", 9, 2, 0.3, 0.2))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Pairs that stand side by side, in either order; of the words a to d, things are low and wide, of the others tall."""

    def box(word: str, left: float) -> list[float]:
        return [left, 0.6, left + 0.4, 0.9] if word in "abcd" else [left + 0.1, 0.1, left + 0.3, 0.9]

    found: list[Example] = []
    for i, (one, two) in enumerate(combinations(WORDS, 2)):
        places = (0.05, 0.55) if i % 2 else (0.55, 0.05)
        boxes = torch.tensor([box(one, places[0]), box(two, places[1])])
        found.append(Example((one, two), torch.stack([WORDS[one], WORDS[two]]), boxes))
    return found


@pytest.fixture(scope="module")
def learnt(examples: list[Example]) -> LayoutPredictor:
    return learn(examples, "mine")


@pytest.mark.parametrize(
    "wrong", [{"recoveries": 10**400}, {"held_out": -1}, {"iou": float("nan")}, {"default_iou": 7}]
)
def test_what_a_predictor_says_of_itself_has_to_be_possible(wrong: dict[str, Any]):
    with pytest.raises(TypeError, match="provenance"):
        replace(untrained().provenance, **wrong)


def test_weights_that_give_no_numbers_are_told_as_such():
    with pytest.raises(ValueError, match="gives no boxes, for numbers in its file are too large"):
        untrained(size=1e38).layout(["a"], torch.ones(1, WIDTH), [0])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_boxes_are_valid_and_apart_whatever_comes_in(count: int, size: float):
    rows = size * torch.randn(20, count, WIDTH, generator=torch.Generator().manual_seed(count))
    for one in rows:
        layout = untrained(size=size).layout([str(i) for i in range(count)], one, range(count))
        assert layout.source == "predicted" and len(layout.regions) == count
        for a, b in combinations(layout.regions, 2):
            assert a.box.overlap(b.box) < 1e-5  # float32's own, in boxes down to a twentieth of the canvas
            assert a.box.left < b.box.left


def test_naming_the_subjects_in_another_order_moves_no_box():
    rows, places, names = torch.randn(3, WIDTH), [7, 3, 12], ["cat", "car", "cup"]
    layout = untrained().layout(names, rows, places)
    order = [2, 0, 1]
    again = untrained().layout([names[i] for i in order], rows[order], [places[i] for i in order])
    assert {r.phrase: r.box for r in again.regions} == {r.phrase: r.box for r in layout.regions}
    assert [r.phrase for r in again.regions] == ["cup", "cat", "car"]


def test_a_subjects_box_depends_on_the_others():
    rows = torch.randn(2, WIDTH)
    first, second = (
        untrained().layout(["a", "b"], torch.stack([rows[0], other]), [0, 1]) for other in (rows[1], 3 * rows[1])
    )
    assert first.regions[0].box != second.regions[0].box


def test_places_are_handed_out_in_the_prompts_order():
    right_and_left = torch.tensor([[0.6, 0.1, 0.9, 0.3], [0.0, 0.5, 0.4, 0.9]])
    mirrored = in_order(right_and_left)
    assert torch.allclose(mirrored, torch.tensor([[0.1, 0.1, 0.4, 0.3], [0.6, 0.5, 1.0, 0.9]]))
    assert torch.equal(in_order(mirrored), mirrored)
    middle_first = torch.tensor([[0.4, 0, 0.6, 1], [0.0, 0, 0.2, 1], [0.7, 0, 0.9, 1]])
    assert torch.allclose(in_order(middle_first)[:, 0], torch.tensor([0.0, 0.4, 0.7]))


def test_it_learns_how_large_and_how_high_things_stand(examples: list[Example], learnt: LayoutPredictor):
    made = learnt.provenance
    assert made.recoveries + made.held_out == len(examples) and made.held_out > 0
    assert made.iou > made.default_iou + 0.1
    low, tall = (r.box for r in learnt.layout("ah", torch.stack([WORDS["a"], WORDS["h"]]), [1, 2]).regions)
    assert low.top > 0.4 and tall.bottom - tall.top > 0.6
    assert low.right - low.left > tall.right - tall.left


def test_learning_is_the_same_every_time_and_leaves_the_hosts_randomness_alone(
    examples: list[Example], learnt: LayoutPredictor
):
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = learn(examples, "mine").network.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in learnt.network.state_dict().items())


def test_too_few_examples_are_refused(examples: list[Example]):
    with pytest.raises(ValueError, match=r"Only 4 different sets of words .* ask for more prompts"):
        learn(examples[:4], "mine")


def test_a_file_holds_what_was_written(tmp_path: Path):
    predictor = untrained()
    write_predictor(predictor, tmp_path / "new" / "mine.safetensors")
    again = read_predictor(tmp_path / "new" / "mine.safetensors", "mine")
    rows = torch.randn(2, WIDTH)
    assert again.provenance == predictor.provenance
    assert again.layout("ab", rows, [0, 1]) == predictor.layout("ab", rows, [0, 1])
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["mine.safetensors"]


def test_equal_predictors_make_equal_files(tmp_path: Path):
    for name in ("one", "two"):
        write_predictor(untrained(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_widest_text_encoders_file_is_small(tmp_path: Path):
    write_predictor(untrained(2048), tmp_path / "wide.safetensors")
    assert (tmp_path / "wide.safetensors").stat().st_size <= 5e6


def test_a_damaged_file_is_refused(tmp_path: Path):
    write_predictor(untrained(), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for count in (0, 5, len(whole) // 2, len(whole) - 1):
        (tmp_path / "part.safetensors").write_bytes(whole[:count])
        with pytest.raises(ValueError, match=r'"part\.safetensors" cannot be read: .* train it anew'):
            read_predictor(tmp_path / "part.safetensors", "mine")


def test_a_foreign_file_is_refused(tmp_path: Path):
    file = tmp_path / "mine.safetensors"
    state = untrained().network.state_dict()
    made = json.dumps(vars(untrained().provenance))
    unknown = json.dumps({"model": "mine"})
    broken = {**state, "mean": torch.full((WIDTH,), float("nan"))}
    for tensors, metadata in (
        ({"clip_l": torch.zeros(1, WIDTH)}, {"format": "compositional inversion"}),
        ({"clip_l": torch.zeros(1, WIDTH)}, {FORMAT: made}),
        (state, {FORMAT: unknown}),
        (state, {FORMAT: "{"}),
        (state, {FORMAT: "[" * 100_000}),
        (state, {FORMAT: json.dumps(vars(untrained().provenance) | {"recoveries": "many"})}),
        (state, {FORMAT: json.dumps(vars(untrained().provenance) | {"model": 1.5})}),
        ({**state, "word.weight": torch.zeros(3, 3)}, {FORMAT: made}),
        (broken, {FORMAT: made}),
    ):
        save_file(tensors, file, metadata)
        with pytest.raises(ValueError, match="is no layout predictor of this version"):
            read_predictor(file, "mine")


def test_another_models_file_is_refused(tmp_path: Path):
    write_predictor(untrained(), tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError, match=r"another base model \(mine; this one is yours\)"):
        read_predictor(tmp_path / "theirs.safetensors", "yours")


def test_prompts_name_their_subjects_once_and_are_the_same_however_many_are_asked_for():
    prompts = prompts_about(("dog", "hot dog", "umbrella", "car"), 60, seed=1)
    assert prompts[:20] == prompts_about(("dog", "hot dog", "umbrella", "car"), 20, seed=1)
    assert prompts != prompts_about(("dog", "hot dog", "umbrella", "car"), 60, seed=2)
    assert {len(subjects) for _, subjects in prompts} == {1, 2, 3}
    for text, subjects in prompts:
        assert all(text.count(subject) == 1 for subject in subjects) and " a umbrella" not in text
        assert [text.index(subject) for subject in subjects] == sorted(text.index(subject) for subject in subjects)
