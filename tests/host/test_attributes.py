"""Attributes on the real host: each block reads, in each stage, the prompt with the attributes that act there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_regional_reading import EVERYWHERE, LEFT, OFF, RIGHT, boxes, regularized
from test_sampling import ksampler, negative

TEXT = "a photo of a cat"
MOST = {"sampler_name": "euler", "scheduler": "normal", "steps": 8}
WORDS = {"colour": "blue", "style": "striped", "object": "car", "layout": "small"}
BLUE = "a photo of a blue cat"
KEPT = {"cells": "as learnt", "table": "", "subjects": ""}


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.inference_mode():
        yield


def words(clip: Any, **chosen: str) -> Any:
    """Vectors of ordinary words, by attribute."""
    from compositional_inversion.compinv_core.host.text_encoder import vocabulary

    known = vocabulary(clip, "clip_l")
    return {name: {"clip_l": known.vector(word)[None].clone()} for name, word in chosen.items()}


@pytest.fixture
def thing(microworld: Any) -> Any:
    """A concept whose attributes are ordinary words, so that what they read is known."""
    return of_words(microworld, "thing", **WORDS)


def of_words(microworld: Any, name: str, cells: str = "", **chosen: str) -> Any:
    from compositional_inversion.compinv_core.concept import Concept
    from compositional_inversion.compinv_core.reading.table import MATTE, Table

    attributes = words(microworld[1], **chosen)
    cells = cells or str(Table(MATTE.cuts, {role: MATTE.lines[role] for role in chosen}))
    return Concept(
        name, attributes.get("object", next(iter(attributes.values()))), "cat", attributes=attributes, cells=cells
    )


def attribute_prompt(pack: Any, microworld: Any, concept: Any, text: str = TEXT, **inputs: Any) -> Any:
    off = dict.fromkeys(("colour_1", "style_1", "object_1", "layout_1"), False)
    where = {**KEPT, **({"cells": "table"} if "table" in inputs else {})}
    model = inputs.pop("model", microworld[0])
    return pack.run(
        "CompInvAttributePrompt",
        model=model,
        clip=microworld[1],
        text=text,
        **({"concept_1": concept} if concept is not None else {}),
        **{**where, **off, **inputs},
    )


def reading(microworld: Any, cells: dict[tuple[str, int], str], cuts: tuple[float, ...] = ()) -> Any:
    """The MODEL whose blocks read other texts in place of the conditional prompt, by ComfyUI's own patch: the reference."""
    sampling = microworld[0].get_model_object("model_sampling")
    rows = {text: negative(microworld, text)[0][0] for text in cells.values()}

    def swapped(n: Any, context: Any, value: Any, options: dict[str, Any]) -> Any:
        timestep = sampling.timestep(options["sigmas"][:1]).item()
        stage = 1 + sum(timestep < cut for cut in cuts)
        text = cells.get(("{} {}".format(*options["block"]), stage))
        if text is not None:
            own = zip(context.chunk(len(options["cond_or_uncond"])), options["cond_or_uncond"], strict=True)
            context = torch.cat([row if kind else rows[text].expand_as(row) for row, kind in own])
        return n, context, context

    model = microworld[0].clone()
    model.set_model_attn2_patch(swapped)
    return model


def applied(microworld: Any, **how: Any) -> Any:
    return regularized(microworld, None, **how)


def test_switched_off_it_is_the_plain_prompt_bit_for_bit(pack: Any, microworld: Any, thing: Any):
    plain = ksampler(pack, microworld, positive=negative(microworld, TEXT), **MOST)
    none = attribute_prompt(pack, microworld, thing)[0]
    empty = attribute_prompt(pack, microworld, thing, colour_1=True, object_1=True, table="colour: none\nobject: none")[
        0
    ]
    unread = attribute_prompt(pack, microworld, thing, colour_1=True)[0]
    for positive, model in ((none, applied(microworld)), (empty, applied(microworld)), (unread, None)):
        assert torch.equal(ksampler(pack, microworld, model, positive=positive, **MOST), plain)
    assert torch.equal(ksampler(pack, microworld, positive=negative(microworld, TEXT), **MOST), plain)


