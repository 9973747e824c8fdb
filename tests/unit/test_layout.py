import json
from dataclasses import replace

import pytest
import torch
from compositional_inversion.compinv_core.attention.energy import layout_energy
from compositional_inversion.compinv_core.attention.maps import (
    BACKGROUND,
    attention_maps,
    attention_probabilities,
    foreground_weights,
)
from compositional_inversion.compinv_core.layout.editing import edited, fingerprint, layout_from_json, whole_json
from compositional_inversion.compinv_core.layout.recovery import layout_from_attention
from compositional_inversion.compinv_core.layout.regions import (
    Box,
    Layout,
    Region,
    default_layout,
    region_from_mask,
)
from compositional_inversion.compinv_core.reading.rules import balancing_bias, steering_bias
from compositional_inversion.compinv_core.sampling.guidance import Guidance, correct
from compositional_inversion.compinv_core.sampling.report import Report, described
from compositional_inversion.compinv_core.sampling.schedules import Steering, progress

LEFT = Box(0, 0, 0.5, 1)


def test_attention_inside_its_region_costs_nothing():
    inside = LEFT.cells(8, 8)
    assert layout_energy([inside[None, None]], [0], [inside[None]]) == 0


def test_attention_outside_its_region_costs_one():
    inside = LEFT.cells(8, 8)
    assert layout_energy([1 - inside[None, None]], [0], [inside[None]]) == 1


def test_even_attention_in_half_the_canvas_costs_a_quarter():
    energy = layout_energy([torch.ones(1, 1, 8, 8)], [0], [LEFT.cells(8, 8)[None]])
    assert energy.item() == pytest.approx(0.25)


def test_a_subject_of_many_tokens_has_the_weight_of_one_of_one():
    inside = LEFT.cells(4, 4)
    maps = torch.stack([1 - inside, 1 - inside, 1 - inside, inside])[None]
    both = layout_energy([maps], [0, 0, 0, 1], [torch.stack([inside, inside])])
    assert both.item() == pytest.approx(0.5)


def test_energies_of_a_batch_do_not_mix():
    inside = LEFT.cells(4, 4)
    maps = torch.stack([inside, 1 - inside])[:, None]
    assert layout_energy([maps], [0], [inside[None]]).tolist() == [0, 1]


def test_maps_are_the_mean_over_all_heads():
    """The reference implementation reads the second half of the heads only."""
    q = torch.zeros(1, 4, 2 * 3)
    k = torch.zeros(1, 2, 2 * 3)
    q[..., 0], k[0, 0, 0] = 100.0, 100.0  # the first head looks at token 0 alone, the second at both alike
    maps = attention_maps(q, k, heads=2, columns=[0], height=2, width=2)
    assert torch.allclose(maps, torch.full((1, 1, 2, 2), 0.75))


def test_a_correction_lowers_the_energy_and_stops_at_the_threshold():
    energies = correct(
        torch.tensor([1.0, 0.1]).view(2, 1, 1, 1),
        sigma=1.0,
        energy=lambda z: z.square().flatten(),
        guidance=Guidance(strength=0.1, corrections=3, threshold=0.05),
    )[1]
    assert len(energies) == 3
    assert energies[2][0] < energies[1][0] < energies[0][0]
    assert energies[2][1] == energies[0][1]  # it was low enough from the start


def test_below_the_threshold_latents_do_not_change():
    start = torch.ones(2, 1, 1, 1)
    guidance = Guidance(0.1, 2, threshold=0.0)
    moved, met = correct(start, 1.0, lambda z: z.square().flatten(), guidance, settled=torch.tensor([True, False]))
    assert moved[0] == 1 and moved[1] < 1 and len(met) == 2
    settled = torch.tensor([True, True])
    assert len(correct(start, 1.0, lambda z: z.square().flatten(), guidance, settled=settled)[1]) == 1


def test_a_correction_is_the_papers_step():
    moved, _ = correct(
        torch.full((1, 1, 1, 1), 2.0), 3.0, lambda z: z.square().flatten(), Guidance(strength=0.01, corrections=1)
    )
    assert moved.item() == pytest.approx(2 - 3**2 * 0.01 * 2 * 2)


