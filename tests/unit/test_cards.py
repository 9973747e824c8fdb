"""Concept cards: a concept comes back out of a picture as it went in, A1111's pictures are read, and what is none says so in a sentence."""

import base64
import io
import json
import struct
import sys
import zlib
from pathlib import Path

import card_files
import pytest
import torch
from compositional_inversion.compinv_core import cards
from compositional_inversion.compinv_core.__main__ import main
from compositional_inversion.compinv_core.cards import A1111, MAX_LISTS, MAX_TEXT, OWN
from compositional_inversion.compinv_core.concept import Concept, mean_of, read_concept
from compositional_inversion.compinv_core.files import write_files
from compositional_inversion.compinv_core.forms import card
from compositional_inversion.compinv_core.reading.table import XTI, layers_named
from compositional_inversion.compinv_core.report.doctor import examine
from PIL import Image, ImageOps

torch.manual_seed(0)
ONE = Concept("my-cat", {"clip_l": torch.randn(3, 768)}, "cat", {"steps": "30", "model": "v1-5 猫"})
SD2 = Concept("my.cat_2", {"clip_h": torch.randn(2, 1024)})
SDXL = Concept("my-cat", {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}, "cat")
LAYERS = {name: {"clip_l": torch.randn(2, 768)} for name in XTI}
BY_LAYER = Concept("my-cat", mean_of([*LAYERS.values()]), "cat", {}, LAYERS, str(layers_named(XTI)))
CONTENT = {"string_to_token": {"*": 265}, "name": "their cat", "step": 500, "sd_checkpoint_name": "v1-5"}
VECTORS = torch.randn(2, 768)
JSON = card_files.a1111_json(CONTENT, {"*": VECTORS.tolist()})


def write(concept: Concept, path: Path, **texts: str) -> Path:
    write_files(card(concept, Image.new("RGB", (16, 16), "teal"), texts, path), replace=False)
    return path


def read(folder: Path, data: bytes) -> Concept:
    (folder / "picture.png").write_bytes(data)
    return read_concept(folder / "picture.png")


@pytest.mark.parametrize("concept", [ONE, SD2, SDXL, BY_LAYER], ids=["SD 1.x", "SD 2.x", "SDXL", "by layer"])
def test_a_concept_comes_out_of_its_card_bit_for_bit(tmp_path: Path, concept: Concept):
    found = read_concept(write(concept, tmp_path / "card_00001_.PNG", workflow='{"nodes": []}'))
    assert (found.name, found.class_word, found.cells) == (concept.name, concept.class_word, concept.cells)
    assert concept.provenance.items() <= found.provenance.items()
    for own, its in [
        (found.vectors, concept.vectors),
        *((found.attributes[a], concept.attributes[a]) for a in LAYERS if concept.attributes),
    ]:
        assert own.keys() == its.keys() and all(torch.equal(own[key], its[key]) for key in its)


def test_a1111_finds_its_own_form_in_a_card(tmp_path: Path):
    with Image.open(write(ONE, tmp_path / "one.png", workflow="{}")) as image:
        found = json.loads(base64.b64decode(image.info[A1111]))
        assert image.info["workflow"] == "{}"
    assert torch.equal(torch.tensor(found["string_to_param"]["*"]["TORCHTENSOR"]), ONE.vectors["clip_l"])
    assert (found["name"], found["step"], found["string_to_token"]) == ("my-cat", 30, {"*": 265})
    with Image.open(write(SDXL, tmp_path / "xl.png")) as image:
        found = json.loads(base64.b64decode(image.info[A1111]))
    assert found.keys() == {"clip_l", "clip_g"}  # it takes every entry for a tensor


