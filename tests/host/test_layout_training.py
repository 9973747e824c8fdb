"""The layout predictor on the real host: learnt from real recoveries, found by the model, cancelled and gone on with."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sampling import ksampler, layout, negative, prompt

PROMPTS = 24


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def train(pack: Any, microworld: Any, **changes: Any) -> str:
    inputs = {
        "model": microworld[0], "clip": microworld[1], "prompts": PROMPTS, "resolution": 64, "steps": 4, "cfg": 4.0,
        "seed": 3, **changes,
    }  # fmt: skip
    return pack.run("CompInvTrainLayoutPredictor", **inputs)[0]


@pytest.fixture(scope="module")
def trained(pack: Any, microworld: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A predictor's file, and what the node said of it."""
    import folder_paths

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(folder_paths, "models_dir", str(folder))
        patch.setattr(folder_paths, "get_user_directory", lambda: str(folder))
        patch.setitem(folder_paths.folder_names_and_paths, "layout_predictors", ([], set()))
        report = train(pack, microworld)
    (file,) = (folder / "compositional_inversion" / "layout_predictors").iterdir()
    return file, report


@pytest.fixture
def place(own_folders: Path) -> Path:
    """Where predictors lie in this test."""
    folder = own_folders / "models" / "compositional_inversion" / "layout_predictors"
    folder.mkdir(parents=True)
    return folder


def recoveries(monkeypatch: Any) -> list[str]:
    """The prompts that are sampled from now on."""
    host = sys.modules["compositional_inversion.compinv_core.host.predictor"]
    sampled: list[str] = []

    def recover(*inputs: Any, **how: Any) -> Any:
        sampled.append("")
        return real(*inputs, **how)

    real = host.recover_layout
    monkeypatch.setattr(host, "recover_layout", recover)
    return sampled


def test_it_is_learnt_and_found_by_the_model(pack: Any, microworld: Any, trained: tuple[Path, str], place: Path):
    from compositional_inversion.compinv_core.host.model import fingerprint_of
    from compositional_inversion.compinv_core.layout.predictor import read_predictor

    file, report = trained
    assert file.stem == fingerprint_of(microworld[0]) and str(file) in report
    made = read_predictor(file, file.stem).provenance
    assert 0 < made.recoveries + made.held_out <= PROMPTS
    assert f"{made.iou:.0%}" in report and f"the default boxes {made.default_iou:.0%}" in report
    shutil.copy(file, place)
    found, preview, masks, boxes = layout(pack, microworld, "predicted")
    assert found.source == "predicted" and preview.shape[-1] == 3 and masks.shape == (2, 64, 64)
    assert list(json.loads(boxes)) == ["cat", "car"]
    cat, car = (region.box for region in found.regions)
    assert cat.right <= car.left + 1e-6  # in the prompt's order
    turned = pack.run(
        "CompInvLayoutRecover", model=microworld[0], positive=prompt(pack, microworld, subjects="car, cat"), boxes="",
        negative=negative(microworld), latent_image={"samples": torch.zeros(1, 4, 8, 8)}, method="predicted", steps=3,
        cfg=4.0, seed=1,
    )[0]  # fmt: skip
    assert [region.phrase for region in turned.regions] == ["car", "cat"]
    assert {r.phrase: r.box for r in turned.regions} == {r.phrase: r.box for r in found.regions}


def test_a_predicted_layout_takes_milliseconds_and_no_sampling(
    pack: Any, microworld: Any, trained: tuple[Path, str], place: Path, monkeypatch: Any
):
    import comfy.sample
    from compositional_inversion.compinv_core.host.predictor import predicted_layout

    shutil.copy(trained[0], place)
    monkeypatch.setattr(comfy.sample, "sample", lambda *_, **__: pytest.fail("it sampled"))
    positive = prompt(pack, microworld)
    predicted_layout(microworld[0], positive, (8, 8))
    times: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        predicted_layout(microworld[0], positive, (8, 8))
        times.append(time.perf_counter() - began)
    assert min(times) < 0.05  # a few milliseconds, on a machine that may be busy


def test_a_concept_gets_the_place_of_its_class_word(
    pack: Any, microworld: Any, trained: tuple[Path, str], place: Path, concept_for: Any
):
    shutil.copy(trained[0], place)
    applied = pack.run("CompInvApplyConcept", clip=microworld[1], concept=concept_for(microworld[1], "mine"))[0]
    text = "a photo of a embedding:mine and a car"
    positive = pack.run("CompInvPrompt", clip=applied, text=text, subjects="mine, car")[0]
    from compositional_inversion.compinv_core.host.predictor import predicted_layout

    mine, plain = predicted_layout(microworld[0], positive, (8, 8)), layout(pack, microworld, "predicted")[0]
    assert [r.box for r in mine.regions] == [r.box for r in plain.regions]


def test_without_a_predictor_the_default_boxes_take_over_and_the_layout_says_so(pack: Any, microworld: Any):
    found = layout(pack, microworld, "predicted")[0]
    assert found.source == "default boxes (no predictor for this model)"
    assert found.regions == layout(pack, microworld, "default boxes")[0].regions


