"""Save Concept Card writes pictures that Load Concept lists and reads, beside nobody else's."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import card_files
import pytest
import torch
from PIL import Image

WORKFLOW = {"nodes": [{"id": 1, "title": "猫"}]}
DOCTOR = "my-cat.pt: A1111's form (.pt)\nnorm 1.04\nwhat to do:\n- secret advice"


@pytest.fixture
def saved(pack: Any, own_folders: Path, concept: Any) -> Any:
    """Runs the node and gives (its image on the page, its file)."""

    def save(
        concept: Any = concept, images: Any = None, prefix: str = "concept_card", **inputs: Any
    ) -> tuple[Any, Path]:
        pictures = [torch.rand(4, 64, 48, 3)] if images is None else images
        node = pack.nodes["CompInvSaveCard"]
        (shown,) = node.execute(concept=[concept], images=pictures, filename_prefix=[prefix], **inputs).ui.as_dict()[
            "images"
        ]
        return shown, own_folders / "output" / shown["subfolder"] / shown["filename"]

    return save


@pytest.fixture
def concept(pack: Any) -> Any:
    from compositional_inversion.compinv_core.concept import Concept

    return Concept("my-cat", {"clip_l": torch.randn(3, 768)}, "cat")


@pytest.fixture
def folder(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import folder_paths

    own = tmp_path / "embeddings"
    own.mkdir()
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "embeddings", ([str(own)], {".safetensors", ".pt", ".bin"})
    )
    monkeypatch.delitem(folder_paths.filename_list_cache, "embeddings", raising=False)
    return own


def listed(pack: Any, node: str = "CompInvLoadConcept") -> list[str]:
    return next(one.options for one in pack.nodes[node].define_schema().inputs if one.id == "file")


def test_a_card_lies_in_the_output_folder_and_load_concept_reads_it(pack: Any, saved: Any, concept: Any, folder: Path):
    shown, file = saved()
    assert shown == {"filename": "concept_card_00001_.png", "subfolder": "", "type": "output"}
    first, others = file.read_bytes(), [saved()[0]["filename"], saved(prefix="cards/cat")[0]["subfolder"]]
    assert others == ["concept_card_00002_.png", "cards"] and file.read_bytes() == first
    (folder / "a").mkdir()
    file.rename(folder / "a" / file.name)
    assert f"a/{file.name}" in listed(pack) and f"a/{file.name}" in listed(pack, "CompInvDoctor")
    loaded, found = pack.run("CompInvLoadConcept", file=f"a/{file.name}", class_word="")
    assert torch.equal(loaded.vectors["clip_l"], concept.vectors["clip_l"]) and found.startswith(
        '"my-cat" is an embedding'
    )
    assert pack.run("CompInvLoadConcept", file=f"a/{file.name}", class_word="dog")[0].class_word == "dog"


def test_the_menu_has_cards_and_no_previews_and_opens_none_of_them(pack: Any, folder: Path):
    names = [
        "cat.pt",
        "cat.png",
        "cat.preview.png",
        "v1.5.safetensors",
        "v1.5.png",
        "card.PNG",
        "v1.png",
        "<b>.png",
        "note.txt",
        "cat.jpg",
    ]
    (folder / "b").mkdir()
    for name in [*names, "b/cat.png"]:
        (folder / name).write_text("nothing of a picture")
    assert listed(pack) == ["cat.pt", "v1.5.safetensors", "b/cat.png", "card.PNG", "v1.png"]


def test_the_workflow_is_in_the_card_unless_comfyui_was_told_otherwise(
    pack: Any, saved: Any, monkeypatch: pytest.MonkeyPatch
):
    from comfy.cli_args import args

    hidden = SimpleNamespace(prompt={"7": {"class_type": "x"}}, extra_pnginfo={"workflow": WORKFLOW})
    monkeypatch.setattr(pack.nodes["CompInvSaveCard"], "hidden", hidden)
    with Image.open(saved()[1]) as image:
        assert json.loads(image.info["workflow"]) == WORKFLOW and json.loads(image.info["prompt"]) == hidden.prompt
    monkeypatch.setattr(args, "disable_metadata", True)
    with Image.open(saved(report=["good"])[1]) as image:
        assert image.info.keys() == {"sd-ti-embedding", "compinv", "compinv_report"}


def test_figures_are_drawn_without_advice_and_carried_whole(saved: Any):
    bare, told, longer = (saved(report=[text] if text else [])[1] for text in ("", DOCTOR, "much\n" * 500))
    with Image.open(bare) as none, Image.open(told) as some, Image.open(longer) as more:
        assert none.height < some.height < more.height < none.height + 500
        assert "compinv_report" not in none.info and some.info["compinv_report"] == DOCTOR
    from compositional_inversion.nodes.card_picture import _figures

    assert _figures(DOCTOR) == ["my-cat.pt: A1111's form (.pt)", "norm 1.04"]
    report = {"dominance": 1.1, "usual": 1.3, "kept": 0.824, "verdict": "It composes."}
    assert _figures(json.dumps(report)) == [
        "dominance index 1.10  ·  of its class word, written as often: 1.30  ·  other words keep 82% of their attention", "It composes.",
    ]  # fmt: skip
    for other in (
        "[1]",
        "5",
        '{"dominance": 1}',
        '{"dominance": "a", "usual": 1, "kept": 1, "verdict": 1}',
        "[" * 9999,
    ):
        assert _figures(other)[0].startswith(other[:5])


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(1, 64, 64, 3)], (960, 960 - 80)), ([(2, 64, 64, 3)], (960, 434)), ([(1, 8, 80, 4), (1, 64, 64, 3)], (960, 217)),
        ([(5, 64, 64, 3)], (960, 2 * 285 + 12)), ([(20, 64, 64, 3)], (960, 3 * 285 + 24)), ([(1, 900, 9, 3)], (960, 1320)),
    ],
)  # fmt: skip
def test_a_grid_of_up_to_nine_pictures_of_any_sizes_fits_the_card(saved: Any, shapes: Any, size: tuple[int, int]):
    with Image.open(saved(images=[torch.rand(shape) for shape in shapes])[1]) as image:
        assert (image.width, image.height - 208) == size


def test_the_first_nine_pictures_are_shown(saved: Any):
    amounts = torch.linspace(0.1, 0.9, 10)
    images = amounts[:, None, None, None].expand(10, 64, 64, 3)  # each of its own grey
    with Image.open(saved(images=[images])[1]) as image:
        found = {pixel for _, pixel in image.getcolors(2**20) or []}
    *greys, last = [(round(255 * amount),) * 3 for amount in amounts.tolist()]
    assert set(greys) <= found and last not in found


def test_long_names_and_many_attributes_stay_on_the_card(saved: Any, concept: Any):
    from dataclasses import replace

    long = replace(concept, name="W" * 100, class_word="w" * 300)
    with Image.open(saved(concept=long)[1]) as image:
        edge = image.convert("L").crop((image.width - 39, 0, image.width, image.height))
        assert max(edge.getextrema()) < 40  # nothing is drawn beyond the margin


@pytest.mark.parametrize("prefix", ["../up", "/elsewhere/x", "a/../../b"])
def test_a_prefix_cannot_lead_out_of_the_output_folder(saved: Any, own_folders: Path, prefix: str):
    with pytest.raises(ValueError, match=r'^The input filename_prefix is ".*", which leads out of the output folder; '):
        saved(prefix=prefix)
    assert not list(own_folders.rglob("*.png"))


def test_no_image_and_half_a_letter_are_refused(saved: Any):
    with pytest.raises(ValueError, match='"images" holds no image'):
        saved(images=[torch.zeros(0, 64, 64, 3)])
    with pytest.raises(ValueError, match="The input report holds half of a character"):
        saved(report=["half \ud800"])


def test_a_file_that_another_server_writes_meanwhile_is_left_alone(
    saved: Any, monkeypatch: pytest.MonkeyPatch, own_folders: Path
):
    import folder_paths

    output = own_folders / "output"
    output.mkdir()
    (output / "concept_card_00001_.png").write_bytes(card_files.plain())
    monkeypatch.setattr(folder_paths, "get_save_image_path", lambda *_: (str(output), "concept_card", 1, "", ""))
    assert saved()[1].name == "concept_card_00002_.png"
    assert (output / "concept_card_00001_.png").read_bytes() == card_files.plain()
