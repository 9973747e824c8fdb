"""A concept's file: whole or not at all, in the ecosystem's own forms."""

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compositional_inversion.compinv_core.concept import (
    Concept,
    check_name,
    is_ours,
    mean_of,
    read_concept,
    write_concept,
    xti_file,
)
from compositional_inversion.compinv_core.reading.table import XTI, layers_named
from safetensors import safe_open
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
    with pytest.raises(ValueError, match=r'^"text.safetensors" cannot be read: '):
        read_concept(tmp_path / "text.safetensors")
    for name in ("odd.safetensors", "list.pt"):
        with pytest.raises(ValueError, match="holds no embedding"):
            read_concept(tmp_path / name)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "has no vectors"),
        ({"clip_l": torch.full((1, 4), torch.nan)}, "NaN or infinite values for clip_l"),
        ({"clip_g": torch.tensor([[0.0, -torch.inf]])}, "NaN or infinite values for clip_g"),
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
        (torch.full((2, 768), torch.nan), '"bad" holds NaN or infinite values'),
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


def per_layer_of_sd1() -> Concept:
    attributes = {name: {"clip_l": torch.randn(2, 768)} for name in XTI}
    return Concept("my-cat", mean_of([*attributes.values()]), "cat", {"steps": "7"}, attributes, str(layers_named(XTI)))


def test_kohyas_xti_is_written_with_its_sixteen_keys_and_read_as_it_was(tmp_path):
    """kohya's scripts refuse a file with another key, and put its vectors one behind the other as they come."""
    concept, file = per_layer_of_sd1(), tmp_path / "my-cat.safetensors"
    write_concept(concept, file, form=xti_file)
    keys = [
        "IN01",
        "IN02",
        "IN04",
        "IN05",
        "IN07",
        "IN08",
        "MID",
        "OUT03",
        "OUT04",
        "OUT05",
        "OUT06",
        "OUT07",
        "OUT08",
        "OUT09",
        "OUT10",
        "OUT11",
    ]
    with safe_open(file, framework="pt") as stored:
        assert list(stored.keys()) == keys
        assert {tuple(stored.get_tensor(key).shape) for key in keys} == {(2, 768)}
    read = read_concept(file)
    assert read.cells == concept.cells and read.class_word == "cat" and read.provenance["steps"] == "7"
    assert [*read.attributes] == keys
    assert all(torch.equal(read.attributes[key]["clip_l"], concept.attributes[key]["clip_l"]) for key in keys)
    assert torch.equal(read.vectors["clip_l"], concept.vectors["clip_l"]) and is_ours(file)


def test_what_has_not_the_blocks_of_sd1_is_not_written_as_xti(tmp_path):
    whole = per_layer_of_sd1()
    fewer = {name: own for name, own in whole.attributes.items() if name != "MID"}
    for concept in (CONCEPT, BY_ATTRIBUTE, replace(whole, attributes=fewer, cells=str(layers_named([*fewer])))):
        with pytest.raises(ValueError, match="cannot be saved for kohya's XTI") as error:
            write_concept(concept, tmp_path / "a.safetensors", form=xti_file)
        assert len(str(error.value)) <= 300 and not list(tmp_path.iterdir())


def test_attributes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="has the attributes colour, object, but its table of cells names colour"):
        replace(BY_ATTRIBUTE, cells="colour: fine")
    other = {**ATTRIBUTES, "object": {"clip_l": torch.randn(1, 768)}}
    with pytest.raises(ValueError, match="another width for its object"):
        replace(BY_ATTRIBUTE, attributes=other)
    broken = {**ATTRIBUTES, "object": {key: v * float("nan") for key, v in ATTRIBUTES["object"].items()}}
    with pytest.raises(ValueError, match='"my-cat-object" holds NaN'):
        replace(BY_ATTRIBUTE, attributes=broken)


WORD, OTHER = torch.randn(2, 768), torch.randn(3, 768)


def comfyui_reads(content: object, folder: Path, size: int, key: str) -> torch.Tensor:
    """A file of ComfyUI's own loader."""
    from comfy.sd1_clip import load_embed

    torch.save(content, folder / "word.pt")
    found = load_embed("word", [str(folder)], size, key)
    return found.reshape(-1, found.shape[-1])


