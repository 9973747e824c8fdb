"""Repair Concept on the real host: what the old word renders is learnt by a new one, without images; nothing else changes; refusals."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import latent_of, steps_of_a_cancelled_run


@pytest.fixture
def cat(pack: Any, microworld: Any) -> torch.Tensor:
    """The word's vector (96,)."""
    from compositional_inversion.compinv_core.host.text_encoder import vocabulary

    return vocabulary(microworld[1], "clip_l").vector("cat")


@pytest.fixture
def old(pack: Any, microworld: Any, cat: torch.Tensor) -> Any:
    """A word of one long vector: a cyan cat, of which no one said that it is a cat."""
    from compositional_inversion.compinv_core.host.text_encoder import vocabulary

    cyan = vocabulary(microworld[1], "clip_l").vector("cyan")
    return concept(pack, {"clip_l": (1.2 * cat + 1.1 * cyan)[None]})


def concept(pack: Any, vectors: dict[str, torch.Tensor], class_word: str = "", name: str = "old") -> Any:
    return sys.modules["compositional_inversion.compinv_core.concept"].Concept(name, vectors, class_word)


def repair(pack: Any, microworld: Any, old: Any, **changes: Any) -> tuple[Any, str]:
    model, clip, _ = microworld
    inputs = {
        "class_word": "",
        "placeholder": "",
        "vectors": 2,
        "resolution": 64,
        "pictures": 3,
        "cfg": 4.0,
        "steps": 3,
        "batch": 2,
        "anchor_weight": 0.1,
        "seed": 0,
        **changes,
    }
    with torch.inference_mode():
        return pack.run("CompInvRepairConcept", model=model, clip=clip, concept=old, **inputs)


def test_a_word_is_repaired_and_nothing_else_changes(pack: Any, microworld: Any, old: Any):
    before, vectors = latent_of(microworld), old.vectors["clip_l"].clone()
    weights = list(microworld[0].model.diffusion_model.parameters())
    new, report = repair(pack, microworld, old)
    assert new.name == "old-repaired" and new.vectors["clip_l"].shape == (2, 96)
    assert new.class_word == "cat" and new.provenance["repaired from"] == "old"
    assert '"cat"' in report and "old: nearest words" in report and "old-repaired: nearest words" in report
    assert torch.equal(old.vectors["clip_l"], vectors)
    assert torch.equal(latent_of(microworld), before)
    assert all(a is b for a, b in zip(microworld[0].model.diffusion_model.parameters(), weights, strict=True))
    applied, _ = pack.run("CompInvApplyConcept", clip=microworld[1], concept=new)
    assert applied.tokenize("a photo of embedding:old-repaired")


def test_the_new_word_renders_what_the_old_one_does(pack: Any, microworld: Any, old: Any):
    """Where the thing is, the frozen model predicts nearly the same under both, other than under the class word."""
    _, report = repair(pack, microworld, old, steps=40, batch=4, pictures=4, anchor_weight=0.0)
    (missed,) = re.findall(r"distillation loss: (\d+)%", report)
    assert int(missed) < 70


def test_both_words_are_measured_as_concept_report_measures_them(pack: Any, microworld: Any, cat: torch.Tensor):
    """Vector by vector: the mean of two that point apart is shorter than either."""
    from compositional_inversion.compinv_core.host.text_encoder import vocabulary
    from compositional_inversion.compinv_core.report.figures import standing

    words = vocabulary(microworld[1], "clip_l")
    apart = torch.stack([cat + 2 * words.vector("cyan"), cat - 2 * words.vector("cyan")])
    new, report = repair(pack, microworld, concept(pack, {"clip_l": apart}, "cat"))
    told = re.findall(r"norm ([\d.]+) times a typical word's; outlier percentile (\d+)", report)
    where = [standing(vectors, words) for vectors in (apart, new.vectors["clip_l"])]
    assert told == [(f"{one.length:.1f}", f"{one.percentile:.0f}") for one in where]
    assert where[0].length > 1.5 * standing(apart.mean(0)[None], words).length


def test_a_cancel_while_the_report_is_made_keeps_the_new_word(
    pack: Any, microworld: Any, old: Any, own_folders: Path, monkeypatch: Any
):
    import comfy.model_management as management
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone

    def pressed(*_: Any, **__: Any) -> Any:
        raise management.InterruptProcessingException

    learnt = repair(pack, microworld, old)[0].vectors["clip_l"]
    monkeypatch.setattr(ComfyBackbone, "observe", pressed)
    with pytest.raises(management.InterruptProcessingException):
        repair(pack, microworld, old)
    (file,) = (own_folders / "output" / "embeddings").glob("old-repaired-unfinished-*.safetensors")
    from compositional_inversion.compinv_core.concept import read_concept

    assert torch.equal(read_concept(file).vectors["clip_l"], learnt)


