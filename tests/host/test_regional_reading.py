"""Regional reading on the real host: each cell of the picture reads the context that it may, and no other."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from test_sampling import GUIDANCE, ksampler, layout, negative, prompt, sample
from test_sampling_with_others import controlnet  # noqa: F401 - a fixture

LONG = "very " * 90  # with a few words more, 154 tokens
OFF = {"steering": 0.0, "guidance": 0.0, "balance": 0.0}
EVERYWHERE, LEFT, RIGHT = [0, 0, 1, 1], [0, 0, 0.5, 1], [0.5, 0, 1, 1]
STEERED = {**OFF, "steering": 6.0}
READS = ("regional", "whole prompt")
TWO = "a photo of embedding:blue-cat and embedding:green-car"


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture
def two(microworld: Any) -> Any:
    """The micro world, whose CLIP knows a blue cat and a green car by words of two vectors each."""
    from compositional_inversion.compinv_core.concept import Concept
    from compositional_inversion.compinv_core.host.text_encoder import vocabulary, with_concept

    model, clip, vae = microworld
    words = vocabulary(clip, "clip_l")
    for color, thing in (("blue", "cat"), ("green", "car")):
        vectors = torch.stack([words.vector(word) for word in (color, thing)])
        clip = with_concept(clip, Concept(f"{color}-{thing}", {"clip_l": vectors}, thing))
    return model, clip, vae


def boxes(**places: list[float]) -> Any:
    """A layout of subjects by their bare names, "_" for "-"."""
    from compositional_inversion.compinv_core.layout.editing import layout_from_json

    return layout_from_json(json.dumps({name.replace("_", "-"): edges for name, edges in places.items()}))


def with_variants(microworld: Any, positive: Any, class_words: str, learnt: Mapping[int, str]) -> Any:
    """A conditioning of which the subjects' regions read these texts, and all other cells the class words."""
    from compositional_inversion.compinv_core.host.contexts import VARIANTS
    from compositional_inversion.compinv_core.reading.regional import Variant, Variants

    def variant(text: str) -> Variant:
        return Variant(negative(microworld, text)[0][0], [s.columns for s in entry["compinv_subjects"]])

    ((own, entry),) = positive
    written = Variant(own, [s.columns for s in entry["compinv_subjects"]])
    variants = Variants(written, variant(class_words), {i: variant(text) for i, text in learnt.items()})
    return [[own, {**entry, VARIANTS: variants}]]


def regularized(microworld: Any, regions: Any, *, model: Any = None, **changes: Any) -> Any:
    """The MODEL as the nodes patch it."""
    from compositional_inversion.compinv_core.host.sampler import with_layout
    from compositional_inversion.compinv_core.reading.regional import Regional
    from compositional_inversion.compinv_core.sampling.guidance import Guidance
    from compositional_inversion.compinv_core.sampling.schedules import Balance, Steering

    how = {**OFF, "reading": "regional", "class_words": "off", **changes}
    guidance = Guidance(how["guidance"], GUIDANCE["corrections"], GUIDANCE["guidance_until"], GUIDANCE["threshold"])
    return with_layout(
        model or microworld[0],
        regions,
        Steering(how["steering"]),
        guidance,
        balance=Balance(how["balance"]),
        regional=Regional(how["reading"], how["class_words"]),
    )


@pytest.mark.parametrize(
    ("own", "other", "unwanted"),
    [("", "", ""), ("", LONG, ""), (LONG, "", ""), ("", "", "bad " * 100), (LONG, LONG, "bad " * 160)],
)
def test_what_is_read_everywhere_is_the_picture(pack: Any, microworld: Any, own: str, other: str, unwanted: str):
    """Where a region is the whole canvas, class words are not read at all; and a context that all cells read is a prompt.

    Prompts of 77 and 154 tokens, negative ones that ComfyUI repeats to the same length or runs by themselves, a batch of two.
    The latents, of size 1, are those of another kernel of attention, float32 in another order of its sums: 3e-5 was seen.
    """
    first = prompt(pack, microworld, f"a photo of a cat and a {own}car", "cat")
    second = f"a photo of a {other}kite"
    rest = {"negative": negative(microworld, unwanted), "steps": 3}
    model = regularized(microworld, boxes(cat=EVERYWHERE))
    text = f"a photo of a cat and a {own}car"
    plain = [ksampler(pack, microworld, positive=p, **rest) for p in (first, negative(microworld, second))]
    assert not torch.allclose(*plain, atol=0.1)
    for read, hidden, expected in ((text, second, plain[0]), (second, text, plain[1])):
        positive = with_variants(microworld, first, hidden, {0: read})
        assert torch.allclose(ksampler(pack, microworld, model, positive=positive, **rest), expected, atol=2e-4)
    assert torch.equal(ksampler(pack, microworld, positive=first, **rest), plain[0])


