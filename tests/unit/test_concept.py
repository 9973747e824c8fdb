"""A concept's file: whole or not at all, in the ecosystem's own forms."""

import os
from dataclasses import replace

import pytest
import torch
from compositional_inversion.compinv_core.concept import Concept, check_name, is_ours, read_concept, write_concept
from safetensors.torch import load_file, save_file

CONCEPT = Concept("my-cat", {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}, "cat", {"steps": "30"})


def test_what_was_written_is_read_back_bit_for_bit(tmp_path):
    write_concept(CONCEPT, tmp_path / "my-cat.safetensors")
    read = read_concept(tmp_path / "my-cat.safetensors")
    assert (read.name, read.class_word, read.provenance["steps"]) == ("my-cat", "cat", "30")
    assert all(torch.equal(read.vectors[key], CONCEPT.vectors[key]) for key in CONCEPT.vectors)
    assert is_ours(tmp_path / "my-cat.safetensors")


def test_a_file_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "my-cat.safetensors"
    path.write_text("somebody's")
    with pytest.raises(FileExistsError, match="exists already"):
        write_concept(CONCEPT, path)
    assert path.read_text() == "somebody's"
    write_concept(CONCEPT, path, replace=True)
    assert read_concept(path).class_word == "cat"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "my-cat.safetensors"
    path.write_text("old")

    def full_disk(tensors, file, metadata):
        open(file, "w").close()
        raise OSError("no space left")

    monkeypatch.setattr("compositional_inversion.compinv_core.files.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_concept(CONCEPT, path, replace=True)
    assert os.listdir(tmp_path) == [path.name] and path.read_text() == "old"


def test_the_two_files_of_diffusers_sdxl_are_one_concept(tmp_path):
    first, second = torch.randn(2, 768), torch.randn(2, 1280)
    save_file({"<cat>": first}, tmp_path / "learned_embeds.safetensors")
    save_file({"<cat>": second}, tmp_path / "learned_embeds_2.safetensors")
    concept = read_concept(tmp_path / "learned_embeds.safetensors")
    assert torch.equal(concept.vectors["clip_l"], first) and torch.equal(concept.vectors["clip_g"], second)
    assert concept.describe() == (
        '"learned_embeds" is an embedding for SDXL: 2 vectors, clip_l 768 wide and clip_g 1280 wide.'
    )
    save_file(
        {"<cat>": first}, tmp_path / "learned_embeds_2.safetensors"
    )  # somebody's second version, not a second half
    assert set(read_concept(tmp_path / "learned_embeds.safetensors").vectors) == {"clip_l"}


def test_foreign_files_are_read(tmp_path):
    vectors = torch.randn(3, 768)
    torch.save({"string_to_param": {"*": torch.nn.Parameter(vectors)}, "name": "x", "step": 5}, tmp_path / "a1111.pt")
    torch.save({"<cat>": vectors[0]}, tmp_path / "diffusers.bin")
    save_file({"emb_params": vectors.half()}, tmp_path / "kohya.safetensors")
    save_file(
        {"clip_l": vectors, "clip_g": torch.ones(3, 1280), "clip_l_out": torch.zeros(3, 768)},
        tmp_path / "onetrainer.safetensors",
    )
    assert torch.equal(read_concept(tmp_path / "a1111.pt").vectors["clip_l"], vectors)
    assert torch.equal(read_concept(tmp_path / "diffusers.bin").vectors["clip_l"], vectors[:1])
    assert torch.equal(read_concept(tmp_path / "kohya.safetensors").vectors["clip_l"], vectors.half().float())
    onetrainer = read_concept(tmp_path / "onetrainer.safetensors").vectors
    assert torch.equal(onetrainer["clip_l"], vectors) and set(onetrainer) == {"clip_l", "clip_g"}
    assert not is_ours(tmp_path / "kohya.safetensors")


def test_a_file_without_an_embedding_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"weight": torch.zeros(2, 13)}, tmp_path / "odd.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="cannot be read as an embedding"):
        read_concept(tmp_path / "text.safetensors")
    for name in ("odd.safetensors", "list.pt"):
        with pytest.raises(ValueError, match="holds no embedding"):
            read_concept(tmp_path / name)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "has no vectors"),
        ({"clip_l": torch.full((1, 4), torch.nan)}, "NaN or infinity for clip_l"),
        ({"clip_g": torch.tensor([[0.0, -torch.inf]])}, "NaN or infinity for clip_g"),
        ({"clip_l": torch.zeros(4)}, r"shape \(4,\) for clip_l"),
        ({"clip_l": torch.zeros(0, 768)}, r"shape \(0, 768\).*one vector or more"),
        ({"clip_l": torch.zeros(1, 4), "clip_g": torch.zeros(2, 5)}, "another number of vectors"),
    ],
)
def test_vectors_that_no_prompt_can_hold_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        Concept("my-cat", vectors)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.full((2, 768), torch.nan), '"bad" holds NaN or infinity'),
        (torch.zeros(0, 768), '"bad" has vectors of shape'),
        (torch.zeros(0, 0), "holds no embedding"),
    ],
)
def test_files_of_such_vectors_are_refused_when_they_are_read(tmp_path, vectors, message):
    save_file({"emb_params": vectors}, tmp_path / "bad.safetensors")
    torch.save({"string_to_param": {"*": vectors}}, tmp_path / "bad.pt")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ValueError, match=message):
            read_concept(path)


