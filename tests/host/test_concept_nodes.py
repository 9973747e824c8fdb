"""Anchor Select, Save, Load and Apply Concept, and Composition Prompt, as the graph calls them."""

from pathlib import Path

import pytest
import torch


@pytest.fixture
def folder(pack) -> Path:
    import folder_paths

    return Path(folder_paths.get_folder_paths("embeddings")[0])


@pytest.fixture
def concept(pack, microworld):
    """A made-up word of the micro world, with the pack's own type."""
    from compositional_inversion.compinv_core.concept import Concept
    from compositional_inversion.compinv_core.host.text_encoder import text_encoders

    vectors = {
        key: torch.randn(2, encoder.transformer.get_input_embeddings().weight.shape[1]) / 4
        for key, encoder in text_encoders(microworld[1]).items()
    }
    return Concept("test-mittens", vectors, "cat")


def test_a_saved_concept_is_the_applied_one_bit_for_bit_in_stock_text_encode(pack, microworld, concept, folder):
    import nodes

    clip = microworld[1]
    saved, name = pack.run("CompInvSaveConcept", concept=concept, name="", if_it_exists="replace it")
    assert name == "embedding:test-mittens"
    text = "a photo of a embedding:test-mittens, and a car on grass"
    by_file = nodes.CLIPTextEncode().encode(clip, text)[0]
    applied, _ = pack.run("CompInvApplyConcept", clip=clip, concept=concept)
    by_wire = nodes.CLIPTextEncode().encode(applied, text)[0]
    loaded, found = pack.run("CompInvLoadConcept", file="test-mittens.safetensors", class_word="")
    assert '"test-mittens" is an embedding for SD 1.x: ' in found and "class word cat" in found
    by_load = nodes.CLIPTextEncode().encode(pack.run("CompInvApplyConcept", clip=clip, concept=loaded)[0], text)[0]
    (prompt,) = pack.run("CompInvPrompt", clip=applied, text=text, subjects="test-mittens, car")
    for other in (by_wire, by_load, prompt):
        assert torch.equal(other[0][0], by_file[0][0])
        assert torch.equal(other[0][1]["pooled_output"], by_file[0][1]["pooled_output"])
    assert loaded.class_word == saved.class_word == "cat"
    (folder / "test-mittens.safetensors").unlink()


def test_the_anchor_mix_goes_from_the_learnt_word_to_its_class_word(pack, microworld, concept):
    import nodes

    clip = microworld[1]

    def encoded(text: str, **dial: float) -> torch.Tensor:
        applied = pack.run("CompInvApplyConcept", clip=clip, concept=concept, **dial)[0]
        return nodes.CLIPTextEncode().encode(applied, text)[0][0][0]

    text = "a photo of a embedding:test-mittens and a car"
    learnt, ordinary = encoded(text), encoded("a photo of a cat cat and a car")
    assert torch.equal(encoded(text, anchor_mix=0.0), learnt)
    assert torch.allclose(encoded(text, anchor_mix=1.0), ordinary, atol=1e-4)
    quarter, near = (encoded(text, anchor_mix=mix) for mix in (0.25, 0.75))
    assert (near - ordinary).norm() < (quarter - ordinary).norm() < (learnt - ordinary).norm()


def test_the_anchor_mix_needs_a_class_word(pack, sd1, concept_for):
    given = {"clip": sd1, "anchor_mix": 0.5}
    with pytest.raises(ValueError, match="has no class word"):
        pack.run("CompInvApplyConcept", **given, concept=concept_for(sd1, class_word=""))
    with pytest.raises(ValueError, match=r'is not a single token.*for the class word of "my-cat", at Load Concept.$'):
        pack.run("CompInvApplyConcept", **given, concept=concept_for(sd1, class_word="qwxzy"))


def test_the_anchor_mix_moves_the_vectors_of_every_text_encoder(pack, sdxl, concept_for):
    from compositional_inversion.compinv_core.host.text_encoder import known_concepts, vocabulary

    learnt = concept_for(sdxl)
    (applied, _) = pack.run("CompInvApplyConcept", clip=sdxl, concept=learnt, anchor_mix=0.25)
    for key, vectors in known_concepts(applied)[learnt.name].vectors.items():
        assert torch.allclose(vectors, 0.75 * learnt.vectors[key] + 0.25 * vocabulary(sdxl, key).vector("cat"))