@pytest.mark.parametrize(
    "content",
    [
        {"string_to_param": {"*": WORD}},
        {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(WORD)})},
        {"string_to_param": torch.nn.ParameterDict({"a": torch.nn.Parameter(WORD), "b": torch.nn.Parameter(OTHER)})},
        {"<one>": WORD[0], "<two>": OTHER[0]},
        [{"<one>": WORD}, {"<two>": OTHER, "wide": torch.randn(5, 1280)}],
        {"bundle_emb.one.string_to_param.*": WORD, "lora_unet_mid.alpha": torch.tensor(1.0)},
        {"bundle_emb.one.clip_l": WORD, "bundle_emb.two.clip_l": OTHER, "bundle_emb.one.clip_g": torch.randn(5, 1280)},
        {"clip_g": torch.randn(2, 1280), "clip_l": WORD.half()},
    ],
)
def test_of_a_file_of_several_words_those_are_read_that_comfyui_reads(comfyui: Path, tmp_path: Path, content: object):
    right = comfyui_reads(content, tmp_path, 768, "clip_l").detach().float()
    assert torch.equal(read_concept(tmp_path / "word.pt").vectors["clip_l"], right)


def test_what_a_file_says_of_its_training_and_which_words_are_not_read_is_told(tmp_path: Path):
    torch.save({"string_to_param": {"*": WORD}, "step": 500, "sd_checkpoint_name": "v1-5"}, tmp_path / "a1111.pt")
    assert "; steps 500; model v1-5." in read_concept(tmp_path / "a1111.pt").describe()
    torch.save({"<one>": WORD, "<two>": OTHER}, tmp_path / "two.bin")
    assert "; words not read <two>." in read_concept(tmp_path / "two.bin").describe()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty, so download it again"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "it is a Git LFS pointer of 63 bytes"),
        (b"\x10\0\0\0\0\0\0\0{}", "it is a .safetensors file, so give it that ending"),
        (b"half a file", "it is damaged, or of another kind"),
    ],
)
def test_what_is_no_file_of_tensors_is_called_what_it_is(tmp_path: Path, content: bytes, sentence: str):
    (tmp_path / "word.pt").write_bytes(content)
    with pytest.raises(ValueError, match=f'^"word.pt" cannot be read: {sentence}') as raised:
        read_concept(tmp_path / "word.pt")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 200


def test_code_in_a_file_is_not_run_and_nobody_is_told_how_to(tmp_path: Path):
    torch.save({"string_to_param": {"*": print}}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"it holds Python code \([\w.]*print\), which is not run"):
        read_concept(tmp_path / "code.pt")


def _packed(folder: Path) -> bytes:
    """A few kilobytes that would be a gigabyte."""
    with zipfile.ZipFile(folder / "packed", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**8)
    return (folder / "packed").read_bytes()


def test_a_small_file_cannot_ask_for_all_memory(tmp_path: Path):
    torch.save({"string_to_param": {"*": torch.zeros(1, 768).expand(10**7, 768)}}, tmp_path / "wide.pt")
    (tmp_path / "packed.pt").write_bytes(_packed(tmp_path))
    with pytest.raises(
        ValueError, match=r'"wide.pt" cannot be read: it has \d+ bytes and would take far more in memory'
    ):
        read_concept(tmp_path / "wide.pt")
    with pytest.raises(ValueError, match="would take 100000000 in memory"):
        read_concept(tmp_path / "packed.pt")


class Called:
    """Calls something where it is read."""

    def __init__(self, function: object, value: int):
        self.function, self.value = function, value

    def __reduce__(self):
        return self.function, (self.value,)


