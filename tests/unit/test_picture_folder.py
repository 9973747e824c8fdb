"""A folder of pictures, as phones, editors and kills leave them."""

import zlib
from pathlib import Path

import pytest
import torch
from compositional_inversion.compinv_core.training.examples import MAX_PROMPT, filled
from compositional_inversion.compinv_core.training.picture_folder import read_folder, read_picture
from PIL import Image


def test_pictures_are_sorted_turned_upright_and_laid_on_white(tmp_path: Path):
    lying = Image.new("RGB", (40, 20), "red")
    turned = Image.Exif()
    turned[0x0112] = 6  # as a phone held upright writes it
    lying.save(tmp_path / "b.jpg", exif=turned)
    cut_out = Image.new("RGBA", (20, 20), (0, 255, 0, 0))
    cut_out.paste((0, 0, 255, 255), (0, 0, 10, 20))
    cut_out.save(tmp_path / "a.png")
    found = read_folder(tmp_path)
    assert [picture.file.name for picture in found.pictures] == ["a.png", "b.jpg"] and not found.notices
    assert found.pictures[1].pixels.shape == (1, 40, 20, 3)
    assert found.pictures[0].pixels[0, 0, 15].tolist() == [1, 1, 1]  # not the green that is hidden
    cut, whole = found.masks
    assert cut.shape == (1, 20, 20) and cut[0, :, :10].min() == 1 and cut[0, :, 10:].max() == 0
    assert whole.shape == (1, 40, 20) and whole.min() == 1


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_that_stands_for_transparent_is_hidden_as_an_alpha_channel_is(tmp_path: Path, mode: str):
    image = Image.new("L", (20, 20), 0)
    image.paste(200, (0, 0, 10, 20))
    hidden = {"P": 0, "L": 0, "RGB": (0, 0, 0)}[mode]
    image.convert(mode).save(tmp_path / "a.png", transparency=hidden)
    picture = read_picture(tmp_path / "a.png")
    assert picture.pixels[0, 0, 15].tolist() == [1, 1, 1] and picture.alpha is not None
    assert picture.alpha[0, 0].tolist() == [1] * 10 + [0] * 10


def test_without_anything_transparent_there_are_no_masks(tmp_path: Path):
    Image.new("RGBA", (20, 20), (10, 20, 30, 255)).save(tmp_path / "a.png")
    Image.new("L", (20, 20), 51).save(tmp_path / "b.bmp")
    found = read_folder(tmp_path)
    assert found.masks == [] and torch.allclose(found.pictures[1].pixels, torch.tensor(0.2))


def test_sixteen_bits_a_channel_keep_their_brightness(tmp_path: Path):
    Image.new("I;16", (20, 20), 0x8000).save(tmp_path / "a.png")
    assert torch.allclose(read_picture(tmp_path / "a.png").pixels, torch.tensor(0.5), atol=1e-4)


def test_what_cannot_be_used_is_left_out_and_said_with_its_name(tmp_path: Path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (15, 40)).save(tmp_path / "thin.png")
    (tmp_path / "phone.heic").write_bytes(b"0" * 100)
    (tmp_path / "vast.png").write_bytes(_png(60_000, 60_000))
    (tmp_path / "notes.md").write_text("not a picture")
    found = read_folder(tmp_path)
    assert [picture.file.name for picture in found.pictures] == ["good.jpg"]
    assert found.notices == [
        'Left out: "half.jpg" is damaged or incomplete; open it and save it again.',
        'Left out: "phone.heic" is of a format that is not read; save it as PNG or JPEG.',
        'Left out: "thin.png" has 15 x 40 pixels; each side needs 16 or more.',
        'Left out: "vast.png" has more pixels than are read; scale it down.',
    ]
    (tmp_path / "good.jpg").unlink()
    with pytest.raises(ValueError, match=r"holds no image that can be used .* \"half.jpg\" is damaged"):
        read_folder(tmp_path)


def _png(width: int, height: int) -> bytes:
    """A few bytes that say they are a picture of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\0\0\0") + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_captions_are_read_where_every_picture_has_one(tmp_path: Path):
    for name in ("a", "b"):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa photo of {}\r\n")
    found = read_folder(tmp_path)
    assert found.captions == [] and found.notices == [
        "1 of 2 images have a caption, so captions are not used: b.png has none."
    ]
    (tmp_path / "b.txt").write_text("{} on gras é", "utf-8")
    assert read_folder(tmp_path).captions == ["a photo of {}", "{} on gras é"]
    (tmp_path / "b.txt").write_text("{} on gras é", "latin-1")
    with pytest.raises(ValueError, match=r'The caption "b\.txt" is no UTF-8 text'):
        read_folder(tmp_path)
    (tmp_path / "b.txt").write_text("x" * 10**7)
    with pytest.raises(ValueError, match=r'The caption "b\.txt" has 10000000 bytes'):
        read_folder(tmp_path)


def test_a_caption_of_spaces_takes_no_time():
    assert filled("a" + " " * (MAX_PROMPT - 10) + "{} b", "word") == "a word b"
    assert filled("the embedding:{}, red", "word") == "the word , red"
    with pytest.raises(ValueError, match="letters; 10000 or fewer are allowed"):
        filled("{}" + "x" * 10**5, "word")
    with pytest.raises(ValueError, match=r"half of a character \(U\+D800\) as its letter 1"):
        filled("\ud800{}", "word")