def test_in_a_run_that_does_not_meet_its_stages_it_is_the_plain_prompt_bit_for_bit(
    pack: Any, microworld: Any, thing: Any
):
    latent = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    early = attribute_prompt(pack, microworld, thing, layout_1=True)[0]
    how = {**MOST, "latent_image": latent, "denoise": 0.4}
    plain = ksampler(pack, microworld, positive=negative(microworld, TEXT), **how)
    assert torch.equal(ksampler(pack, microworld, applied(microworld), positive=early, **how), plain)


@pytest.mark.parametrize(
    ("role", "place", "stage", "text"),
    [
        ("colour", "output 3", 1, "a photo of a blue cat"),
        ("colour", "input 1", 2, "a photo of a blue cat"),
        ("object", "middle 0", 2, "a photo of a car"),
        ("object", "output 1", 3, "a photo of a car"),
        ("style", "output 2", 4, "a photo of a cat, in the style of striped"),
        ("layout", "input 3", 1, "a photo of a cat, with the layout of small"),
    ],
)
def test_a_cell_reads_what_a_patch_of_that_block_and_stage_reads(
    pack: Any, microworld: Any, thing: Any, role: str, place: str, stage: int, text: str
):
    """ComfyUI repeats the negative prompt to the length of all contexts: float32 in another order of its sums, 3e-5 was seen."""
    cuts = (750.0, 500.0, 250.0)
    table = f"stages: 750, 500, 250\n{role}: {place} in {stage}"
    written = "a photo of a {colour} cat" if role == "colour" else TEXT
    positive = attribute_prompt(pack, microworld, thing, written, table=table, **{f"{role}_1": True})[0]
    plain = ksampler(pack, microworld, positive=negative(microworld, TEXT), **MOST)
    found = ksampler(pack, microworld, applied(microworld), positive=positive, **MOST)
    model = reading(microworld, {(place, stage): text}, cuts)
    expected = ksampler(pack, microworld, model, positive=negative(microworld, TEXT), **MOST)
    assert torch.allclose(found, expected, atol=2e-4)
    assert not torch.allclose(found, plain, atol=2e-3)


def test_attributes_of_three_concepts_are_read_each_in_its_cells(pack: Any, microworld: Any):
    """The colour of one, the style of another, the layout of a third."""
    three = [of_words(microworld, name, **{role: word}) for name, role, word in (
        ("one", "colour", "blue"), ("two", "style", "striped"), ("three", "layout", "small"),
    )]  # fmt: skip
    more = {"concept_2": three[1], "style_2": True, "concept_3": three[2], "layout_3": True}
    positive, read = attribute_prompt(pack, microworld, three[0], colour_1=True, **more)
    fine, coarse = ("input 1", "output 2", "output 3"), ("input 3", "middle 0", "output 0", "output 1")
    both = "a photo of a cat, blue colour, in the style of striped"
    cells = {(place, stage): both for place in fine for stage in (1, 2)}
    cells |= {(place, 1): "a photo of a cat, with the layout of small" for place in coarse}
    model = reading(microworld, cells, (750, 500, 250))
    expected = ksampler(pack, microworld, model, positive=negative(microworld, TEXT), **MOST)
    found = ksampler(pack, microworld, applied(microworld), positive=positive, **MOST)
    assert torch.allclose(found, expected, atol=2e-4)
    assert read.splitlines()[:4] == [
        "stage 1, timesteps 1000 to 750:",
        '  input 1, output 2, output 3: "a photo of a cat, embedding:one-colour colour, in the style of embedding:two-style"',
        '  input 3, middle 0, output 0, output 1: "a photo of a cat, with the layout of embedding:three-layout"',
        "stage 2, timesteps 750 to 500:",
    ]


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m", "heun", "uni_pc"])
def test_any_sampler_reads_by_cell(pack: Any, microworld: Any, thing: Any, sampler: str):
    positive = attribute_prompt(pack, microworld, thing, "a photo of a {colour} cat", colour_1=True, object_1=True)[0]
    how = {"sampler_name": sampler, "scheduler": "karras", "steps": 4}
    fine, coarse = ("input 1", "output 2", "output 3"), ("input 3", "middle 0", "output 0", "output 1")
    cells = {(place, stage): BLUE for place in fine for stage in (1, 2)}
    cells |= {(place, stage): "a photo of a car" for place in coarse for stage in (2, 3)}
    model = reading(microworld, cells, (750, 500, 250))
    expected = ksampler(pack, microworld, model, positive=negative(microworld, TEXT), **how)
    found = ksampler(pack, microworld, applied(microworld), positive=positive, **how)
    assert torch.allclose(found, expected, atol=1e-3)


