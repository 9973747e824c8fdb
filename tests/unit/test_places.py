"""Where on the canvas a conditioning is, as ComfyUI cuts it, and layouts that keep to it."""

import pytest
import torch
from compositional_inversion.compinv_core.host.contexts import appended, name_apart
from compositional_inversion.compinv_core.host.places import area_of, place_of
from compositional_inversion.compinv_core.layout.regions import WHOLE, Box, default_layout, layout_by_place


@pytest.mark.parametrize(
    ("set_by_user", "cut"),
    [
        ((8, 4, 0, 4), (8, 4, 0, 4)),
        ((8, 8, 0, 4), (8, 4, 0, 4)),
        ((16, 16, 0, 0), (8, 8, 0, 0)),
        ((16, 3, 5, 6), (3, 2, 5, 6)),
        (("percentage", 1.0, 0.5, 0.0, 0.75), (8, 2, 0, 6)),
        (("percentage", 0.01, 0.5, 0.5, 0.5), (1, 4, 4, 4)),
        ((8, 4, 1, 0, 4, 0), (8, 4, 0, 4)),  # with a third axis
    ],
)
def test_an_area_is_cut_at_the_edge_of_the_canvas(set_by_user: tuple[int, ...], cut: tuple[int, ...]):
    assert area_of({"area": set_by_user}, (8, 8)) == cut


def test_without_an_area_it_is_for_all_of_the_canvas():
    assert area_of({}, (8, 8)) is None


@pytest.mark.parametrize("area", [(8, 8, 0, 8), (8, 8, 9, 0), (8, 0, 0, 0)])
def test_an_area_beside_the_canvas_is_refused(area: tuple[int, ...]):
    with pytest.raises(ValueError, match="does not lie on the canvas of 64 x 64 pixels; move it there"):
        area_of({"area": area}, (8, 8))


LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)


def test_a_place_is_the_box_of_an_area_and_of_what_a_mask_shows_of_it():
    mask = torch.zeros(1, 16, 16)
    mask[:, 8:, 4:] = 1
    assert place_of({}, (8, 8)) == WHOLE
    assert place_of({"area": (8, 8, 0, 4)}, (8, 8)) == RIGHT
    assert place_of({"mask": mask}, (8, 8)) == Box(0.25, 0.5, 1, 1)
    assert place_of({"mask": mask, "area": (8, 4, 0, 0)}, (8, 8)) == Box(0.25, 0.5, 0.5, 1)
    assert place_of({"mask": torch.zeros(16, 16), "area": (8, 4, 0, 0)}, (8, 8)) == LEFT


def test_each_subject_is_laid_out_in_its_place():
    phrases = ["cat", "boat", "car"]
    found = layout_by_place([RIGHT, LEFT, RIGHT], lambda own: default_layout([phrases[i] for i in own]))
    assert [(region.phrase, region.box) for region in found.regions] == [
        ("cat", Box(0.55, 0.2, 0.75, 0.8)),
        ("boat", Box(0.1, 0.2, 0.4, 0.8)),
        ("car", Box(0.8, 0.2, 0.975, 0.8)),
    ]
    assert found.source == "default boxes"
    assert layout_by_place([WHOLE] * 3, lambda _: default_layout(phrases)) == default_layout(phrases)


def test_the_copy_of_a_conditioning_in_another_branch_has_a_name_of_its_own():
    """ComfyUI makes one of each that has an area."""
    prompt, other = {"uuid": "prompt"}, {"uuid": "other"}
    conds = {"positive": [prompt], "negative": [other, {**prompt, "model_conds": "other"}]}
    name_apart(conds)
    assert conds["positive"] == [prompt] and conds["negative"][0] == other
    assert conds["negative"][1]["uuid"] not in ("prompt", "other")


def test_what_is_concatenated_behind_a_prompt_is_told_from_a_changed_prompt():
    written, more = torch.rand(1, 77, 4), torch.rand(1, 77, 4)
    found = appended(written, torch.cat([written, more], dim=1))
    assert found is not None and torch.equal(found, more)
    assert appended(written, torch.cat([more, written], dim=1)) is None and appended(written, 0.5 * written) is None