@pytest.mark.parametrize("unwanted", ["", "bad " * 100])
def test_regions_read_the_prompt_with_their_own_concept_alone(pack: Any, two: Any, unwanted: str):
    positive = prompt(pack, two, TWO, "blue-cat, green-car")
    regions, rest = boxes(blue_cat=LEFT, green_car=RIGHT), {"negative": negative(two, unwanted), "steps": 3}
    both, whole = (
        ksampler(pack, two, regularized(two, regions, reading=how), positive=positive, **rest) for how in READS
    )
    assert not torch.allclose(both, whole, atol=0.1)
    variants = positive[0][1]["compinv_variants"]
    for index, text in ((0, "a photo of embedding:blue-cat and car"), (1, "a photo of cat and embedding:green-car")):
        assert torch.equal(variants.learnt[index].encoded, negative(two, text)[0][0])
    assert torch.equal(variants.class_words.encoded, negative(two, "a photo of cat and car")[0][0])


def test_a_region_changes_nothing_of_what_another_reads(pack: Any, two: Any):
    """In one cross-attention, the cells of a region give what they give with its own prompt alone."""
    from compositional_inversion.compinv_core.attention.maps import attention_probabilities
    from compositional_inversion.compinv_core.reading.regional import Regional, read_contexts
    from compositional_inversion.compinv_core.reading.rules import Look, Reading

    ((_, entry),) = prompt(pack, two, TWO, "blue-cat, green-car")
    read = read_contexts(entry["compinv_variants"], Regional(), [0, 1])
    assert read is not None
    contexts = read.contexts([0, 1])
    left = torch.zeros(1, 4, 4)
    left[..., :2] = 1
    rules = read.rules(contexts, lambda h, w: torch.cat([left, 1 - left]))
    q = torch.randn(1, 16, read.encoded.shape[-1])
    bias = Reading(contexts, rules).bias(Look(q, read.encoded, 1, 4, 4, group="fine"))
    found = attention_probabilities(q, read.encoded, 1, range(231), bias=bias)[0, 0].view(3, 77, 4, 4)
    for context, cells in ((1, slice(0, 2)), (2, slice(2, 4))):
        alone = attention_probabilities(q, read.variants[context].encoded, 1, range(77))[0, 0].view(77, 4, 4)
        assert torch.allclose(found[context][..., cells], alone[..., cells], atol=1e-6)
        assert found[[i for i in range(3) if i != context]][..., cells].eq(0).all()


def test_without_a_concept_both_ways_of_reading_are_one(pack: Any, microworld: Any):
    regions = layout(pack, microworld)[0]
    found = [sample(pack, microworld, layout=regions, reading=how, **STEERED)[0]["samples"].clone() for how in READS]
    assert torch.equal(*found)
    stock = ksampler(pack, microworld)
    assert torch.equal(ksampler(pack, microworld, regularized(microworld, regions, class_words="coarse blocks")), stock)


def test_the_whole_prompt_is_read_as_by_one_that_knows_no_other(pack: Any, two: Any):
    """Steered, guided and balanced, bit for bit."""
    ((own, entry),) = prompt(pack, two, TWO, "blue-cat, green-car")
    known = {key: value for key, value in entry.items() if key != "compinv_variants"}
    regions = boxes(blue_cat=LEFT, green_car=RIGHT)
    how = {"steering": 6.0, "guidance": 5.0, "balance": 0.5}
    whole = regularized(two, regions, reading="whole prompt", **how)
    found, expected = (ksampler(pack, two, whole, positive=[[own, e]]) for e in (entry, known))
    assert torch.equal(found, expected)
    regional = ksampler(pack, two, regularized(two, regions, **how), positive=[[own, entry]])
    assert not torch.allclose(regional, expected, atol=0.01)
    assert torch.equal(ksampler(pack, two, positive=[[own, entry]]), ksampler(pack, two, positive=[[own, {}]]))


