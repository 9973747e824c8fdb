"""Load Concept Pictures: a folder of `input` as the command line reads it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image


@pytest.fixture
def folder(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def test_a_folder_becomes_images_masks_captions_a_sheet_and_a_line(pack: Any, folder: Path):
    Image.new("RGB", (40, 20), "red").save(folder / "b.png")
    Image.new("RGBA", (20, 20), (0, 0, 255, 128)).save(folder / "a.png")
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"a {{}} called {name}")
    (folder / "c.heic").touch()
    images, masks, captions, sheet, found = pack.run("CompInvLoadPictures", folder="mine")
    assert [tuple(image.shape) for image in images] == [(1, 20, 20, 3), (1, 20, 40, 3)]
    assert [tuple(mask.shape) for mask in masks] == [(1, 20, 20), (1, 20, 40)]
    assert captions == ["a {} called a", "a {} called b"] and sheet.shape[0] == 1
    assert found.splitlines()[0] == "2 images, 1 with a mask from the alpha channel, with captions."
    assert 'Left out: "c.heic"' in found
    (folder / "a.png").unlink()
    images, masks, *_ = pack.run("CompInvLoadPictures", folder="mine")
    assert len(images) == 1 and masks == []


def test_it_is_what_the_command_line_learns_from(pack: Any, base: Path):
    import folder_paths
    from compositional_inversion.compinv_core.cli.train import _folder

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folder_paths, "get_input_directory", lambda: str(base / "input"))
        images, *_ = pack.run("CompInvLoadPictures", folder="mittens")
    for ours, theirs in zip(images, _folder(base / "input" / "mittens").pictures, strict=True):
        assert torch.equal(ours, theirs.pixels)


def test_a_changed_folder_is_read_again(pack: Any, folder: Path):
    fingerprint = pack.nodes["CompInvLoadPictures"].fingerprint_inputs
    before = fingerprint(folder="mine")
    (folder / "a.txt").touch()
    assert fingerprint(folder="mine") != before


@pytest.mark.parametrize("name", ["", "..", "../mine", "nowhere", "/"])
def test_what_is_no_folder_within_the_input_folder_is_refused(pack: Any, folder: Path, name: str):
    with pytest.raises(ValueError, match=r"a folder within ComfyUI's input folder is needed|holds no image"):
        pack.run("CompInvLoadPictures", folder=name)


def test_an_empty_folder_is_refused_in_a_sentence(pack: Any, folder: Path):
    with pytest.raises(ValueError, match="holds no image that can be used"):
        pack.run("CompInvLoadPictures", folder="mine")
