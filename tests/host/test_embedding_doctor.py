"""Embedding Doctor on the real host: what it says of a file, beside a model or alone, and the copies that it writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def folder(pack: Any) -> Iterator[Path]:
    """An embeddings folder, emptied of what a test leaves there."""
    import folder_paths

    found = Path(folder_paths.get_folder_paths("embeddings")[0])
    before = {*found.iterdir()}
    yield found
    for left in {*found.iterdir()} - before:
        left.unlink()


def written(folder: Path, name: str, clip: Any, word: str = "cat", count: int = 3, class_word: str = "cat") -> None:
    """A file of an ordinary word, so many times."""
    from compositional_inversion.compinv_core.concept import Concept, write_concept
    from compositional_inversion.compinv_core.host.text_encoder import text_encoders, vocabulary

    vectors = {key: vocabulary(clip, key).vector(word).repeat(count, 1) for key in text_encoders(clip)}
    write_concept(Concept(name, vectors, class_word), folder / f"{name}.safetensors")


def doctor(pack: Any, file: str, **inputs: Any) -> str:
    (report,) = pack.run("CompInvDoctor", file=file, **inputs)
    return report


def test_it_says_what_the_file_is_which_words_are_near_and_how_it_dominates(pack: Any, microworld: Any, folder: Path):
    model, clip, _ = microworld
    written(folder, "test-cats", clip)
    alone = doctor(pack, "test-cats.safetensors")
    assert alone.splitlines()[0].startswith(
        "test-cats.safetensors: ComfyUI's form (.safetensors), written by this pack"
    )
    assert '"test-cats" is an embedding for SD 1.x: 3 vectors' in alone and "norm" not in alone
    with torch.inference_mode():
        beside = doctor(pack, "test-cats.safetensors", clip=clip)
        measured = doctor(pack, "test-cats.safetensors", clip=clip, model=model)
    assert "clip_l: norm 1." in beside and "nearest words cat 1.00, " in beside and "dominance" not in beside
    (line,) = (line for line in measured.splitlines() if line.startswith("dominance index "))
    own, usual = (float(part.split()[-1]) for part in line.split(";") for part in [part.replace("index ", "")])
    assert own == usual > 1  # three vectors of the class word are the class word three times


def test_an_embedding_of_another_family_is_said_so(pack: Any, sdxl: Any, microworld: Any, folder: Path):
    written(folder, "test-xl", sdxl, count=1)
    report = doctor(pack, "test-xl.safetensors", clip=microworld[1], model=microworld[0])
    assert "is for another family of models" in report and "Load a checkpoint of SDXL." in report
    assert "dominance" not in report


def test_a_model_needs_its_clip(pack: Any, microworld: Any, folder: Path):
    written(folder, "test-one", microworld[1])
    with pytest.raises(ValueError, match='"model" is connected without "clip"'):
        doctor(pack, "test-one.safetensors", model=microworld[0])


def test_copies_are_written_beside_each_other_and_over_nothing(
    pack: Any, microworld: Any, folder: Path, own_folders: Path
):
    from compositional_inversion.compinv_core.concept import read_concept

    written(folder, "test-one", microworld[1])
    own = read_concept(folder / "test-one.safetensors").vectors["clip_l"]
    for name in ("test-one.pt", "test-one-2.pt"):
        report = doctor(pack, "test-one.safetensors", convert_to="A1111")
        assert report.endswith(f"\nwritten: {own_folders / 'output' / 'embeddings' / name}")
        assert torch.equal(
            torch.load(own_folders / "output" / "embeddings" / name, weights_only=True)["string_to_param"]["*"], own
        )
    with pytest.raises(ValueError, match="cannot be saved for kohya's XTI"):
        doctor(pack, "test-one.safetensors", convert_to="XTI")


def test_what_is_no_embedding_is_reported_and_not_converted(pack: Any, folder: Path):
    (folder / "test-page.pt").write_text("<!DOCTYPE html><html>")
    assert "it is a web page" in doctor(pack, "test-page.pt")
    with pytest.raises(ValueError, match="it is a web page"):
        doctor(pack, "test-page.pt", convert_to="A1111")


def test_what_stands_below_the_node_holds_no_markup(pack: Any, folder: Path):
    """The texts of a file are somebody else's."""
    hostile = "<img src=x onerror=alert(1)>"
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}, "sd_checkpoint_name": hostile}, folder / "test-evil.pt")
    output = pack.nodes["CompInvDoctor"].execute(file="test-evil.pt")
    assert hostile in output.result[0]
    assert hostile not in output.ui["text"][0] and "img src=x" in output.ui["text"][0] and output.ui["text_lasts"]