def test_the_class_word_is_the_users_or_the_concepts_own_or_found(pack: Any, microworld: Any, old: Any):
    own = concept(pack, dict(old.vectors), "kitten")
    for given, class_word, found in ((old, "", "cat"), (own, "", "kitten"), (own, "boat", "boat")):
        new, report = repair(pack, microworld, given, class_word=class_word, steps=1, pictures=1)
        assert new.class_word == found and f'"{found}"' in report
        assert ("nearest to its vectors" in report) == (given is old)


def test_what_no_everyday_thing_is_near_to_needs_its_class_word(pack: Any, microworld: Any, old: Any):
    random = concept(pack, {"clip_l": torch.randn(3, 96, generator=torch.Generator().manual_seed(2))})
    with pytest.raises(ValueError, match=r'No COCO category is near the vectors of "old".*"class_word"'):
        repair(pack, microworld, random)


def test_a_file_whose_name_cannot_be_typed_is_repaired_under_one_that_can(pack: Any, microworld: Any, old: Any):
    odd = concept(pack, dict(old.vectors), name="My Cat (v1.2)")
    new, _ = repair(pack, microworld, odd)
    assert new.name == "My-Cat-v1-2-repaired"
    assert torch.equal(new.vectors["clip_l"], repair(pack, microworld, old)[0].vectors["clip_l"])


def test_a_model_with_a_layout_repairs_as_without(pack: Any, microworld: Any, old: Any):
    from test_sampling import SETTINGS, layout

    (held,) = pack.run("CompInvRegularizeModel", model=microworld[0], layout=layout(pack, microworld)[0], **SETTINGS)
    bound, free = (repair(pack, (model, *microworld[1:]), old)[0] for model in (held, microworld[0]))
    assert torch.equal(bound.vectors["clip_l"], free.vectors["clip_l"])


def test_what_was_cancelled_is_kept_and_goes_on_to_the_same_word(
    pack: Any, microworld: Any, old: Any, own_folders: Path, monkeypatch: Any
):
    before, settings = latent_of(microworld), {"steps": 13, "placeholder": "stopped"}
    undisturbed = repair(pack, microworld, old, **settings)[0].vectors["clip_l"]
    assert steps_of_a_cancelled_run(11, monkeypatch, lambda: repair(pack, microworld, old, **settings)) == 10
    assert list((own_folders / "output" / "embeddings").glob("stopped-unfinished-*.safetensors"))
    assert torch.equal(latent_of(microworld), before)
    assert torch.equal(repair(pack, microworld, old, **settings)[0].vectors["clip_l"], undisturbed)


def test_a_cancel_while_the_old_word_is_sampled_changes_nothing(pack: Any, microworld: Any, old: Any, monkeypatch: Any):
    import comfy.model_management as management
    import latent_preview

    def pressed(*_: Any) -> Any:
        return lambda *_: management.interrupt_current_processing()

    before = latent_of(microworld)
    with monkeypatch.context() as pressing, pytest.raises(management.InterruptProcessingException):
        pressing.setattr(latent_preview, "prepare_callback", pressed)
        repair(pack, microworld, old)
    assert torch.equal(latent_of(microworld), before)


def test_a_loss_that_is_not_finite_loses_nothing(
    pack: Any, microworld: Any, old: Any, own_folders: Path, monkeypatch: Any
):
    from compositional_inversion.compinv_core.concept import read_concept
    from compositional_inversion.compinv_core.training.task import Task

    before, backward, steps = latent_of(microworld), Task.backward, list[None]()

    def wrong_later(*inputs: Any, **named: Any) -> Any:
        steps.append(None)
        losses, scale = backward(*inputs, **named)
        return losses * (float("nan") if len(steps) > 25 else 1), scale

    with monkeypatch.context() as patched, pytest.raises(FloatingPointError, match="Training diverged before step 30"):
        patched.setattr(Task, "backward", wrong_later)
        repair(pack, microworld, old, steps=40)
    (kept,) = (own_folders / "output" / "embeddings").glob("old-repaired-unfinished-*.safetensors")
    assert read_concept(kept).provenance["steps"] == "20"
    assert torch.equal(latent_of(microworld), before)


@pytest.mark.parametrize(
    ("vectors", "changes", "sentence"),
    [
        ({"clip_g": torch.ones(1, 96)}, {}, "another family of models"),
        (None, {"class_word": "xylophone"}, '"xylophone" is not a single token.*for "class_word".$'),
        (None, {"class_word": "a cat"}, '"a cat" is not a single token'),
        (None, {"placeholder": "cat"}, "ordinary word"),
        (None, {"placeholder": "my cat"}, "without spaces"),
        (None, {"resolution": 100}, "multiple of 8"),
        (None, {"pictures": 0}, "pictures is 0"),
    ],
)
def test_what_cannot_be_repaired_is_refused_before_anything_is_sampled(
    pack: Any, microworld: Any, old: Any, monkeypatch: Any, vectors: Any, changes: dict[str, Any], sentence: str
):
    import comfy.sample

    monkeypatch.setattr(comfy.sample, "sample", lambda *_, **__: pytest.fail("something was sampled"))
    with pytest.raises(ValueError, match=sentence):
        repair(pack, microworld, old if vectors is None else concept(pack, vectors), **changes)