def test_the_regularized_sampler_reads_by_cell_as_well(pack: Any, microworld: Any, thing: Any):
    from test_sampling import sample

    positive = attribute_prompt(pack, microworld, thing, colour_1=True)[0]
    found = ksampler(pack, microworld, applied(microworld), positive=positive)
    assert torch.equal(sample(pack, microworld, positive=positive, **OFF)[0]["samples"], found)


def test_layers_of_p_plus_are_read_each_in_its_block(pack: Any, microworld: Any):
    """With the four attributes on, at the cells that they are mixed by: every block reads its own layer."""
    cells = "IN01: input 1\nIN03: input 3\nMID: middle 0\nOUT00: output 0\nOUT01: output 1\nOUT02: output 2\nOUT03: output 3"
    layers = dict(
        zip(
            ("IN01", "IN03", "MID", "OUT00", "OUT01", "OUT02", "OUT03"),
            ["red", "cat", "car", "cup", "kite", "blue", "green"],
            strict=True,
        )
    )
    concept = of_words(microworld, "layers", cells, **layers)
    text = "a photo of a {object}"
    shape = attribute_prompt(pack, microworld, concept, text, object_1=True)[0]
    places = {"input 3": "cat", "middle 0": "car", "output 0": "cup", "output 1": "kite"}
    model = reading(microworld, {(place, 1): f"a photo of a {word}" for place, word in places.items()})
    expected = ksampler(pack, microworld, model, positive=negative(microworld, TEXT), **MOST)
    found = ksampler(pack, microworld, applied(microworld), positive=shape, **MOST)
    assert torch.allclose(found, expected, atol=2e-4)


def two_subjects(pack: Any, microworld: Any, thing: Any, text: str = "a photo of a {colour} cat and a car") -> Any:
    first = text.split(" and ")[0].removeprefix("a photo of a ")
    return attribute_prompt(
        pack, microworld, thing, text, colour_1=True, subjects=f"{first}, car", table="colour: output 2, output 3"
    )[0]  # fmt: skip


def test_an_attribute_in_a_subjects_phrase_is_read_in_its_region_alone(pack: Any, microworld: Any, thing: Any):
    """Where its region is the whole canvas it is read everywhere; where it is none, nowhere."""
    positive = two_subjects(pack, microworld, thing)
    plain = negative(microworld, "a photo of a cat and a car")
    assert torch.equal(positive[0][0], plain[0][0])
    blue = reading(microworld, {(place, 1): "a photo of a blue cat and a car" for place in ("output 2", "output 3")})
    expected = ksampler(pack, microworld, blue, positive=plain)
    everywhere = ksampler(pack, microworld, regularized(microworld, boxes(cat=EVERYWHERE)), positive=positive)
    nowhere = ksampler(pack, microworld, regularized(microworld, boxes(car=EVERYWHERE)), positive=positive)
    assert torch.allclose(everywhere, expected, atol=2e-4)
    half = ksampler(pack, microworld, regularized(microworld, boxes(cat=LEFT, car=RIGHT)), positive=positive)
    assert not torch.allclose(half, everywhere, atol=1e-2)
    assert not torch.allclose(half, ksampler(pack, microworld, positive=plain), atol=1e-2)
    assert torch.allclose(nowhere, expected, atol=2e-4)  # without a region of its own it is read outside of all others


def test_an_object_that_is_a_subject_stands_in_the_place_of_its_class_word(pack: Any, microworld: Any, thing: Any):
    text, subjects = "a photo of a red cat and a kite", "red cat, kite"
    ((_, entry),) = attribute_prompt(pack, microworld, thing, text, object_1=True, subjects=subjects)[0]
    assert [subject.phrase for subject in entry["compinv_subjects"]] == ["red cat", "kite"]
    plain, learnt = entry["compinv_by_cell"].prompts
    assert torch.equal(plain.own.encoded, negative(microworld, text)[0][0])
    for variant, own in (
        (learnt.own, "a red car and"),
        (learnt.learnt[0], "a red car and"),
        (learnt.class_words, "a red cat and"),
    ):
        assert torch.equal(variant.encoded, negative(microworld, f"a photo of {own} a kite")[0][0])
    assert learnt.own.columns == plain.own.columns


