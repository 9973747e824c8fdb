"""A concept's file in other programs' forms: each is read bit for bit as it was written, by ComfyUI's own loader and by ours."""

import sys
from pathlib import Path

import pytest
import torch
from compositional_inversion.compinv_core.__main__ import main
from compositional_inversion.compinv_core.concept import Concept, mean_of, read_concept, write_concept
from compositional_inversion.compinv_core.forms import FORMS, convert, write_as
from compositional_inversion.compinv_core.reading.table import XTI, layers_named
from safetensors.torch import load_file

torch.manual_seed(0)
ONE = Concept("my-cat", {"clip_l": torch.randn(3, 768)}, "cat", {"steps": "30", "model": "v1-5"})
SD2 = Concept("my-cat", {"clip_h": torch.randn(2, 1024)}, "cat")
SDXL = Concept("my-cat", {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}, "cat")
LAYERS = {name: {"clip_l": torch.randn(2, 768)} for name in XTI}
BY_LAYER = Concept("my-cat", mean_of([*LAYERS.values()]), "cat", {}, LAYERS, str(layers_named(XTI)))
WIDTHS = {"clip_l": 768, "clip_g": 1280, "clip_h": 1024}


def comfyui_reads(file: Path, key: str) -> torch.Tensor:
    from comfy.sd1_clip import load_embed

    found = load_embed(file.name, [str(file.parent)], WIDTHS[key], key)
    assert found is not None
    return found.reshape(-1, found.shape[-1])


@pytest.mark.parametrize("concept", [ONE, SD2, SDXL], ids=["SD 1.x", "SD 2.x", "SDXL"])
@pytest.mark.parametrize("form", ["safetensors", "A1111", "diffusers"])
def test_comfyui_and_we_read_what_was_written_bit_for_bit(comfyui: Path, tmp_path: Path, form: str, concept: Concept):
    files = write_as(concept, tmp_path / f"my-dog{FORMS[form].ending}", form)
    read = read_concept(files[0])
    assert read.name == "my-dog" and set(read.vectors) == set(concept.vectors)
    of = dict(zip(("clip_l", "clip_g"), files, strict=True)) if len(files) > 1 else {}
    for key, vectors in concept.vectors.items():
        assert torch.equal(comfyui_reads(of.get(key, files[0]), key), vectors)
        assert torch.equal(read.vectors[key], vectors)


def test_kohyas_form_is_read_bit_for_bit_and_no_other_concept_has_it(comfyui: Path, tmp_path: Path):
    (file,) = write_as(BY_LAYER, tmp_path / "my-dog.safetensors", "XTI")
    assert torch.equal(comfyui_reads(file, "clip_l"), LAYERS["IN01"]["clip_l"])  # of which it takes the first block
    read = read_concept(file)
    assert all(torch.equal(read.attributes[name]["clip_l"], LAYERS[name]["clip_l"]) for name in XTI)
    with pytest.raises(ValueError, match="cannot be saved for kohya's XTI"):
        write_as(ONE, tmp_path / "other.safetensors", "XTI")
    assert not (tmp_path / "other.safetensors").exists()


def test_a1111s_file_says_what_a1111_shows_of_it(tmp_path: Path):
    (file,) = write_as(ONE, tmp_path / "my-dog.pt", "A1111")
    content = torch.load(file, weights_only=True)
    assert (content["name"], content["step"], content["sd_checkpoint_name"]) == ("my-dog", 30, "v1-5")
    assert [*content["string_to_param"]] == ["*"] and type(content["string_to_param"]) is dict
    (file,) = write_as(SDXL, tmp_path / "xl.pt", "A1111")
    assert set(torch.load(file, weights_only=True)) == {"clip_l", "clip_g"}


def test_diffusers_files_have_one_key_each_which_is_the_token(tmp_path: Path):
    files = write_as(SDXL, tmp_path / "my-dog.safetensors", "diffusers")
    assert [file.name for file in files] == ["my-dog.safetensors", "my-dog_2.safetensors"]
    assert [[*load_file(file)] for file in files] == [["my-dog"], ["my-dog"]]
    assert read_concept(files[0]).class_word == "cat"


def test_a_word_whose_name_has_the_letters_of_lora_is_read_from_diffusers_form(tmp_path: Path):
    (file,) = write_as(ONE, tmp_path / "flora.safetensors", "diffusers")
    assert torch.equal(read_concept(file).vectors["clip_l"], ONE.vectors["clip_l"])


@pytest.mark.parametrize("taken", ["copy.safetensors", "copy_2.safetensors"])
def test_of_two_files_none_is_written_where_one_is_taken(tmp_path: Path, taken: str):
    source = tmp_path / "my-cat.safetensors"
    write_concept(SDXL, source)
    (tmp_path / taken).write_text("somebody's")
    with pytest.raises(FileExistsError, match="exists already; name another target"):
        convert(source, tmp_path / "copy.safetensors", "diffusers")
    assert (tmp_path / taken).read_text() == "somebody's"
    assert len([*tmp_path.iterdir()]) == 2


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["compinv_core", "convert", *map(str, arguments)])
    return main()


def test_the_command_line_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    source, target = tmp_path / "my-cat.safetensors", tmp_path / "new" / "my-dog.pt"
    write_concept(ONE, source)
    assert run(monkeypatch, source, target, "--format", "A1111") == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert torch.equal(read_concept(target).vectors["clip_l"], ONE.vectors["clip_l"])
    before = target.read_bytes()
    assert run(monkeypatch, source, target, "--format", "A1111") == 1
    assert "exists already; name another target." in capsys.readouterr().err and target.read_bytes() == before
    assert run(monkeypatch, source, tmp_path / "my-dog.pt", "--format", "diffusers") == 1
    assert "of the form diffusers end in .safetensors." in capsys.readouterr().err
    assert run(monkeypatch, tmp_path / "none.pt", tmp_path / "a.pt", "--format", "A1111") == 1
    assert capsys.readouterr().err == '"none.pt" cannot be read: No such file or directory.\n'