def framed(data: bytes) -> bytes:
    """The same picture in a black frame."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        ImageOps.expand(image, 7).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        card_files.plain(card_files.text(A1111, base64.b64encode(JSON))),
        card_files.plain(card_files.text(A1111, base64.b64encode(JSON), b"zTXt")),
        card_files.plain(behind=card_files.text(A1111, base64.b64encode(JSON), b"iTXt")),
        card_files.hidden(zlib.compress(JSON, 9)),
        framed(card_files.hidden(zlib.compress(JSON, 9))),
    ],
    ids=["text", "compressed text", "text behind the pixels", "pixels", "pixels in a frame"],
)
def test_a1111s_cards_are_read(tmp_path: Path, data: bytes):
    found = read(tmp_path, data)
    assert torch.equal(found.vectors["clip_l"], VECTORS)
    assert found.name == "their-cat" and found.provenance == {"steps": "500", "model": "v1-5"}


def test_in_a_huge_picture_nothing_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cards, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="a picture that holds no embedding"):
        read(tmp_path, card_files.hidden(zlib.compress(JSON, 9)))


def test_a_card_of_sdxl_by_a1111_is_called_as_its_file(tmp_path: Path):
    tensors = {key: value.tolist() for key, value in SDXL.vectors.items()}
    found = read(
        tmp_path, card_files.plain(card_files.text(A1111, base64.b64encode(card_files.a1111_json({}, tensors))))
    )
    assert found.name == "picture" and all(torch.equal(found.vectors[k], v) for k, v in SDXL.vectors.items())


def test_a_second_picture_is_no_second_text_encoder(tmp_path: Path):
    (tmp_path / "card_2.png").write_bytes(card_files.plain())
    assert read_concept(write(ONE, tmp_path / "card.png")).count == 3


@pytest.mark.parametrize(
    "name", ["../../up", "/elsewhere/x", "a\\b:c", "..", "a\nb", "-", "\0", "<img src=x>", "x" * 500]
)
def test_a_name_in_a_card_cannot_lead_out_of_a_folder(tmp_path: Path, name: str):
    content = card_files.a1111_json({**CONTENT, "name": name}, {"*": VECTORS.tolist()})
    found = read(tmp_path, card_files.plain(card_files.text(A1111, base64.b64encode(content)))).name
    assert found and len(found) <= 100 and not set(found) & set('/\\:\n\0<> "') and found.strip(".") == found


def bad(key: str, data: bytes, kind: bytes = b"tEXt") -> bytes:
    return card_files.plain(card_files.text(key, data, kind))


LISTS = b"[" + b"[]," * MAX_LISTS + b"[]]"
HEADER = b'{"clip_l": {"dtype": "F32", "shape": [9, 768], "data_offsets": [0, 99]}}'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (card_files.plain(), "holds no embedding; chats"),
        (card_files.hidden(b"no zlib at all"), "holds no embedding; chats"),
        (card_files.hidden(zlib.compress(JSON)[:3000]), "holds no embedding; chats"),
        (card_files.hidden(zlib.compress(bytes(MAX_TEXT + 1))), "holds no embedding; chats"),
        (card_files.plain()[:45], "it is damaged, or no PNG file"),
        (b"\xff\xd8\xff\xe0 a JPEG", "it is damaged, or no PNG file"),
        (b"", "it is empty"),
        (b"<!doctype html>", "it is a web page"),
        (bad(A1111, b"%%%"), "it is damaged"),
        (bad(A1111, base64.b64encode(b'{"string_to_param": 1')), "it is damaged"),
        (bad(A1111, base64.b64encode(b'{"x": {"TORCHTENSOR": [[1, 2], [3]]}}')), "it is damaged"),
        (bad(A1111, base64.b64encode(b'{"x": {"TORCHTENSOR": [["a"]]}}')), "it is damaged"),
        (bad(A1111, base64.b64encode(b"[" * 9000)), "it is damaged"),
        (bad(A1111, base64.b64encode(LISTS)), "it is damaged"),
        (bad(A1111, bytes(2_000_000), b"zTXt"), "it is damaged"),
        (bad(A1111, b"A" * (MAX_TEXT + 2**23)), "takes 40 MB of text, more than 32 MB"),
        (bad(A1111, base64.b64encode(b'{"string_to_param": {"*": 5}}')), 'its "\\*" is no dense tensor'),
        (bad(A1111, base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": [' + b"[NaN]," * 767 + b"[1]]}}}")), "holds no embedding"),
        (bad(A1111, base64.b64encode(card_files.a1111_json(CONTENT, {"*": [[float("nan")] * 768]}))), "NaN or infinite"),
        (bad(OWN, base64.b64encode(struct.pack("<Q", len(HEADER)) + HEADER)), "it is damaged"),
        (bad(OWN, base64.b64encode(struct.pack("<Q", 2**60) + b"{}")), "it is damaged"),
    ],
)  # fmt: skip
def test_what_is_no_card_is_refused_in_one_sentence(tmp_path: Path, data: bytes, said: str):
    with pytest.raises(ValueError, match=said) as refused:
        read(tmp_path, data)
    assert len(str(refused.value)) <= 300 and "\n" not in str(refused.value)


def test_a_large_concept_fits_and_one_that_pillow_could_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = {"clip_l": torch.randn(75, 768), "clip_g": torch.randn(75, 1280)}
    large = Concept("large", own, "cat", {}, {"colour": own, "style": own}, "colour: fine\nstyle: coarse")
    found = read_concept(write(large, tmp_path / "large.png"))
    assert all(torch.equal(found.attributes["style"][key], own[key]) for key in own)
    monkeypatch.setattr(cards, "MAX_TEXT", 2**22)
    said = r'"large" cannot be a card: it takes 6 MB of text, and a card carries 4 MB; save it with Save Concept\.$'
    with pytest.raises(ValueError, match=said):
        write(large, tmp_path / "huge.png")
    assert [file.name for file in tmp_path.iterdir()] == ["large.png"]


def test_the_command_line_and_the_doctor_read_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = write(ONE, tmp_path / "card.png")
    monkeypatch.setattr(
        sys, "argv", ["compinv_core", "convert", str(source), str(tmp_path / "copy.pt"), "--format", "A1111"]
    )
    assert main() == 0
    assert torch.equal(read_concept(tmp_path / "copy.pt").vectors["clip_l"], ONE.vectors["clip_l"])
    told = examine(source).text()
    assert told.startswith("card.png: a card in ComfyUI's form, written by this pack (0.1.0)\n")
    assert "A prompt cannot read a card: load it with Load Concept" in told and "rename the file" not in told
    (tmp_path / "theirs.png").write_bytes(card_files.hidden(zlib.compress(JSON, 9)))
    assert examine(tmp_path / "theirs.png").form == "a card in A1111's form"
    (tmp_path / "plain.png").write_bytes(card_files.plain())
    assert "holds no embedding" in examine(tmp_path / "plain.png").fault