def test_the_strength_makes_the_vectors_of_every_text_encoder_longer_or_shorter(pack, sdxl, concept_for):
    from compositional_inversion.compinv_core.host.text_encoder import known_concepts, vocabulary

    learnt = concept_for(sdxl, class_word="")
    dials = [({}, 1.0), ({"strength": 1.0}, 1.0), ({"strength": 0.25}, 0.25), ({"strength": 2.0}, 2.0)]
    for dial, factor in [*dials, ({"strength": 0.0}, 0.0)]:
        (applied, _) = pack.run("CompInvApplyConcept", clip=sdxl, concept=learnt, **dial)
        for key, vectors in known_concepts(applied)[learnt.name].vectors.items():
            assert torch.equal(vectors, factor * learnt.vectors[key])
    named = concept_for(sdxl)
    (applied, _) = pack.run("CompInvApplyConcept", clip=sdxl, concept=named, anchor_mix=1.0, strength=0.5)
    for key, vectors in known_concepts(applied)[named.name].vectors.items():  # of what the mix made
        assert torch.allclose(vectors, 0.5 * vocabulary(sdxl, key).vector("cat").expand_as(vectors))


def test_the_strength_changes_a_prompts_encoding_and_1_changes_no_bit(pack, microworld, concept):
    import nodes

    def encoded(**dial: float) -> torch.Tensor:
        applied = pack.run("CompInvApplyConcept", clip=microworld[1], concept=concept, **dial)[0]
        return nodes.CLIPTextEncode().encode(applied, "a photo of a embedding:test-mittens")[0][0][0]

    assert torch.equal(encoded(strength=1.0), encoded())
    half, double = ((encoded(strength=strength) - encoded()).norm() for strength in (0.5, 2.0))
    assert half > 0 and double > 0


def test_shipped_workflows_leave_the_settings_of_apply_concept_at_their_defaults(pack):
    import json

    from workflow import to_prompt

    info = {name: {"input": node.INPUT_TYPES()} for name, node in pack.nodes.items()}
    for path in sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json")):
        graph = json.loads(path.read_text(encoding="utf-8"))
        graph["nodes"] = [node for node in graph["nodes"] if node["type"] == "CompInvApplyConcept"]
        assert graph["nodes"] or path.stem.endswith("_attributes"), path.name
        for node in to_prompt(graph, info).values():
            assert (node["inputs"]["anchor_mix"], node["inputs"]["strength"]) == (0.0, 1.0), path.name


def test_saving_never_overwrites_silently(pack, concept, folder):
    pack.run("CompInvSaveConcept", concept=concept, name="test-twice", if_it_exists="refuse")
    with pytest.raises(FileExistsError, match="exists already"):
        pack.run("CompInvSaveConcept", concept=concept, name="test-twice", if_it_exists="refuse")
    saved, name = pack.run("CompInvSaveConcept", concept=concept, name="test-twice", if_it_exists="add a number")
    assert (saved.name, name) == ("test-twice-2", "embedding:test-twice-2")
    for path in folder.glob("test-twice*"):
        path.unlink()


def test_what_was_learnt_and_may_not_be_saved_under_its_name_is_kept_beside_it_once(pack, concept, folder, own_folders):
    from dataclasses import replace

    from compositional_inversion.compinv_core.concept import read_concept

    given = {"concept": replace(concept, provenance={"run": "mine-1"}), "name": "test-lost", "if_it_exists": "refuse"}
    pack.run("CompInvSaveConcept", **given)
    for _ in range(2):
        with pytest.raises(
            FileExistsError, match=r"exists already.* What was learnt is in .*test-lost-1\.safetensors\.$"
        ):
            pack.run("CompInvSaveConcept", **given)
    (kept,) = (own_folders / "output" / "embeddings").iterdir()
    assert torch.equal(read_concept(kept).vectors["clip_l"], concept.vectors["clip_l"])
    (folder / "test-lost.safetensors").unlink()


def test_a_concept_of_layers_is_saved_as_kohya_s_scripts_read_it(pack, concept, folder, own_folders):
    from dataclasses import replace

    from compositional_inversion.compinv_core.concept import Concept
    from compositional_inversion.compinv_core.reading.table import XTI, layers_named

    how = {"name": "test-xti", "if_it_exists": "refuse", "format": "kohya's XTI"}
    learnt = replace(concept, provenance={"run": "a training"})
    with pytest.raises(ValueError, match=r"cannot be saved for kohya's XTI.*What was learnt is in"):
        pack.run("CompInvSaveConcept", concept=learnt, **how)
    own = {"clip_l": torch.ones(1, 768)}
    layers = Concept("mine", own, attributes=dict.fromkeys(XTI, own), cells=str(layers_named(XTI)))
    pack.run("CompInvSaveConcept", concept=layers, **how)
    loaded, _ = pack.run("CompInvLoadConcept", file="test-xti.safetensors", class_word="cat")
    assert loaded.cells == layers.cells and loaded.class_word == "cat"
    (folder / "test-xti.safetensors").unlink()