SHARED = [torch.zeros(500, 768)]
for _ in range(6):
    SHARED = [SHARED] * 10  # a million times the same, in a file of its size once


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([{f"w{i}": value} for value in [torch.zeros(500, 768)] for i in range(400)], "would take far more in memory"),
        ({"string_to_param": SHARED}, "would take far more in memory"),
        ([{"one": value, "two": value} for value in [torch.zeros(400, 768)]] * 3, "holds more than 1000 vectors"),
        ({"<cat>": Called(bytearray, 10**10)}, "holds a bytearray"),
        ({"<cat>": Called(torch.Tensor, 10**9)}, "would take far more in memory"),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_what_names_one_thing_many_times_or_asks_for_memory_is_refused(
    tmp_path: Path, content: object, sentence: str, older: bool
):
    torch.save(content, tmp_path / "big.pt", _use_new_zipfile_serialization=not older)
    with pytest.raises(ValueError, match=f'^"big.pt" .*{sentence}'):
        read_concept(tmp_path / "big.pt")


def test_a_long_name_of_a_class_is_not_searched(tmp_path: Path):
    """In a time that grows with the square of its length, as torch does: minutes for this one."""
    with zipfile.ZipFile(tmp_path / "long.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02c" + b"x" * 10**6 + b"\ny\n.")
        archive.writestr("archive/version", b"3")
    with pytest.raises(ValueError, match="it is damaged, or of another kind"):
        read_concept(tmp_path / "long.pt")


@pytest.mark.parametrize("cells", ["colour: fine in 1-99999999999", "colour: fine in " + "9" * 5000, "colour" * 2000])
def test_a_file_whose_table_has_no_end_is_refused(tmp_path: Path, cells: str):
    tensors = {"clip_l": torch.zeros(1, 768), "clip_l.colour": torch.zeros(1, 768)}
    save_file(tensors, tmp_path / "table.safetensors", {"cells": cells})
    with pytest.raises(ValueError, match="The table of cells") as raised:
        read_concept(tmp_path / "table.safetensors")
    assert len(str(raised.value)) <= 300


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2, 768).to_sparse(),
        torch.quantize_per_tensor(torch.zeros(2, 768), 0.1, 0, torch.qint8),
        torch.zeros(2, 768, device="meta"),
        torch.zeros(2, 768, dtype=torch.complex64),
        torch.zeros(2, 768, dtype=torch.bool),
        torch.zeros(2, 768, dtype=torch.int64),
        torch.zeros(2, 3, 768),
        torch.tensor(1.0),
        "a text",
        None,
    ],
)
def test_what_is_no_tensor_of_fractional_numbers_is_refused_in_one_sentence(tmp_path: Path, value: object):
    for number, content in enumerate(
        ({"string_to_param": {"*": value}}, {"clip_l": value}, [{"x" * 10**4: value}], value)
    ):
        torch.save(content, tmp_path / f"{number}.pt")
        with pytest.raises(ValueError, match=f'^"{number}.pt" ') as raised:
            read_concept(tmp_path / f"{number}.pt")
        assert len(str(raised.value)) <= 300 and "\n" not in str(raised.value)


def test_weights_of_other_kinds_are_no_embedding(tmp_path: Path):
    save_file({"lora_te_text_model.lora_down.weight": torch.zeros(4, 768)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"holds no embedding, but lora_te_text_model.lora"):
        read_concept(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("my cat", "my-cat"),
        ("badhandv4 (1)", "badhandv4-1"),
        ("foo(bar)", "foo-bar"),
        ("easy.v2", "easy.v2"),
        ("()", "concept"),
    ],
)
def test_a_loaded_concept_has_a_name_that_a_prompt_can_write(tmp_path: Path, stem: str, name: str):
    save_file({"emb_params": WORD}, tmp_path / f"{stem}.safetensors")
    concept = read_concept(tmp_path / f"{stem}.safetensors")
    assert concept.name == name and (f"file {stem}.safetensors" in concept.describe()) is (stem != name)


def test_a_nested_tensor_in_a_list_has_no_shape_to_ask_for(tmp_path: Path):
    nested = torch.nested.nested_tensor([torch.ones(2, 768), torch.ones(1, 768)])
    torch.save([{"a": nested}, {"b": torch.ones(1, 768)}], tmp_path / "list.pt")
    assert read_concept(tmp_path / "list.pt").count == 1
    torch.save([{"a": nested}], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no embedding, but a list"):
        read_concept(tmp_path / "list.pt")
