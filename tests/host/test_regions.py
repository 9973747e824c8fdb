"""A layout is the user's: set by hand, by mask or by box, merged and swapped, and out again in ComfyUI's own types."""

import json
import math
from typing import Any

import pytest
import torch
from test_sampling import layout, sample
from test_steering import STEER


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


EDGES = {"left": 0.0, "top": 0.0, "right": 0.5, "bottom": 1.0, "width": 64, "height": 64}


def region(pack: Any, subject: str = "cat", **changes: Any) -> Any:
    return pack.run("CompInvSetRegion", subject=subject, **{**EDGES, **changes})[0]


def test_regions_set_by_hand_make_a_layout(pack: Any, microworld: Any):
    both = region(pack, "car", layout=region(pack), left=0.5, right=1.0)
    assert both.to_json() == '{"cat": [0.0, 0.0, 0.5, 1.0], "car": [0.5, 0.0, 1.0, 1.0]}'
    kept = sample(pack, microworld, layout=both, **STEER)[2]
    assert "cat" in kept and "car" in kept


def test_one_region_of_a_recovered_layout_can_be_replaced(pack: Any, microworld: Any):
    recovered = layout(pack, microworld)[0]
    changed = region(pack, "car", layout=recovered, left=0.6, right=0.9)
    assert changed.region("cat") == recovered.region("cat")
    assert changed.region("car").box.left == 0.6


def test_a_concept_is_found_by_its_bare_name(pack: Any):
    known = region(pack, "embedding:zippy")
    assert [r.phrase for r in region(pack, "zippy", layout=known, right=0.7).regions] == ["embedding:zippy"]


def test_a_mask_becomes_a_region_with_its_box(pack: Any):
    mask = torch.zeros(1, 64, 32)
    mask[:, 16:48, 8:32] = 1
    made = region(pack, mask=mask).region("cat")
    assert vars(made.box) == {"left": 0.25, "top": 0.25, "right": 1.0, "bottom": 0.75}
    assert made.cells(4, 4).tolist() == [[0] * 4, [0, 1, 1, 1], [0, 1, 1, 1], [0] * 4]


@pytest.mark.parametrize("nested", [0, 1, 2])
def test_boxes_go_out_and_come_in_again(pack: Any, nested: int):
    one = region(pack, top=0.25)
    boxes, masks, text, subjects = pack.run("CompInvLayoutToBoxes", layout=one, width=64, height=128)
    label = {"type": "obj", "text": "", "desc": "cat", "palette": ["#d1590b"]}  # as ComfyUI's own box editor writes it
    assert boxes == [[{"x": 0, "y": 32, "width": 32, "height": 96, "metadata": label}]]
    assert masks.shape == (1, 128, 64) and "cat" in text and subjects == "cat"
    given = boxes if nested == 2 else boxes[0] if nested == 1 else boxes[0][0]
    again = region(pack, bounding_box=given, width=64, height=128)
    assert again.region("cat").box == one.region("cat").box


def to_layout(pack: Any, boxes: Any, subjects: str = "") -> Any:
    return pack.run("CompInvBoxesToLayout", boxes=boxes, subjects=subjects, width=64, height=64)[0]


def test_all_boxes_of_a_layout_come_back_by_their_labels(pack: Any):
    both = region(pack, "embedding:zippy", layout=region(pack, top=0.25), left=0.5, right=1.0)
    boxes = pack.run("CompInvLayoutToBoxes", layout=both, width=64, height=64)[0]
    for given in (boxes, boxes[0], [boxes[0][::-1]]):
        again = to_layout(pack, given)
        assert {r.phrase: r.box for r in again.regions} == {r.phrase: r.box for r in both.regions}


LEFT, RIGHT = {"x": 0, "y": 0, "width": 32, "height": 64}, {"x": 32, "y": 0, "width": 32, "height": 64}