@pytest.mark.parametrize("name", ["../test", "a test", "a/b"])
def test_saving_stays_in_the_folder(pack, concept, name):
    with pytest.raises(ValueError, match="cannot be used"):
        pack.run("CompInvSaveConcept", concept=concept, name=name, if_it_exists="refuse")


def test_a_changed_file_is_read_again(pack, concept, folder):
    pack.run("CompInvSaveConcept", concept=concept, name="test-again", if_it_exists="replace it")
    fingerprint = pack.nodes["CompInvLoadConcept"].fingerprint_inputs
    before = fingerprint(file="test-again.safetensors", class_word="")
    pack.run("CompInvSaveConcept", concept=concept, name="test-again", if_it_exists="replace it")
    assert fingerprint(file="test-again.safetensors", class_word="") != before
    (folder / "test-again.safetensors").unlink()


@pytest.mark.parametrize("how", ["class word only", "nearest words", "my words", "COCO categories"])
def test_anchors_are_few_words_whose_weights_sum_to_one(pack, microworld, how):
    anchors, table, _ = pack.run(
        "CompInvAnchorSelect", clip=microworld[1], class_word="Cat", how=how, words="cat, car, cat", count=3
    )
    assert anchors.class_word == "cat" and 1 <= len(anchors.words) <= 3 and anchors.words.count("cat") == 1
    assert sum(anchors.weights) == pytest.approx(1)
    assert all(word in table for word in anchors.words)


def test_anchors_may_be_phrases_and_the_words_nearest_to_given_ones(pack, sd1):
    given = {"clip": sd1, "class_word": "cat", "count": 3}
    anchors, table, _ = pack.run(
        "CompInvAnchorSelect", **given, how="my words", words="Teddy  Bear, cat, CAT, teddy bear"
    )
    assert set(anchors.words) <= {"teddy bear", "cat"} and len(table.splitlines()) == len(anchors.words) + 2
    near, *_ = pack.run("CompInvAnchorSelect", **given, how="nearest words", words="dog")
    assert near.words[0] == "dog" and len(near.words) == 3 and near.class_word == "cat"


def test_anchors_are_drawn_as_bars_of_weight_and_similarity(pack, microworld):
    given = {"clip": microworld[1], "class_word": "cat", "how": "nearest words", "words": ""}
    from compositional_inversion.nodes import anchor_picture as bars

    full = bars.WIDTH - bars.LEFT - bars.RIGHT

    def lengths(picture, color):
        """Of each bar, as a part of its track: the most pixels of one colour in a line."""
        wanted = torch.tensor(list(bytes.fromhex(color[1:]))) / 255
        here = (picture[0, bars.TOP :] - wanted).abs().amax(dim=-1) < 0.01
        return [
            here[bars.ROW * row : bars.ROW * (row + 1)].sum(dim=1).max().item() / full
            for row in range(len(here) // bars.ROW)
        ]

    anchors, table, picture = pack.run("CompInvAnchorSelect", **given, count=3)
    heaviest = sorted(anchors.weights, reverse=True)
    assert lengths(picture, bars.WEIGHT) == pytest.approx(heaviest, abs=0.01)
    similarities = [float(line.split()[-3]) for line in table.splitlines()[1:-1]]
    assert lengths(picture, bars.SIMILARITY) == pytest.approx(similarities, abs=0.01)
    assert len(similarities) == 3 and min(similarities) > 0.05
    *_, picture = pack.run("CompInvAnchorSelect", **given, count=bars.MOST_ROWS + 5)
    assert len(lengths(picture, bars.WEIGHT)) == bars.MOST_ROWS


def test_anchor_select_refuses_words_it_does_not_know(pack, microworld):
    given = {"clip": microworld[1], "how": "my words", "words": "", "count": 3}
    with pytest.raises(ValueError, match=r'"qwxzy" is not a single token of this text encoder.*for "class_word".$'):
        pack.run("CompInvAnchorSelect", **given, class_word="qwxzy")
    with pytest.raises(ValueError, match=r'"qwxzy" is not a single token of this text encoder.*for "words".$'):
        pack.run("CompInvAnchorSelect", **{**given, "words": "cat, qwxzy"}, class_word="cat")
    with pytest.raises(ValueError, match='"words" is empty'):
        pack.run("CompInvAnchorSelect", **given, class_word="cat")


def test_every_input_and_output_has_a_tooltip(pack):
    for name, node in pack.nodes.items():
        schema = node.define_schema()
        assert schema.description and all(part.tooltip for part in [*schema.inputs, *schema.outputs]), name