@pytest.mark.parametrize(
    "how", [{"steering": 6.0}, {"balance": 1.0}, {"guidance": 20.0}, {"class_words": "coarse blocks"}]
)
def test_it_goes_with_steering_balance_guidance_and_class_words(
    pack: Any, microworld: Any, thing: Any, how: dict[str, Any]
):
    positive = two_subjects(pack, microworld, thing)
    regions = boxes(cat=LEFT, car=RIGHT)
    found, again = (
        ksampler(pack, microworld, regularized(microworld, regions, **how), positive=positive) for _ in range(2)
    )
    assert found.isfinite().all() and torch.equal(found, again)
    plain = [[positive[0][0], {k: v for k, v in positive[0][1].items() if k != "compinv_by_cell"}]]
    without = ksampler(pack, microworld, regularized(microworld, regions, **how), positive=plain)
    assert not torch.allclose(found, without, atol=1e-2)


def test_other_prompts_of_the_batch_are_untouched(pack: Any, microworld: Any, thing: Any):
    """Combined with another prompt, at CFG 0 the negative one alone is left."""
    positive = attribute_prompt(pack, microworld, thing, colour_1=True)[0]
    other = negative(microworld, "a photo of a kite on grass")
    both = ksampler(pack, microworld, applied(microworld), positive=positive + other, cfg=1e-9)
    alone = ksampler(pack, microworld, positive=negative(microworld, TEXT), cfg=1e-9)
    assert torch.allclose(both, alone, atol=1e-4)


def test_a_file_with_attributes_is_an_ordinary_embedding_to_comfyui(
    pack: Any, microworld: Any, thing: Any, tmp_path: Path
):
    from compositional_inversion.compinv_core.concept import read_concept, write_concept
    from compositional_inversion.compinv_core.host.text_encoder import encode, with_concept

    write_concept(thing, tmp_path / "thing.safetensors")
    clip = microworld[1].clone()
    by_wire = encode(with_concept(clip, thing), "a photo of embedding:thing")[0][0]
    tokenizer = clip.tokenizer.clip_l
    before = tokenizer.embedding_directory
    try:
        tokenizer.embedding_directory = [str(tmp_path)]
        assert torch.equal(encode(clip, "a photo of embedding:thing")[0][0], by_wire)
    finally:
        tokenizer.embedding_directory = before
    assert torch.equal(by_wire, encode(clip, "a photo of car")[0][0])
    loaded = read_concept(tmp_path / "thing.safetensors")
    one, other = (attribute_prompt(pack, microworld, c, colour_1=True)[0] for c in (thing, loaded))
    texts = [[p.own.encoded for p in c[0][1]["compinv_by_cell"].prompts] for c in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*texts, strict=True))


def read_texts(conditioning: Any) -> list[str]:
    return list(conditioning[0][1]["compinv_by_cell"].texts)


def same_reading(one: Any, other: Any) -> bool:
    mine, theirs = (c[0][1]["compinv_by_cell"] for c in (one, other))
    encoded = [[p.own.encoded for p in by_cell.prompts] for by_cell in (mine, theirs)]
    return mine.of_cells == theirs.of_cells and all(torch.equal(a, b) for a, b in zip(*encoded, strict=True))