@pytest.mark.parametrize(
    "how", [{"steering": 6.0}, {"balance": 1.0}, {"steering": 6.0, "balance": 1.0}, {"guidance": 5.0, "steering": 6.0}]
)
def test_beside_steering_balance_and_guidance_a_hidden_context_changes_nothing(
    pack: Any, microworld: Any, how: dict[str, float]
):
    """Its tokens are the subjects', too, and would be steered, balanced and guided. Tolerance as above."""
    own = prompt(pack, microworld, "a photo of a cat and a car", "cat")
    hidden = with_variants(microworld, own, "a photo of a cat and a car", {0: "a photo of a cat and a car"})
    regions = boxes(cat=EVERYWHERE)
    found = ksampler(pack, microworld, regularized(microworld, regions, **how), positive=hidden, steps=3)
    expected = ksampler(pack, microworld, regularized(microworld, regions, **how), positive=own, steps=3)
    assert torch.allclose(found, expected, atol=2e-4)


def test_layouts_on_one_model_add_up_in_one_bias(pack: Any, two: Any):
    """3 nats twice are 6, also where contexts are hidden; a sum of outputs would be something else."""
    positive, regions = prompt(pack, two, TWO, "blue-cat, green-car"), boxes(blue_cat=LEFT, green_car=RIGHT)
    once = regularized(two, regions, steering=6.0)
    twice = regularized(two, regions, model=regularized(two, regions, steering=3.0), steering=3.0)
    found, expected = (ksampler(pack, two, model, positive=positive, steps=3) for model in (twice, once))
    assert torch.allclose(found, expected, atol=2e-4)


def test_a_controlnet_reads_the_prompt_alone(pack: Any, two: Any, controlnet: Any):  # noqa: F811
    import nodes

    seen: list[tuple[int, ...]] = []
    seeing = controlnet.control_model.register_forward_pre_hook(
        lambda _, __, named: seen.append(tuple(named["context"].shape)), with_kwargs=True
    )
    positive, other = nodes.ControlNetApplyAdvanced().apply_controlnet(
        prompt(pack, two, TWO, "blue-cat, green-car"),
        negative(two),
        controlnet,
        torch.rand(1, 64, 64, 3),
        1.0,
        0.0,
        1.0,
    )
    regions = boxes(blue_cat=LEFT, green_car=RIGHT)
    try:
        for how in ({}, {"guidance": 5.0}):
            seen.clear()
            model = regularized(two, regions, **how)
            found = ksampler(pack, two, model, positive=positive, negative=other, steps=2)
            assert found.isfinite().all() and seen and all(shape[1] == 77 for shape in seen)
    finally:
        seeing.remove()


def test_class_words_in_coarse_blocks_are_what_a_patch_of_these_blocks_reads(pack: Any, two: Any):
    """Without a layout. The reference swaps what is read, by ComfyUI's own patch, in the conditional rows."""
    positive = prompt(pack, two, TWO, "blue-cat, green-car")
    class_words = negative(two, "a photo of cat and car")[0][0]

    def swapped(n: Any, context: Any, value: Any, options: dict[str, Any]) -> Any:
        if options["activations_shape"][-1] < 8:
            rows = context.chunk(len(options["cond_or_uncond"]))
            kept = zip(rows, options["cond_or_uncond"], strict=True)
            context = torch.cat([row if kind else class_words.expand_as(row) for row, kind in kept])
        return n, context, context

    reference = two[0].clone()
    reference.set_model_attn2_patch(swapped)
    expected = ksampler(pack, two, reference, positive=positive)
    coarse = regularized(two, None, class_words="coarse blocks")
    assert torch.allclose(ksampler(pack, two, coarse, positive=positive), expected, atol=2e-4)
    assert not torch.allclose(expected, ksampler(pack, two, positive=positive), atol=0.1)
    regions = boxes(blue_cat=LEFT, green_car=RIGHT)
    both = [
        ksampler(pack, two, regularized(two, regions, class_words=words), positive=positive)
        for words in ("off", "coarse blocks")
    ]
    assert not torch.allclose(*both, atol=0.01)