@pytest.mark.parametrize(
    ("boxes", "subjects", "placed"),
    [
        ([LEFT, RIGHT], "cat, car", {"cat": 0, "car": 0.5}),
        ([LEFT, RIGHT], "cat\ncar\n", {"cat": 0, "car": 0.5}),
        (LEFT, "cat", {"cat": 0}),
        ([{**LEFT, "label": "car"}, {**RIGHT, "label": "cat"}], "cat, car", {"car": 0, "cat": 0.5}),
        ([{**LEFT, "label": "car"}, RIGHT], "cat, car", {"car": 0, "cat": 0.5}),
        ([{**LEFT, "label": "zippy"}, RIGHT], "car, embedding:zippy", {"embedding:zippy": 0, "car": 0.5}),
        ([{**LEFT, "label": "thing"}, {**RIGHT, "label": "thing"}], "cat, car", {"cat": 0, "car": 0.5}),
    ],
)
def test_a_box_is_of_the_subject_that_its_label_names_or_of_the_next(pack: Any, boxes: Any, subjects: str, placed: Any):
    assert {r.phrase: r.box.left for r in to_layout(pack, boxes, subjects).regions} == placed


@pytest.mark.parametrize(
    ("boxes", "subjects", "sentence"),
    [
        ([], "", "holds no box"),
        ([[LEFT], [RIGHT]], "cat", "boxes of 2 images"),
        ([LEFT, RIGHT], "cat", "box 2 has no subject"),
        ([LEFT], "", "box 1 has no subject"),
        ([{**LEFT, "label": "cat"}] * 2, "", 'two boxes of "cat"'),
        ([3], "cat", '"boxes" cannot be read'),
        ([{**LEFT, "width": 65}], "cat", "A box needs"),
    ],
)
def test_boxes_that_make_no_layout_are_refused(pack: Any, boxes: Any, subjects: str, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        to_layout(pack, boxes, subjects)


def editor(pack: Any, **inputs: Any) -> Any:
    return pack.nodes["CompInvLayoutEditor"].execute(**{"edits": "", "width": 64, "height": 32, **inputs})


def test_the_editor_gives_a_layout_on_as_it_came_and_shows_it_over_its_preview(pack: Any, microworld: Any):
    recovered = layout(pack, microworld, method="from attention")[0]
    assert recovered.preview is not None
    out = editor(pack, layout=recovered)
    shown, boxes, masks, picture, text = out.args
    assert shown is recovered and masks.shape == (2, 32, 64) and picture.ndim == 4
    assert [box["metadata"]["desc"] for box in boxes[0]] == [r.phrase for r in recovered.regions]
    assert out.ui["layout_json"] == [text] and out.ui["layout_background"]


def test_the_editors_edits_count_until_another_layout_comes(pack: Any):
    first, second = region(pack), region(pack, left=0.25)
    (made_of,) = editor(pack, layout=first).ui["layout_upstream"]
    edits = json.dumps({"regions": [{"subject": "cat", "box": [0, 0, 1, 1]}], "upstream": made_of})
    assert editor(pack, layout=first, edits=edits)[0].region("cat").box.right == 1
    assert editor(pack, layout=second, edits=edits)[0] is second
    assert editor(pack, edits=edits)[0].region("cat").box.right == 1


def test_the_editor_works_without_a_page(pack: Any):
    shown, boxes, masks, _, text = editor(pack, edits='{"cat": [0, 0, 0.5, 1]}').args
    assert boxes[0][0]["width"] == 32 and masks[0, 0].tolist() == [1.0] * 32 + [0.0] * 32
    assert editor(pack, edits=text)[0] == shown


def test_an_editor_with_nothing_to_show_says_what_to_do(pack: Any):
    with pytest.raises(ValueError, match='"edits" is empty and no layout is connected; draw a box'):
        editor(pack)


def test_of_two_layouts_the_second_counts(pack: Any):
    first = region(pack, "car", layout=region(pack))
    (merged, _) = pack.run("CompInvMergeLayouts", first=first, second=region(pack, "car", left=0.4))
    assert merged.region("car").box.left == 0.4 and merged.region("cat").box.left == 0.0


def test_swapped_subjects_take_each_others_place(pack: Any):
    both = region(pack, "car", layout=region(pack), left=0.5, right=1.0)
    (swapped, _) = pack.run("CompInvSwapRegions", layout=both, first="cat", second="car")
    assert swapped.region("cat").box == both.region("car").box
    assert [r.phrase for r in swapped.regions] == ["cat", "car"]


def test_twenty_subjects_have_their_regions(pack: Any):
    made = None
    for i in range(20):
        made = region(pack, f"thing{i}", left=i / 20, right=(i + 1) / 20, **({"layout": made} if made else {}))
    assert len(made.regions) == 20


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"subject": " "}, '"subject" is empty'),
        ({"left": 0.6}, "0 <= left < right <= 1"),
        ({"left": math.nan}, "0 <= left < right <= 1"),
        ({"left": 0.5}, "0 <= left < right <= 1"),
        ({"mask": torch.zeros(1, 8, 8)}, "black all over"),
        ({"mask": torch.ones(2, 8, 8)}, "holds 2 masks"),
        ({"mask": torch.ones(0, 8, 8)}, "holds 0 masks"),
        ({"mask": torch.ones(1, 0, 0)}, "one mask"),
        ({"mask": torch.ones(2, 1, 8, 8)}, r"has the shape \(2, 1, 8, 8\)"),
        ({"mask": torch.ones(8)}, r"has the shape \(8,\)"),
        ({"bounding_box": {"x": 0, "y": 0, "width": 10**400, "height": 8}}, "cannot be read"),
        ({"bounding_box": [{"x": 0, "y": 0, "width": 8, "height": 8}] * 2}, "holds 2 boxes"),
        ({"bounding_box": {"x": 0}}, "cannot be read"),
        ({"bounding_box": {"x": 0, "y": 0, "width": 80, "height": 8}}, "0 <= left < right <= 1"),
        ({"bounding_box": {"x": 0, "y": 0, "width": 8, "height": 8}, "mask": torch.ones(1, 8, 8)}, "Both"),
    ],
)
def test_a_region_that_cannot_be_is_refused(pack: Any, changes: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        region(pack, **changes)


def test_a_mask_of_another_shape_than_the_canvas_is_refused(pack: Any, microworld: Any):
    wide = region(pack, mask=torch.ones(1, 8, 16))
    with pytest.raises(ValueError, match="16 x 8 pixels and the canvas 64 x 64"):
        sample(pack, microworld, layout=wide, **STEER)


def test_swapping_what_is_not_there_is_refused(pack: Any):
    with pytest.raises(ValueError, match='no region of "dog"'):
        pack.run("CompInvSwapRegions", layout=region(pack), first="cat", second="dog")


def test_a_layout_without_regions_has_no_boxes(pack: Any):
    from compositional_inversion.compinv_core.layout.regions import Layout

    with pytest.raises(ValueError, match='"layout" has no region'):
        pack.run("CompInvLayoutToBoxes", layout=Layout((), "my boxes"), width=64, height=64)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"positive": []}, '"positive" is an empty conditioning'),
        ({"latent_image": {"samples": torch.zeros(0, 4, 8, 8)}}, r'"latent_image" has the shape \(0, 4, 8, 8\)'),
        ({"latent_image": {"samples": torch.zeros(1, 4, 1, 8, 8)}}, r'"latent_image" has the shape \(1, 4, 1, 8, 8\)'),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_a_sentence(pack: Any, microworld: Any, changes: Any, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        sample(pack, microworld, layout=region(pack), **STEER, **changes)


def test_a_bounding_box_is_there_only_where_one_is_connected(pack: Any):
    """Newer front ends have widgets for one, which would always give a box."""
    inputs = {part.id: part for part in pack.nodes["CompInvSetRegion"].define_schema().inputs}
    assert inputs["bounding_box"].as_dict()["forceInput"]