@pytest.mark.parametrize("name", ["", "my cat", "../cat", "a/b", "a\\b", ".hidden", "cat.safetensors", "cat,", "(cat)"])
def test_a_name_that_a_prompt_or_a_folder_would_misread_is_refused(name):
    with pytest.raises(ValueError, match="cannot be used"):
        check_name(name)


ATTRIBUTES = {name: {"clip_l": torch.randn(1, 768), "clip_g": torch.randn(1, 1280)} for name in ("colour", "object")}
CELLS = "stages: 500\ncolour: fine in 1\nobject: coarse"
BY_ATTRIBUTE = Concept(
    "my-cat", {k: v.clone() for k, v in ATTRIBUTES["object"].items()}, "cat", attributes=ATTRIBUTES, cells=CELLS
)


def test_attributes_stand_in_the_file_beside_what_every_interface_reads(tmp_path):
    path = tmp_path / "my-cat.safetensors"
    write_concept(BY_ATTRIBUTE, path)
    keys = {"clip_l", "clip_g", *(f"{key}.{name}" for key in ("clip_l", "clip_g") for name in ATTRIBUTES)}
    assert set(load_file(path)) == keys
    read = read_concept(path)
    assert read.cells == CELLS and set(read.attributes) == set(ATTRIBUTES) and "cells" not in read.provenance
    assert torch.equal(read.vectors["clip_l"], BY_ATTRIBUTE.vectors["clip_l"])
    for name, own in ATTRIBUTES.items():
        assert all(torch.equal(read.attributes[name][key], own[key]) for key in own)
    assert "attributes colour, object" in read.describe()


def test_an_attribute_is_a_concept_of_its_own():
    colour = BY_ATTRIBUTE.of("colour")
    assert colour.name == "my-cat-colour" and torch.equal(colour.vectors["clip_l"], ATTRIBUTES["colour"]["clip_l"])
    with pytest.raises(ValueError, match='has no attribute "style": it has colour, object'):
        BY_ATTRIBUTE.of("style")
    with pytest.raises(ValueError, match='"my-cat" has no attribute "style": it was learnt as one word'):
        CONCEPT.of("style")


def test_a_file_of_attributes_without_a_table_is_read_as_matte_has_it(tmp_path):
    save_file({"clip_l": torch.randn(1, 768), "clip_l.colour": torch.randn(1, 768)}, tmp_path / "a.safetensors")
    assert read_concept(tmp_path / "a.safetensors").cells == "stages: 750, 500, 250\ncolour: moderate|fine in 1-2"


def test_kohyas_xti_is_a_concept_with_an_attribute_for_each_block(tmp_path):
    layers = {name: torch.randn(2, 768) for name in ("IN01", "MID", "OUT11")}
    save_file(layers, tmp_path / "xti.safetensors")
    read = read_concept(tmp_path / "xti.safetensors")
    assert set(read.cells.splitlines()) == {"IN01: input 1", "MID: middle 0", "OUT11: output 11"}
    assert all(torch.equal(read.attributes[name]["clip_l"], layers[name]) for name in layers)
    assert torch.allclose(read.vectors["clip_l"], torch.stack([*layers.values()]).mean(0))


def test_attributes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="has the attributes colour, object, but its table of cells names colour"):
        replace(BY_ATTRIBUTE, cells="colour: fine")
    other = {**ATTRIBUTES, "object": {"clip_l": torch.randn(1, 768)}}
    with pytest.raises(ValueError, match="other widths for its object"):
        replace(BY_ATTRIBUTE, attributes=other)
    broken = {**ATTRIBUTES, "object": {key: v * float("nan") for key, v in ATTRIBUTES["object"].items()}}
    with pytest.raises(ValueError, match='"my-cat-object" holds NaN'):
        replace(BY_ATTRIBUTE, attributes=broken)