def test_what_the_text_names_is_read_as_what_a_switch_takes(
    pack: Any, microworld: Any, thing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a concept that is connected, of one that was applied, and of one that is a file in a folder of ComfyUI's."""
    from compositional_inversion.compinv_core.concept import write_concept

    switched = attribute_prompt(
        pack, microworld, thing, "a photo of a {colour} {object} on grass", colour_1=True, object_1=True
    )
    text = "a photo of a embedding:thing.colour embedding:thing.object on grass"
    model, clip, vae = microworld
    (applied_clip, _) = pack.run("CompInvApplyConcept", clip=clip, concept=thing)
    (tmp_path / "within").mkdir()
    write_concept(thing, tmp_path / "within" / "thing.safetensors")
    wired = attribute_prompt(pack, microworld, thing, text, style_1=True)
    applied_concept = attribute_prompt(pack, (model, applied_clip, vae), None, text)
    monkeypatch.setattr(clip.tokenizer.clip_l, "embedding_directory", [str(tmp_path)])
    of_file = attribute_prompt(pack, microworld, None, text)
    in_folder = attribute_prompt(pack, microworld, None, text.replace("embedding:", "embedding:within/"))
    for found in (wired, applied_concept, of_file, in_folder):
        assert same_reading(found[0], switched[0]) and found[1] == switched[1]


def test_two_things_of_a_prompt_take_the_same_attribute_of_two_concepts(pack: Any, microworld: Any, thing: Any):
    text = "(embedding:thing.colour:1.2) cat and a embedding:one.colour car, embedding:thing.colour."
    other = of_words(microworld, "one", colour="red")
    positive = attribute_prompt(pack, microworld, thing, text, concept_2=other)[0]
    assert read_texts(positive) == [
        "cat and a car,.", "(embedding:thing-colour:1.2) cat and a embedding:one-colour car, embedding:thing-colour.",
    ]  # fmt: skip
    text = "embedding:thing.colour cat and a embedding:one.colour car"
    subjects = "embedding:thing.colour cat, embedding:one.colour car"
    ((_, entry),) = attribute_prompt(pack, microworld, thing, text, concept_2=other, subjects=subjects)[0]
    assert [subject.phrase for subject in entry["compinv_subjects"]] == ["cat", "car"]
    learnt = entry["compinv_by_cell"].prompts[1].learnt
    for subject, own in ((0, "blue cat and a car"), (1, "cat and a red car")):
        assert torch.equal(learnt[subject].encoded, negative(microworld, own)[0][0])


@pytest.mark.parametrize(("class_word", "ordinary"), [("cat", "cat"), ("", "embedding:layers")])
def test_a_concept_of_layers_or_stages_that_the_text_names_is_read_each_in_its_place(
    pack: Any, microworld: Any, class_word: str, ordinary: str
):
    from dataclasses import replace

    layers = of_words(
        microworld, "layers", "IN01: input 1\nMID: middle 0\nOUT03: output 3", IN01="red", MID="car", OUT03="blue"
    )
    positive = attribute_prompt(
        pack,
        microworld,
        replace(layers, class_word=class_word),
        "a photo of a embedding:layers",
        colour_1=True,
        object_1=True,
    )[0]
    assert read_texts(positive)[0] == f"a photo of a {ordinary}"
    places = {"input 1": "red", "middle 0": "car", "output 3": "blue"}
    by_cell = positive[0][1]["compinv_by_cell"]
    for place, word in places.items():
        own = by_cell.prompts[by_cell.of_cells[place, 1]].own.encoded
        assert torch.equal(own, negative(microworld, f"a photo of a {word}")[0][0])
    assert set(by_cell.of_cells) == {(place, 1) for place in places}
    shape = attribute_prompt(pack, microworld, layers, "a photo of a embedding:layers.object")[0]
    assert set(shape[0][1]["compinv_by_cell"].of_cells) == {("middle 0", 1)}


def test_a_concept_in_braces_is_the_connected_one(pack: Any, microworld: Any, thing: Any):
    text = "a photo of a {concept}.colour boat"
    braced = attribute_prompt(pack, microworld, thing, text, subjects="{concept}.colour boat")
    written = attribute_prompt(pack, microworld, thing, text.replace("{concept}", "embedding:thing"))
    assert braced[1] == written[1] and "of a embedding:" in braced[1]
    layers = of_words(microworld, "layers", "IN01: input 1", IN01="red")
    with pytest.raises(ValueError, match="write embedding:thing or embedding:layers"):
        attribute_prompt(pack, microworld, thing, text, concept_2=layers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a embedding:thing.color cat", 'The concept "thing" has no attribute "color": it has colour, style, object, layout.'),
        ("a embedding:layers.IN01 cat", 'has no attribute "IN01"; as it was learnt per layer or stage, write one of colour, style, object, layout'),
        ("a embedding:nothing.colour cat", "embedding:nothing.colour is neither applied nor in the embeddings folder"),
        ("a embedding:../thing.colour cat", "is neither applied nor in the embeddings folder"),
    ],
)  # fmt: skip
def test_an_attribute_in_text_that_is_not_there_gets_one_sentence(
    pack: Any, microworld: Any, thing: Any, text: str, said: str
):
    layers = of_words(microworld, "layers", "IN01: input 1", IN01="red")
    with pytest.raises(ValueError) as error:
        attribute_prompt(pack, microworld, thing, text, concept_2=layers)
    assert said in str(error.value)