def test_guidance_is_active_in_the_first_fifth_of_a_schedule():
    sigmas = torch.linspace(10, 0, 51)
    assert sum(Guidance().is_active(progress(s.item(), sigmas), 50) for s in sigmas[:-1]) == 10


def test_two_spots_of_attention_become_two_boxes():
    maps = torch.full((2, 8, 8), 0.01)
    maps[0, 2:6, 0:3], maps[1, 2:6, 5:8] = 1.0, 1.0
    layout = layout_from_attention(maps, ["cat", "car"])
    cat, car = (region.box for region in layout.regions)
    assert layout.source == "attention"
    assert cat.right <= 0.5 <= car.left
    assert cat.top >= 0.2 and cat.bottom <= 0.8
    assert not layout.note


def test_attention_that_says_nothing_gives_the_default_boxes():
    layout = layout_from_attention(torch.ones(2, 8, 8), ["cat", "car"])
    assert layout.regions == default_layout(["cat", "car"]).regions
    assert layout.note == "attention is too diffuse to locate cat and car"


def test_overlapping_regions_are_separated():
    maps = torch.full((2, 8, 8), 0.01)
    maps[0, 2:6, 2:5], maps[1, 2:6, 3:6] = 1.0, 1.0
    layout = layout_from_attention(maps, ["embedding:cat", "car"])
    cat, car = (region.box for region in layout.regions)
    assert cat.overlap(car) <= 0.25
    assert min(box.right - box.left for box in (cat, car)) >= 0.4 - 1e-6
    assert layout.note == "overlapping, so separated: cat and car"


def test_a_layout_survives_json():
    layout = default_layout(["cat", "car"])
    again = layout_from_json(layout.to_json())
    assert [(r.phrase, r.box) for r in again.regions] == [(r.phrase, r.box) for r in layout.regions]


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"cat": 3}', '{"cat": [0, 0, 1]}', '{"cat": [0, 0, 2, 1]}', '{"cat": "x"}']
)
def test_boxes_that_cannot_be_are_refused(text: str):
    with pytest.raises(ValueError, match=r"boxes|box needs"):
        layout_from_json(text)


MASK = torch.tensor([[0.0, 1.0], [0.2, 0.6]])
WHOLE_LAYOUT = Layout(
    (Region("cat", Box(0.1, 0.2, 1 / 3, 0.9), None, 0.25), Region("embedding:zippy", LEFT, MASK)),
    "attention",
    "separated",
)


def test_the_whole_of_a_layout_comes_back_from_its_json():
    again = layout_from_json(whole_json(WHOLE_LAYOUT))
    assert (again.source, again.note) == ("attention", "separated")
    for region, read in zip(WHOLE_LAYOUT.regions, again.regions, strict=True):
        assert (read.phrase, read.box, read.confidence) == (region.phrase, region.box, region.confidence)
    assert again.regions[0].mask is None and again.regions[1].mask is not None
    assert torch.allclose(again.regions[1].mask, MASK, atol=0.5 / 255)  # a PNG has 256 levels
    assert whole_json(again) == whole_json(WHOLE_LAYOUT)


def test_a_subject_may_be_called_regions_or_upstream():
    text = '{"regions": [0, 0, 0.5, 1], "upstream": [0.5, 0, 1, 1]}'
    assert [region.phrase for region in edited(WHOLE_LAYOUT, text).regions] == ["regions", "upstream"]


@pytest.mark.parametrize(
    ("region", "said"),
    [
        ({}, "cannot be read"), ({"subject": "cat"}, "cannot be read"), ({"subject": "cat", "box": [0, 0, 1]}, "four edges"),
        ({"subject": "cat", "box": [0, 0, 1, 2]}, "A box needs"), ({"subject": "cat", "box": [0, 0, 1, 1], "mask": "x"}, "mask cannot be read"),
        ({"subject": "cat", "box": [0, 0, 1, 1], "confidence": 2}, "0 to 1"),
    ],
)  # fmt: skip
def test_a_region_that_cannot_be_is_refused_in_a_sentence(region: dict[str, object], said: str):
    with pytest.raises(ValueError, match=said) as raised:
        edited(None, json.dumps({"regions": [region]}))
    assert len(str(raised.value)) <= 300