def test_a_graph_notices_a_new_predictor(pack: Any, trained: tuple[Path, str], place: Path):
    node = pack.nodes["CompInvLayoutRecover"]
    before = {method: node.fingerprint_inputs(method=method, model=None) for method in ("predicted", "default boxes")}
    shutil.copy(trained[0], place)
    assert node.fingerprint_inputs(method="predicted", model=None) != before["predicted"]
    assert node.fingerprint_inputs(method="default boxes", model=None) == before["default boxes"]


def test_a_file_that_is_not_this_models_is_refused(pack: Any, microworld: Any, trained: tuple[Path, str], place: Path):
    from compositional_inversion.compinv_core.layout.predictor import (
        LayoutPredictor,
        Provenance,
        read_predictor,
        write_predictor,
    )
    from safetensors.torch import save_file

    file = place / trained[0].name
    mine = read_predictor(trained[0], trained[0].stem)
    write_predictor(LayoutPredictor(mine.network, Provenance("another", 1, 1, 0.0, 0.0)), file)
    with pytest.raises(ValueError, match="trained on another base model"):
        layout(pack, microworld, "predicted")
    file.write_bytes(trained[0].read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        layout(pack, microworld, "predicted")
    save_file({"clip_l": torch.zeros(1, 96)}, file)
    with pytest.raises(ValueError, match="is no layout predictor"):
        layout(pack, microworld, "predicted")


def test_a_cancelled_training_goes_on_to_the_same_file_and_changes_nothing(
    pack: Any, microworld: Any, trained: tuple[Path, str], place: Path, monkeypatch: Any
):
    import comfy.model_management as management

    before = ksampler(pack, microworld)
    with monkeypatch.context() as patch:
        sampled = recoveries(patch)
        host = sys.modules["compositional_inversion.compinv_core.host.predictor"]
        counted = host.recover_layout

        def cancelled(*inputs: Any, **how: Any) -> Any:
            found = counted(*inputs, **how)
            if len(sampled) == 10:
                management.interrupt_current_processing()
            return found

        patch.setattr(host, "recover_layout", cancelled)
        with pytest.raises(management.InterruptProcessingException):
            train(pack, microworld)
        assert len(sampled) == 10 and not list(place.iterdir())
    sampled = recoveries(monkeypatch)
    train(pack, microworld)
    assert len(sampled) == PROMPTS - 10
    (file,) = place.iterdir()
    assert file.read_bytes() == trained[0].read_bytes()
    assert torch.equal(ksampler(pack, microworld), before)
    train(pack, microworld, prompts=PROMPTS + 1)  # what was read is not sampled again
    assert len(sampled) == PROMPTS - 10 + 1


def test_other_settings_are_other_recoveries(pack: Any, microworld: Any, own_folders: Path, monkeypatch: Any):
    import comfy.model_management as management

    host = sys.modules["compositional_inversion.compinv_core.host.predictor"]
    one = layout(pack, microworld)[0], torch.ones(2, 8, 8), None
    for changes in ({}, {"seed": 4}, {"cfg": 5.0}, {}):
        answers = iter([one])

        def recover(*_: Any, answers: Any = answers, **__: Any) -> Any:
            management.interrupt_current_processing()
            return next(answers)

        monkeypatch.setattr(host, "recover_layout", recover)
        with pytest.raises(management.InterruptProcessingException):
            train(pack, microworld, **changes)
    kept = sorted((own_folders / "user" / "compositional_inversion" / "layouts").iterdir())
    assert sorted(len(json.loads(file.read_text())) for file in kept) == [1, 1, 2]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": 3}, "prompts is 3; 20 to 100000 is allowed"),
        ({"resolution": 100}, "resolution is 100; a multiple of 64 is needed"),
        ({"cfg": 0.5}, "cfg is 0.5; 1.0 to 30.0 is allowed"),
    ],
)
def test_settings_that_cannot_be_are_refused(pack: Any, microworld: Any, changes: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        train(pack, microworld, **changes)


def test_a_model_that_cannot_be_learnt_from_is_refused(pack: Any, microworld: Any, sd1: Any):
    with pytest.raises(ValueError, match="do not match"):
        train(pack, microworld, clip=sd1)
    patched = microworld[0].clone()
    weight = "diffusion_model.out.2.weight"
    patched.add_patches({weight: (torch.zeros_like(microworld[0].model.diffusion_model.out[2].weight),)})
    with pytest.raises(ValueError, match="has LoRAs or other patches"):
        train(pack, microworld, model=patched)
    other = microworld[0].clone()
    other.model = type("Other", (), {"diffusion_model": torch.nn.Linear(2, 2)})()
    for refused in (
        lambda: train(pack, (other, microworld[1])),
        lambda: pack.nodes["CompInvLayoutRecover"].execute(
            other, prompt(pack, microworld), [], {"samples": torch.zeros(1, 4, 8, 8)}, "predicted", "", 3, 4.0, 1
        ),
    ):
        with pytest.raises(ValueError, match=r"SD 1\.x"):
            refused()
