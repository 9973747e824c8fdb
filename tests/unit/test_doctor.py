"""The doctor says what a file is, which models it is for and what to do, whatever is in it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from compositional_inversion.compinv_core.concept import Concept, write_concept
from compositional_inversion.compinv_core.prompts.vocabulary import Vocabulary
from compositional_inversion.compinv_core.report.doctor import Examination, examine, with_dominance
from fake_backbone import FakeBackbone
from safetensors.torch import save_file
from torch import nn

WORD, XL = torch.ones(2, 768), {"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}
OURS = {"format": "compositional inversion", "written_by": "0.1.0"}


@pytest.mark.parametrize(
    ("content", "ending", "form"),
    [
        ({"string_to_param": {"*": WORD}, "name": "x", "step": 5}, ".pt", "A1111's form (.pt)"),
        ({"string_to_param": nn.ParameterDict({"*": nn.Parameter(WORD)})}, ".pt", "the original textual inversion's form"),
        ({"<cat>": WORD}, ".bin", "diffusers' form (.bin)"),
        ([{"<cat>": WORD}], ".pt", "a list of embeddings (.pt)"),
        ({"emb_params": WORD}, ".safetensors", "kohya's form"),
        ({"IN01": WORD, "MID": WORD.clone()}, ".safetensors", "kohya's XTI"),
        ({"bundle_emb.a.clip_l": WORD, "lora_unet.alpha": torch.ones(1)}, ".safetensors", "bundled with a LoRA"),
        (XL, ".safetensors", "ComfyUI's form (.safetensors)"),
        ({**XL, "clip_l.colour": torch.ones(1, 768), "clip_g.colour": torch.ones(1, 1280)}, ".safetensors", "with attributes"),
        ({"lora_te.lora_up.weight": WORD}, ".safetensors", "weights of a model"),
        ({"a": 5}, ".pt", "not an embedding"),
    ],
)  # fmt: skip
def test_a_file_is_called_by_its_form(tmp_path: Path, content: Any, ending: str, form: str):
    file = tmp_path / f"word{ending}"
    torch.save(content, file) if ending != ".safetensors" else save_file(content, file)
    first = examine(file).text().splitlines()[0]
    assert first.startswith(f"word{ending}: ") and form in first and "this pack" not in first


def test_a_file_of_this_pack_is_called_so(tmp_path: Path):
    write_concept(Concept("word", {"clip_l": WORD}, "cat"), tmp_path / "word.safetensors")
    assert examine(tmp_path / "word.safetensors").form == "ComfyUI's form (.safetensors), written by this pack (0.1.0)"


def test_what_cannot_be_used_is_said_and_why(tmp_path: Path):
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>")
    save_file({"emb_params": torch.full((1, 768), torch.nan)}, tmp_path / "nan.safetensors")
    page, broken = examine(tmp_path / "page.pt"), examine(tmp_path / "nan.safetensors")
    assert page.concept is None and '- "page.pt" cannot be read: it is a web page' in page.text()
    assert broken.form == "kohya's form (.safetensors)" and "holds NaN or infinite values" in broken.text()
    assert "nearest words" not in broken.text()


# Nine words, of norms from 1 to 9; the median is 5.
LINE = Vocabulary(
    tuple("abcdefghi"), torch.arange(9), torch.cat([torch.arange(1.0, 10)[:, None], torch.zeros(9, 767)], dim=1)
)


def of_norm(folder: Path, norm: float, class_word: str = "cat") -> Examination:
    vectors = torch.zeros(1, 768)
    vectors[0, 0] = norm
    write_concept(Concept("word", {"clip_l": vectors}, class_word), folder / "word.safetensors", replace=True)
    return examine(folder / "word.safetensors", {"clip_l": LINE})


def test_the_norm_is_told_in_units_of_a_typical_words_and_what_to_do_about_it(tmp_path: Path):
    long, short, usual = (of_norm(tmp_path, norm) for norm in (50.0, 1.0, 5.0))
    assert "clip_l: norm 10.00 times a typical word's, outlier percentile 100, nearest words" in long.text()
    assert [sentence.partition(":")[0] for sentence in long.advice()] == [
        "Its norm is 10.0 times a typical word's (clip_l), so it may displace the rest of the prompt"
    ]
    assert "Repair Concept" in long.advice()[0] and "anchor_mix" in long.advice()[0]
    assert "may have little effect" in short.advice()[0]
    assert usual.advice() == ["Nothing to mend."]
    assert "is all zeros" in of_norm(tmp_path, 0.0).advice()[0]
    assert "no class word" in of_norm(tmp_path, 5.0, "").advice()[0]


def test_a_word_of_another_family_is_not_measured(tmp_path: Path):
    save_file(XL, tmp_path / "xl.safetensors")
    found = examine(tmp_path / "xl.safetensors", {"clip_l": LINE}, "cat")
    assert not found.standings
    (sentence,) = found.advice()
    assert "is for another family of models" in sentence and sentence.endswith("Load a checkpoint of SDXL.")
    save_file({"clip_g": torch.ones(1, 1280)}, tmp_path / "half.safetensors")
    assert "one of SDXL's two text encoders" in examine(tmp_path / "half.safetensors").advice()[0]


def test_what_prompts_cannot_write_or_do_not_read_is_told(tmp_path: Path):
    torch.save({"<one>": WORD, "<two>": WORD}, tmp_path / "my cat.bin")
    told = examine(tmp_path / "my cat.bin", class_word="cat").advice()
    assert "not read: <two>" in told[0] and told[1].endswith("for example to my-cat.bin.") and len(told) == 2


def fits(folder: Path, count: int, class_word: str) -> Examination:
    backbone = FakeBackbone()
    vectors = backbone.vocabularies["clip_l"].vector("cat").repeat(count, 1)
    write_concept(Concept("word", {"clip_l": vectors}, class_word), folder / "word.safetensors", replace=True)
    return examine(folder / "word.safetensors", backbone.vocabularies)


def test_dominance_is_measured_as_concept_report_does(tmp_path: Path):
    done: list[tuple[int, int]] = []
    one = with_dominance(fits(tmp_path, 1, "cat"), FakeBackbone(), lambda *counted: done.append(counted))
    assert one.dominance is not None and one.dominance.own == one.dominance.usual == 1
    assert done == [(i, 6) for i in range(1, 7)]
    many = with_dominance(fits(tmp_path, 8, "cat"), FakeBackbone(), lambda *counted: done.append(counted))
    assert many.dominance is not None and many.dominance.own == pytest.approx(many.dominance.usual)
    assert many.dominance.own > 1.5 and done[-1] == (9, 9)
    assert f"dominance index {many.dominance.own:.2f}" in many.text()
    assert "as any word of so many vectors does" in many.advice()[0]


def test_why_dominance_is_not_measured_is_told(tmp_path: Path):
    for word, why in (("", "write one at class_word"), ("qwxzy", "is not a single token")):
        found = with_dominance(fits(tmp_path, 1, word), FakeBackbone())
        assert found.dominance is None and f"dominance index not measured: {found.not_measured}" in found.text()
        assert why in found.not_measured