def test_a_mask_that_says_it_is_huge_is_not_unpacked():
    text = whole_json(Layout((Region("cat", LEFT, torch.ones(1, 5000)),), "hand", ""))
    with pytest.raises(ValueError, match="5000 x 1 pixels, up to 4096 a side"):
        edited(None, text)


def test_a_text_of_many_megabytes_is_not_read():
    with pytest.raises(ValueError, match="letters, up to 16777216 are read"):
        edited(None, " " * 2**24 + "{}")


def test_a_subject_has_one_region():
    regions = [{"subject": "cat", "box": [0, 0, 1, 1]}] * 2
    with pytest.raises(ValueError, match='"edits" has two regions of "cat"'):
        edited(None, json.dumps({"regions": regions}))


def edits_of(layout: Layout) -> str:
    """What the editor writes when the cat has been moved."""
    box = {"regions": [{"subject": "cat", "box": [0, 0, 0.5, 0.5]}], "source": "my boxes"}
    return json.dumps({**box, "upstream": fingerprint(layout)})


def test_edits_count_until_another_layout_comes():
    other = replace(WHOLE_LAYOUT, regions=(Region("cat", LEFT),))
    assert edited(WHOLE_LAYOUT, edits_of(WHOLE_LAYOUT)).region("cat").box == Box(0, 0, 0.5, 0.5)
    assert edited(other, edits_of(WHOLE_LAYOUT)) is other
    assert edited(None, edits_of(WHOLE_LAYOUT)).region("cat").box == Box(0, 0, 0.5, 0.5)


def test_without_edits_the_layout_is_as_it_came_and_edits_by_hand_always_count():
    assert edited(WHOLE_LAYOUT, " ") is WHOLE_LAYOUT
    preview = torch.zeros(2, 2, 3)
    by_hand = edited(replace(WHOLE_LAYOUT, preview=preview), '{"cat": [0, 0, 1, 1]}')
    assert by_hand.region("cat").box == Box(0, 0, 1, 1) and by_hand.preview is preview
    with pytest.raises(ValueError, match='"edits" is empty and no layout is connected'):
        edited(None, "")


def test_layouts_that_look_the_same_have_one_fingerprint():
    near = replace(WHOLE_LAYOUT.regions[0], box=Box(0.1, 0.2, 1 / 3 + 1e-5, 0.9))
    masked = replace(WHOLE_LAYOUT.regions[1], mask=1 - MASK)
    assert fingerprint(WHOLE_LAYOUT) == fingerprint(replace(WHOLE_LAYOUT, regions=(near, WHOLE_LAYOUT.regions[1])))
    assert fingerprint(WHOLE_LAYOUT) != fingerprint(replace(WHOLE_LAYOUT, regions=(WHOLE_LAYOUT.regions[0], masked)))


def test_a_half_precision_models_small_gradients_are_not_lost():
    z = torch.ones(1, 1, 1, 1)
    small = 1e-8  # under the smallest number of half precision
    moved, _ = correct(
        z, 1.0, lambda z: 0.5 + small * z.half().float().flatten(), Guidance(strength=1e7, corrections=1)
    )
    assert moved.item() == pytest.approx(1 - 0.1, abs=1e-3)


def test_steering_favours_a_subject_inside_its_region_and_disfavours_it_outside():
    left, right = LEFT.cells(2, 2), 1 - LEFT.cells(2, 2)
    bias = steering_bias(torch.stack([left, right]), [[1, 2], [4]], length=6, strength=3.0)
    assert bias[0, 0].tolist() == [0, 3, 3, 0, -3, 0]
    assert bias[0, 1].tolist() == [0, -3, -3, 0, 3, 0]


def test_balance_gives_every_subject_the_same_amount():
    torch.manual_seed(1)
    q, k = 3 * torch.randn(2, 9, 6), torch.randn(2, 5, 6)
    owners, columns = [0, 0, 1], [1, 2, 4]

    def ratio(strength: float) -> torch.Tensor:
        """Of both subjects' amounts, in both pictures."""
        plain = attention_probabilities(q, k, 2, columns)
        bias = balancing_bias(plain, owners, columns, 5, strength=strength)
        maps = attention_maps(q, k, 2, columns, height=3, width=3, bias=bias)
        return maps[:, :2].sum((1, 2, 3)) / maps[:, 2].sum((1, 2))

    assert (ratio(0) / ratio(0).flip(0)).log().abs().min() > 0.1  # each picture needs something else
    assert torch.allclose(ratio(1.0), torch.ones(2), rtol=0.01)
    assert (ratio(0.5).log().abs() < 0.7 * ratio(0).log().abs()).all()


