"""Concept Report on the real host: figures, pictures, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sampling import SETTINGS, ksampler, layout
from test_steering import STEER
from test_training_families import FAMILIES, comfy_model

GIVEN = {"class_word": "", "beside": "car, cup", "resolution": 64, "steps": 3, "cfg": 3.0, "seed": 5}


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def concept(vectors: torch.Tensor, class_word: str = "cat") -> Any:
    from compositional_inversion.compinv_core.concept import Concept

    return Concept("my cat (2)", {"clip_l": vectors}, class_word)


def of_word(microworld: Any, word: str) -> torch.Tensor:
    from compositional_inversion.compinv_core.host.text_encoder import vocabulary

    return vocabulary(microworld[1], "clip_l").vector(word)[None]


def report(pack: Any, microworld: Any, vectors: torch.Tensor, **changes: Any) -> tuple[Any, ...]:
    model, clip, _ = microworld
    given = {"model": model, "clip": clip, "concept": concept(vectors), **GIVEN, **changes}
    return pack.run("CompInvConceptReport", **given)


def test_the_class_word_as_a_concept_is_like_an_ordinary_word(pack: Any, microworld: Any):
    table, grid, text, verdict = report(pack, microworld, of_word(microworld, "cat"), vae=microworld[2])
    figures = json.loads(text)
    assert figures["dominance"] == pytest.approx(1) and figures["kept"] == pytest.approx(1)
    assert figures["attention"] == figures["ordinary"] and list(figures["attention"]["beside"]) == ["car", "cup"]
    ours, theirs = figures["standings"]["clip_l"]
    assert ours == theirs and ours["nearest"][0] == ["cat", pytest.approx(1)]
    assert figures["verdict"] == verdict and verdict.startswith('Beside another word, "my cat (2)"')
    assert table.shape[0] == grid.shape[0] == 1 and table.shape[-1] == 3
    top, bottom = (grid[0, 24 + 216 * i + 24 : 24 + 216 * (i + 1)] for i in range(2))
    assert torch.equal(top, bottom) and top.std() > 0.01  # the same noise, and pictures


def test_more_vectors_take_more_of_the_attention(pack: Any, microworld: Any):
    one, three = (
        json.loads(report(pack, microworld, of_word(microworld, "cat").repeat(count, 1))[2]) for count in (1, 3)
    )
    assert three["dominance"] > one["dominance"] + 0.1 and three["kept"] < one["kept"]
    assert three["usual"] == pytest.approx(three["dominance"]) and one["usual"] == pytest.approx(1)
    assert (one["vectors"], three["vectors"]) == (1, 3)


def test_what_is_watched_is_what_a_sampler_gives(pack: Any, microworld: Any):
    from compositional_inversion.compinv_core.host.composition import composition_prompt
    from compositional_inversion.compinv_core.host.watching import observe

    import nodes

    model, clip, _ = microworld
    empty = torch.zeros(1, 4, 8, 8)
    prompts = [(f"a photo of a cat and a {other}", ["cat", other]) for other in ("car", "cup")]
    seen = observe(model, clip, prompts[:1], empty, 3, 4, 3.0)
    positive, negative = (composition_prompt(clip, *prompts[0]), nodes.CLIPTextEncode().encode(clip, "")[0])
    (plain,) = nodes.common_ksampler(model, 3, 4, 3.0, "euler", "normal", positive, negative, {"samples": empty})
    assert torch.allclose(seen.latents, plain["samples"], atol=1e-4)  # another kernel of attention
    assert seen.shares.shape == seen.entropies.shape == (4, 1, 2)
    assert (seen.shares > 0).all() and (seen.shares.sum(-1) < 1).all()
    assert (seen.entropies > 0.3).all() and (seen.entropies <= 1).all()
    both = observe(model, clip, prompts, empty, 3, 4, 3.0)
    assert torch.allclose(both.shares[:, :1], seen.shares, atol=1e-4)


def test_it_leaves_model_and_clip_as_they_were(pack: Any, microworld: Any):
    before = ksampler(pack, microworld)
    report(pack, microworld, torch.randn(2, 96))
    assert torch.equal(ksampler(pack, microworld), before)


def test_without_words_it_takes_coco_categories_but_never_the_class_word(pack: Any, microworld: Any):
    words = json.loads(report(pack, microworld, torch.randn(1, 96), beside="", steps=2)[2])["attention"]["beside"]
    assert len(words) == 4 and "cat" not in words


class Mean:
    """A vision model that sees nothing but the mean colour."""

    def encode_image(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image_embeds": pictures.mean((1, 2))}


def test_pictures_without_the_concept_are_asked_about(pack: Any, microworld: Any):
    """The class word as a concept: no picture is more like it than like the class word."""
    given = {"vae": microworld[2], "clip_vision": Mean(), "pictures": torch.rand(2, 32, 48, 3), "beside": "car"}
    *_, verdict = report(pack, microworld, of_word(microworld, "cat"), **given)
    assert "no more similar to it than to an ordinary cat: see that they show the concept" in verdict


def test_likeness_to_the_users_pictures(pack: Any, microworld: Any):
    given = {"vae": microworld[2], "clip_vision": Mean(), "pictures": torch.ones(2, 32, 48, 3)}
    own, ordinary = json.loads(report(pack, microworld, torch.randn(1, 96), **given)[2])["likeness"]
    assert -1 <= own <= 1 and -1 <= ordinary <= 1 and own != ordinary


def test_a_layout_attached_to_the_model_is_left_out(pack: Any, microworld: Any):
    model = microworld[0]
    with_layout = pack.run(
        "CompInvRegularizeModel",
        model=model,
        layout=layout(pack, microworld)[0],
        **{**SETTINGS, **STEER},
    )[0]
    word = torch.ones(1, 96)
    assert report(pack, microworld, word, model=with_layout)[2] == report(pack, microworld, word)[2]


@pytest.mark.parametrize(
    ("vectors", "changes", "message"),
    [
        (torch.ones(1, 96), {"class_word": "qwxzy"}, '"qwxzy" is not a single token'),
        (torch.ones(1, 96), {"beside": "car, teddy bear"}, '"teddy bear" is not a single token'),
        (torch.ones(1, 96), {"beside": "Cat"}, '"beside" has the class word'),
        (torch.ones(1, 96), {"pictures": torch.ones(1, 8, 8, 3)}, '"pictures" is connected without both "clip_vision"'),
    ],
)
def test_what_cannot_be_reported_is_refused(pack: Any, microworld: Any, vectors: Any, changes: Any, message: str):
    with pytest.raises(ValueError, match=message):
        report(pack, microworld, vectors, **changes)


@pytest.mark.parametrize("node", ["CompInvConceptReport", "CompInvRepairConcept"])
@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.full((2, 96), torch.nan), "holds NaN or infinite values"),
        (torch.zeros(0, 96), "one vector or more is allowed"),
        (torch.ones(75, 96), "has 75 vectors; at most 64"),
        (torch.ones(80, 96), "has 80 vectors; at most 64"),
        (torch.zeros(2, 96), "is all zeros"),
        (torch.ones(2, 768), "is for another family"),
    ],
)
def test_a_bad_file_is_refused_before_a_report_or_a_repair(
    pack: Any, microworld: Any, monkeypatch: Any, node: str, vectors: torch.Tensor, message: str
):
    import comfy.sample
    import folder_paths
    from safetensors.torch import save_file

    monkeypatch.setattr(comfy.sample, "sample", lambda *_, **__: pytest.fail("something was sampled"))
    path = Path(folder_paths.get_folder_paths("embeddings")[0]) / "test-bad.safetensors"
    save_file({"clip_l": vectors.clone()}, path)
    model, clip, _ = microworld
    try:
        with pytest.raises(ValueError, match=message):
            loaded, _ = pack.run("CompInvLoadConcept", file=path.name, class_word="cat")
            if node == "CompInvConceptReport":
                report(pack, microworld, vectors, concept=loaded)
            else:
                repair = {"placeholder": "", "vectors": 2, "resolution": 64, "pictures": 1, "cfg": 4.0, "seed": 0}
                learning = {"class_word": "", "steps": 1, "batch": 1, "anchor_weight": 0.1}
                pack.run(node, model=model, clip=clip, concept=loaded, **repair, **learning)
    finally:
        path.unlink()


def test_words_of_the_reports_own_prompts_are_read_where_the_subject_stands(pack: Any, microworld: Any):
    from compositional_inversion.compinv_core.host.text_encoder import with_concept
    from compositional_inversion.compinv_core.host.watching import observe

    for word in ("photo", "picture", "rendering"):
        vectors = of_word(microworld, word)
        figures = json.loads(report(pack, microworld, vectors, concept=concept(vectors, word), steps=2)[2])
        assert figures["attention"] == figures["ordinary"] and figures["dominance"] == pytest.approx(1)
    model, clip, _ = microworld
    knowing = with_concept(clip, replace(concept(of_word(microworld, "photo")), name="mine"))
    spelt, by_wire = (
        observe(model, knowing, [(f"a photo of a cat and a {word}", ["cat", word])], torch.zeros(1, 4, 8, 8), 0, 2, 3.0)
        for word in ("photo", "embedding:mine")
    )
    assert torch.equal(spelt.shares, by_wire.shares)


def test_a_concept_without_a_class_word_needs_one(pack: Any, microworld: Any):
    nameless = concept(torch.ones(1, 96), class_word="")
    with pytest.raises(ValueError, match='"class_word"'):
        report(pack, microworld, torch.ones(1, 96), concept=nameless)
    assert report(pack, microworld, torch.ones(1, 96), concept=nameless, class_word="Cat ")


@pytest.mark.parametrize("name", list(FAMILIES))
def test_each_text_encoder_of_every_family_has_its_figures(pack: Any, request: Any, concept_for: Any, name: str):
    clip = request.getfixturevalue(name)
    given = {"model": comfy_model(FAMILIES[name]), "clip": clip, "concept": concept_for(clip), **GIVEN, "beside": ""}
    figures = json.loads(pack.run("CompInvConceptReport", **given)[2])
    assert set(figures["standings"]) == set(concept_for(clip).vectors)
    assert len(figures["attention"]["beside"]) == 4
    assert all(pair[0]["percentile"] > 0 and pair[0]["length"] > 0 for pair in figures["standings"].values())


def test_model_and_clip_of_two_checkpoints_are_refused(pack: Any, sd2: Any, microworld: Any, concept_for: Any):
    with pytest.raises(ValueError, match="MODEL and CLIP do not match"):
        report(pack, microworld, torch.ones(1, 96), clip=sd2, concept=concept_for(sd2))