def test_other_prompts_say_who_reads_an_attribute_in_text(pack: Any, microworld: Any, thing: Any):
    (clip, _) = pack.run("CompInvApplyConcept", clip=microworld[1], concept=thing)
    with pytest.raises(
        ValueError, match=r"embedding:thing\.colour is an attribute of a concept, which Attribute Prompt alone reads"
    ):
        pack.run("CompInvPrompt", clip=clip, text="a embedding:thing.colour cat", subjects="cat")


def test_an_attribute_alone_is_no_subject(pack: Any, microworld: Any, thing: Any):
    with pytest.raises(ValueError, match="is an attribute alone; name the thing that has it"):
        attribute_prompt(pack, microworld, thing, "a embedding:thing.colour cat", subjects="embedding:thing.colour")


@pytest.mark.parametrize(
    ("text", "inputs", "said"),
    [
        (
            TEXT,
            {"table": "colour: moderate"},
            'gives "colour" to "moderate", which this model lacks; it has coarse, fine',
        ),
        (TEXT, {"table": "style: fine"}, 'has no line for "colour"'),
        ("a {color} cat", {}, 'has "{color}"; {colour}, {style}, {object}, {layout} are allowed'),
        ("a {colour} and {colour} cat", {}, "more than once"),
        (
            "a photo of a dog",
            {"object_1": True},
            'no place for the object of "thing"; write {object} where it goes, or its class word, "cat"',
        ),
        ("a photo of a {object}", {}, "no concept gives its object"),
        (TEXT, {"subjects": "zebra"}, "zebra"),
    ],
)
def test_bad_input_gets_one_sentence(
    pack: Any, microworld: Any, thing: Any, text: str, inputs: dict[str, Any], said: str
):
    with pytest.raises(ValueError) as error:
        attribute_prompt(pack, microworld, thing, text, **{"colour_1": True, **inputs})
    assert said in str(error.value)


def test_an_attribute_that_a_concept_has_not_is_refused(pack: Any, microworld: Any, thing: Any):
    from dataclasses import replace

    with pytest.raises(ValueError, match='"one" has no attribute "style": it has colour'):
        attribute_prompt(pack, microworld, of_words(microworld, "one", colour="blue"), style_1=True)
    word = replace(thing, attributes={}, cells="")
    with pytest.raises(ValueError, match='"thing" has no attribute "colour": it was learnt as one word'):
        attribute_prompt(pack, microworld, word, colour_1=True)
    with pytest.raises(ValueError, match='Both "thing" and "one" give their colour'):
        attribute_prompt(
            pack, microworld, thing, colour_1=True, concept_2=of_words(microworld, "one", colour="red"), colour_2=True
        )  # fmt: skip
    with pytest.raises(ValueError, match="no class word, which is read where its object does not act"):
        attribute_prompt(pack, microworld, replace(thing, class_word=""), "a {object}", object_1=True)


def test_a_prompt_that_was_changed_or_is_for_another_model_is_refused_at_the_start(
    pack: Any, microworld: Any, thing: Any
):
    import nodes

    positive = attribute_prompt(pack, microworld, thing, colour_1=True)[0]
    (averaged,) = nodes.ConditioningAverage().addWeighted(positive, negative(microworld, "at night"), 0.5)
    with pytest.raises(ValueError, match="was changed by another node"):
        ksampler(pack, microworld, applied(microworld), positive=averaged)
    from dataclasses import replace

    ((own, rest),) = positive
    foreign = [[own, {**rest, "compinv_by_cell": replace(rest["compinv_by_cell"], places=["input 4"])}]]
    with pytest.raises(ValueError, match="made for a model of another architecture"):
        ksampler(pack, microworld, applied(microworld), positive=foreign)