def test_a_concept_without_a_region_is_read_outside_all_regions(pack: Any, two: Any):
    """Were it in class words there, it would be nowhere."""
    from compositional_inversion.compinv_core.reading.regional import Regional, read_contexts

    variants = prompt(pack, two, TWO, "blue-cat, green-car")[0][1]["compinv_variants"]
    read = read_contexts(variants, Regional(), [1])
    assert read is not None
    assert [*read.variants] == [variants.own, variants.learnt[1]] and read.of_regions == [1]
    assert read_contexts(variants, Regional(), []) is None
    coarse = read_contexts(variants, Regional(class_words="coarse blocks"), [1])
    assert coarse is not None and coarse.of_coarse == 2 and coarse.variants[2] is variants.class_words


def test_a_concept_that_is_no_subject_is_learnt_everywhere(pack: Any, two: Any):
    """A style, or what the user gave no region: it has nowhere to be kept to."""
    variants = prompt(pack, two, TWO, "blue-cat")[0][1]["compinv_variants"]
    assert [*variants.learnt] == [0] and variants.learnt[0] is variants.own
    assert torch.equal(variants.class_words.encoded, negative(two, "a photo of cat and embedding:green-car")[0][0])


def test_a_concept_of_two_subjects_is_learnt_for_both(pack: Any, two: Any):
    text = "a big embedding:blue-cat and a small embedding:blue-cat"
    variants = prompt(pack, two, text, "big embedding:blue-cat, small embedding:blue-cat")[0][1]["compinv_variants"]
    assert variants.learnt[0] is variants.learnt[1] is variants.own


def test_what_is_concatenated_behind_the_prompt_is_behind_each_of_its_contexts(pack: Any, two: Any):
    import nodes

    concat, average = nodes.ConditioningConcat().concat, nodes.ConditioningAverage().addWeighted
    own, more = prompt(pack, two, TWO, "blue-cat, green-car"), negative(two, "at night")
    regions = boxes(blue_cat=LEFT, green_car=RIGHT)
    (longer,) = concat(own, more)
    found = ksampler(pack, two, regularized(two, regions), positive=longer)
    alone = ksampler(pack, two, regularized(two, regions), positive=own)
    assert not torch.allclose(found, alone, atol=0.05)
    from compositional_inversion.compinv_core.host.contexts import variants_of

    (read, entry), (((night, _),)) = longer[0], more
    variants = variants_of({**entry, "cross_attn": read})
    assert variants is not None and torch.equal(variants.class_words.encoded[:, 77:], night)
    (changed,) = average(own, more, 0.5)
    whole = regularized(two, regions, reading="whole prompt")
    stays = (
        ksampler(pack, two, whole, positive=changed),
        ksampler(pack, two, regularized(two, regions), positive=changed),
    )
    assert torch.equal(*stays)


def combined(pack: Any, two: Any) -> Any:
    """Two prompts, as Conditioning (Combine) puts them together."""
    return prompt(pack, two, "embedding:blue-cat", "blue-cat") + prompt(pack, two, "embedding:green-car", "green-car")


def on_areas(pack: Any, two: Any) -> Any:
    import nodes

    first, second = ([part] for part in combined(pack, two))
    left = nodes.ConditioningSetAreaPercentage().append(first, 0.5, 1.0, 0.0, 0.0, 1.0)[0]
    return left + nodes.ConditioningSetAreaPercentage().append(second, 0.5, 1.0, 0.5, 0.0, 1.0)[0]


def in_turn(pack: Any, two: Any) -> Any:
    import node_helpers

    both = prompt(pack, two, TWO, "blue-cat, green-car")
    first = node_helpers.conditioning_set_values(both, {"start_percent": 0.0, "end_percent": 0.4})
    return first + node_helpers.conditioning_set_values(both, {"start_percent": 0.4, "end_percent": 1.0})