def test_steering_of_one_nat_multiplies_a_tokens_weight_by_e():
    q, k = torch.randn(1, 4, 6), torch.randn(1, 3, 6)
    bias = steering_bias(torch.ones(1, 2, 2), [[1]], length=3, strength=1.0)
    plain = attention_maps(q, k, 2, [0, 1], height=2, width=2)
    steered = attention_maps(q, k, 2, [0, 1], height=2, width=2, bias=bias)
    one_head = attention_maps(q[..., :3], k[..., :3], 1, [0, 1], height=2, width=2, bias=bias)
    ratio = one_head[:, 1] / one_head[:, 0]
    before = attention_maps(q[..., :3], k[..., :3], 1, [0, 1], height=2, width=2)
    assert torch.allclose(ratio, torch.e * before[:, 1] / before[:, 0], rtol=1e-4)
    assert (steered[:, 1] > plain[:, 1]).all()


def test_steering_decays_linearly_along_the_schedule_however_often_the_model_is_called():
    sigmas = torch.tensor([10.0, 5.0, 2.0, 1.0, 0.0])
    steering = Steering(8.0, until=0.5)
    assert [steering.at(progress(s, sigmas)) for s in (10.0, 10.0, 5.0, 3.0, 2.0, 1.0)] == [8, 8, 4, 4, 0, 0]
    assert Steering(8.0, until=0).at(0.0) == 0


def test_a_report_names_who_is_under_attended():
    maps = torch.stack([torch.full((2, 2), 9.0), torch.full((2, 2), 1.0)])
    report = Report(
        3, ("embedding:cat", "car"), maps[None], torch.tensor([0.5, 0.25]), torch.tensor([[0.8], [0.4]]), None
    )
    said = described([report])
    assert said.splitlines() == [
        "under-attended: car (less than half of an equal share); of the subjects' attention: cat 90%, car 10%",
        "step 3: share cat 90%, car 10%; in its region cat 50%, car 25%; energy 0.800 -> 0.400",
    ]


def test_foreground_is_where_attention_is_and_background_hardly_counts():
    weights = foreground_weights(torch.tensor([[[0.0, 0.2], [0.375, 1.0]]]))
    assert weights is not None
    assert torch.allclose(weights, torch.tensor([[[BACKGROUND, BACKGROUND], [(1 + BACKGROUND) / 2, 1.0]]]))


def test_attention_that_is_everywhere_shows_no_foreground():
    assert foreground_weights(1 + 0.05 * torch.rand(3, 8, 8)) is None


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (torch.ones(3, 4, 5), r"has shape \(3, 4, 5\)"),
        (torch.full((4, 4), torch.nan), "holds NaN"),
        (torch.zeros(4, 4), "black all over"),
    ],
)
def test_each_fault_of_a_mask_has_its_own_sentence(mask: torch.Tensor, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        Region("cat", LEFT, mask)


@pytest.mark.parametrize(
    "text",
    ['{"cat": [0, 0, 1, 1%s]}' % ("0" * 400), "[" * 100_000, '{"cat": [0, 0, 1, NaN]}', '{"cat": [0, 0, "%s", 1]}' % ("x" * 10**4), "[1]"],
)  # fmt: skip
def test_boxes_that_cannot_be_get_one_short_sentence(text: str):
    with pytest.raises(ValueError) as raised:
        layout_from_json(text)
    assert type(raised.value) is ValueError and len(str(raised.value)) <= 300 and "\n" not in str(raised.value)


@pytest.mark.parametrize("mask", [torch.ones(0, 0), torch.ones(8, 0), torch.ones(8), torch.ones(1, 8, 8)])
def test_a_mask_that_is_no_picture_is_refused(mask: torch.Tensor):
    with pytest.raises(ValueError, match=r'The mask for "cat" has shape \(.*\); one mask'):
        region_from_mask("cat", mask)