@pytest.mark.parametrize("made", [combined, on_areas, in_turn])
def test_prompts_on_areas_and_ranges_of_steps_read_by_region(pack: Any, two: Any, made: Any):
    """The regions leave cells of the areas free: where a region is all of its prompt's area, there is nothing to tell apart."""
    regions = boxes(blue_cat=[0, 0.2, 0.4, 0.8], green_car=[0.6, 0.2, 1, 0.8])
    positive = made(pack, two)
    found, again, whole = (
        ksampler(pack, two, regularized(two, regions, steering=6.0, reading=how), positive=positive)
        for how in ("regional", "regional", "whole prompt")
    )
    assert found.isfinite().all() and torch.equal(found, again) and not torch.allclose(found, whole, atol=1e-2)


@pytest.mark.parametrize("how", [{"denoise": 0.5}, {"latent_image": "inpainting"}, {"cfg": 1.0}])
def test_image_to_image_inpainting_and_no_guidance_scale(pack: Any, two: Any, how: dict[str, Any]):
    latent = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    if how.pop("latent_image", None):
        mask = torch.zeros(1, 64, 64)
        mask[:, :, 32:] = 1
        latent["noise_mask"] = mask
    inputs = {"positive": prompt(pack, two, TWO, "blue-cat, green-car"), "latent_image": latent, **how}
    regions = boxes(blue_cat=LEFT, green_car=RIGHT)
    found, whole = (
        ksampler(pack, two, regularized(two, regions, steering=6.0, reading=read), **inputs) for read in READS
    )
    assert found.isfinite().all() and not torch.allclose(found, whole, atol=1e-2)
    if "noise_mask" in latent:
        assert torch.allclose(found[..., :4], latent["samples"][..., :4], atol=1e-5)


def test_beside_another_packs_attention_its_own_part_stays(pack: Any, two: Any):
    """What it makes of plain attention stays, here nothing; what regional reading changes of that is added."""
    from comfy.ldm.modules.attention import attention_pytorch

    def plain(q: Any, k: Any, v: Any, options: dict[str, Any]) -> Any:
        return attention_pytorch(q, k, v, options["n_heads"])

    replaced = two[0].clone()
    for block, number in (("input", 1), ("middle", 0), ("output", 2)):
        replaced.set_model_attn1_replace(plain, block, number, 0)
        replaced.set_model_attn2_replace(plain, block, number, 0)
    positive, regions = prompt(pack, two, TWO, "blue-cat, green-car"), boxes(blue_cat=LEFT, green_car=RIGHT)
    alone, beside = (
        ksampler(pack, two, regularized(two, regions, model=model), positive=positive, steps=2)
        for model in (two[0], replaced)
    )
    assert torch.allclose(beside, alone, atol=2e-4)


def test_self_attention_between_regions_is_bounded_for_the_prompt_alone(pack: Any, two: Any, monkeypatch: Any):
    """Its first steps differ, the reading being the same; at CFG 0 the unconditional branch alone is left, and that does not."""
    import compositional_inversion.compinv_core.host.sampler as host
    from compositional_inversion.compinv_core.sampling.schedules import Bounding

    positive, regions = prompt(pack, two, TWO, "blue-cat, green-car"), boxes(blue_cat=LEFT, green_car=RIGHT)
    model = regularized(two, regions)
    bounded = {cfg: ksampler(pack, two, model, positive=positive, cfg=cfg) for cfg in (4.0, 1e-9)}
    monkeypatch.setattr(host, "BOUNDING", Bounding(0))
    free = {cfg: ksampler(pack, two, model, positive=positive, cfg=cfg) for cfg in (4.0, 1e-9)}
    assert not torch.allclose(bounded[4.0], free[4.0], atol=1e-2)
    assert torch.allclose(bounded[1e-9], free[1e-9], atol=1e-4)


def test_beside_packs_that_merge_or_tile_cells_self_attention_is_theirs(pack: Any, two: Any):
    from comfy_extras import nodes_hypertile, nodes_tomesd

    positive, regions = prompt(pack, two, TWO, "blue-cat, green-car"), boxes(blue_cat=LEFT, green_car=RIGHT)
    for patched in (
        nodes_tomesd.TomePatchModel.execute(two[0], 0.5)[0],
        nodes_hypertile.HyperTile.execute(two[0], 32, 1, 0, False)[0],
    ):
        found, without = (
            ksampler(pack, two, regularized(two, regions, model=model), positive=positive, steps=2)
            for model in (patched, two[0])
        )
        assert found.isfinite().all() and not torch.equal(found, without)
