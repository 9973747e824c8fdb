"""Composition Prompt: stock conditioning that remembers its subjects, and its probe in ordinary words."""

import pytest
import torch


@pytest.fixture
def applied(clip, concept_for):
    from compositional_inversion.compinv_core.host.text_encoder import with_concept

    return with_concept(with_concept(clip, concept_for(clip)), concept_for(clip, "a-thing", 1, class_word=""))


def made(clip, text, subjects):
    from compositional_inversion.compinv_core.host.composition import PROBED, composition_prompt, probe_of

    conditioning = composition_prompt(clip, text, subjects)
    probe = probe_of(conditioning)
    return conditioning, probe[0][1][PROBED], probe


def test_the_conditioning_is_stock_bit_for_bit(applied):
    from compositional_inversion.compinv_core.host.text_encoder import encode

    text = "a photo of embedding:my-cat and a (red car:1.2)"
    conditioning, subjects, probe = made(applied, text, ["my-cat", "red car"])
    assert torch.equal(conditioning[0][0], encode(applied, text)[0][0])
    assert torch.equal(probe[0][0], encode(applied, "a photo of cat and a (red car:1.2)")[0][0])
    assert [(s.phrase, s.class_phrase, s.columns, s.probe_columns) for s in subjects] == [
        ("embedding:my-cat", "cat", (4, 5), (4,)),
        ("red car", "red car", (8, 9), (7, 8)),
    ]


@pytest.mark.parametrize(
    ("text", "subjects", "probe_columns"),
    [
        ("embedding:my-cat and a cat", ["embedding:my-cat"], [(1,)]),
        ("a cat and embedding:my-cat", ["my-cat", "cat"], [(4,), (2,)]),
        ("a embedding:my-cat cat and a dog", ["my-cat", "dog"], [(2,), (5,)]),
        ("a embedding:my-cat cat and a dog", ["embedding:my-cat cat", "dog"], [(2,), (5,)]),
        ("a embedding:my-cat cat and a dog", ["my-cat", "cat"], [(2,), (3,)]),
        ("a embedding:a-thing and embedding:my-cat", ["a-thing", "my-cat"], [(2,), (4,)]),
    ],
)
def test_a_concept_is_found_where_its_class_word_stands_in_the_probe(applied, text, subjects, probe_columns):
    assert [subject.probe_columns for subject in made(applied, text, subjects)[1]] == probe_columns


def test_no_subjects_means_every_concept_of_the_prompt(applied):
    assert [s.phrase for s in made(applied, "a embedding:my-cat and a car", [])[1]] == ["embedding:my-cat"]


def test_nothing_to_look_for_is_refused(applied):
    with pytest.raises(ValueError, match='"subjects" is empty'):
        made(applied, "a car", [])
    with pytest.raises(ValueError, match="names one thing twice"):
        made(applied, "a car", ["car", "car"])
    with pytest.raises(ValueError, match="is not in the prompt"):
        made(applied, "a car", ["my-cat"])


@pytest.fixture
def saved(clip, concept_for, embeddings):
    """A CLIP in whose embeddings folder "zippy" is, and to which "my-mug" is applied."""
    from compositional_inversion.compinv_core.concept import write_concept
    from compositional_inversion.compinv_core.host.text_encoder import with_concept

    path = embeddings / "zippy.safetensors"
    write_concept(concept_for(clip, "zippy"), path, replace=True)
    yield with_concept(clip, concept_for(clip, "my-mug"))
    path.unlink()


@pytest.mark.parametrize("named", ["zippy", "embedding:zippy", "Zippy"])
def test_a_file_of_the_embeddings_folder_is_a_subject_by_its_bare_name(saved, named):
    subjects = made(saved, "a photo of embedding:zippy and a boat", [named, "boat"])[1]
    assert [(s.phrase, s.columns) for s in subjects] == [("embedding:zippy", (4, 5)), ("boat", (8,))]


@pytest.mark.parametrize("subjects", [["zipy", "boat"], ["embedding:zipy"], ["boat"], []])
def test_an_embedding_that_there_is_not_is_named_whether_or_not_it_is_a_subject(saved, clip, subjects):
    sentence = "The prompt's embedding:zipy is neither applied nor in the embeddings folder; "
    with pytest.raises(ValueError, match=sentence + "applied: my-mug."):
        made(saved, "a embedding:zippy, embedding:zipy, and a boat", subjects)
    with pytest.raises(ValueError, match=sentence + "no concept is applied."):
        made(clip, "a (embedding:zipy:1.2) and a boat", subjects)
    with pytest.raises(ValueError, match='"embedding:" without a name'):
        made(saved, "a boat embedding:", subjects)


@pytest.mark.parametrize("subjects", [["{concept}", "boat"], ["my-mug", "boat"]])
def test_a_concept_in_braces_is_the_one_that_is_applied(saved, subjects):
    braced, by_name, _ = made(saved, "a ({concept}:1.2), no {concept}, and a boat", subjects)
    exact = made(saved, "a (embedding:my-mug:1.2), no embedding:my-mug, and a boat", ["my-mug", "boat"])
    assert torch.equal(braced[0][0], exact[0][0][0])
    assert by_name == exact[1]


def test_a_concept_in_braces_that_may_be_none_or_several_gets_one_sentence(applied, clip):
    with pytest.raises(ValueError, match="2 concepts are applied; write embedding:my-cat or embedding:a-thing"):
        made(applied, "a {concept} and a boat", ["boat"])
    with pytest.raises(ValueError, match="2 concepts are applied"):
        made(applied, "a boat", ["{concept}"])
    with pytest.raises(ValueError, match="no concept is applied to this CLIP; connect Apply Concept"):
        made(clip, "a {concept} and a boat", ["boat"])


def test_an_applied_concept_that_the_prompt_has_as_an_ordinary_word_is_told_so(applied):
    with pytest.raises(ValueError, match="write embedding:my-cat there"):
        made(applied, "a photo of my-cat and a boat", ["my-cat", "boat"])


def test_a_subject_is_found_as_clip_reads_it_and_keeps_the_words_that_name_it(applied):
    conditioning, subjects, _ = made(
        applied, "a (Red:1.2)  boat and (embedding:my-cat) cat", ["red boat", "My-Cat cat"]
    )
    assert [(s.phrase, s.class_phrase, s.columns, s.probe_columns) for s in subjects] == [
        ("red boat", "Red boat", (2, 3), (2, 3)),
        ("embedding:my-cat cat", "cat cat", (5, 6, 7), (5, 6)),
    ]
    exact = made(applied, "a (Red:1.2)  boat and (embedding:my-cat) cat", ["boat"])[0]
    assert torch.equal(conditioning[0][0], exact[0][0])


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".bin"])
def test_a_concept_that_is_written_with_its_files_ending_is_the_applied_one(applied, ending):
    text = "a photo of embedding:my-cat, and a car"
    right, (cat, car), probe = made(applied, text, ["my-cat", "car"])
    for named in ("my-cat", "embedding:my-cat", f"my-cat{ending}"):
        found = made(applied, text.replace("my-cat", f"my-cat{ending}"), [named, "car"])
        assert torch.equal(found[0][0][0], right[0][0]) and torch.equal(found[2][0][0], probe[0][0])
        assert found[1] == (cat, car)


def test_a_concept_whose_name_begins_as_anothers_is_not_that_one(clip, concept_for):
    from compositional_inversion.compinv_core.host.text_encoder import with_concept

    both = with_concept(with_concept(clip, concept_for(clip, "pet")), concept_for(clip, "pet.v2", 3, class_word="dog"))
    _, (newer, pet), _ = made(both, "embedding:pet.v2 and embedding:pet", ["pet.v2", "pet"])
    assert (newer.class_phrase, pet.class_phrase) == ("dog", "cat") and len(newer.columns) == 3


def test_one_thing_in_two_ways_is_named_twice(applied):
    with pytest.raises(ValueError, match="names one thing twice: Cat, cat"):
        made(applied, "a cat", ["Cat", "cat"])


@pytest.mark.parametrize("mark", [", ", "; ", "\n", "\uff0c", "\uff1b", "\u3001"])
def test_subjects_are_separated_by_any_comma_semicolon_or_line(pack, microworld, mark):
    inputs = {"clip": microworld[1], "text": "a photo of a cat and a car", "subjects": f"cat{mark}car"}
    ((_, extra),) = pack.run("CompInvPrompt", **inputs)[0]
    assert [subject.phrase for subject in extra["compinv_subjects"]] == ["cat", "car"]


def test_the_page_reads_choices_and_comments_in_the_prompt_as_in_the_stock_node(pack):
    import nodes

    text = pack.nodes["CompInvPrompt"].INPUT_TYPES()["required"]["text"][1]
    stock = nodes.CLIPTextEncode.INPUT_TYPES()["required"]["text"][1]
    assert text["dynamicPrompts"] is stock["dynamicPrompts"] is True


def test_two_of_a_kind_are_told_apart(applied):
    subjects = made(applied, "a black cat and a white cat", ["white cat", "black cat"])[1]
    assert [subject.columns for subject in subjects] == [(6, 7), (2, 3)]
    with pytest.raises(ValueError, match="black cat, white cat"):
        made(applied, "a cat and a cat", ["cat", "cat"])


def test_a_concept_beyond_the_first_chunk(applied):
    """Its columns hold its vectors, wherever the chunks of 77 tokens and the weights put them."""
    text = "a (word:1.2) " * 40 + "and a photo of embedding:my-cat beside a red car"
    conditioning, subjects, probe = made(applied, text, ["my-cat", "red car"])
    ordinary = made(applied, text.replace("embedding:my-cat", "cat"), ["cat", "red car"])[1]
    assert conditioning[0][0].shape[1] == probe[0][0].shape[1] == 2 * 77
    assert len(subjects[0].columns) == 2 and subjects[0].columns[0] > 77
    assert [s.probe_columns for s in subjects] == [s.columns for s in ordinary]


def test_a_stock_prompt_may_be_concatenated_behind_it_but_not_before(applied):
    """As a BREAK is made in ComfyUI. What a stock node makes has no subjects to keep."""
    from compositional_inversion.compinv_core.host.composition import subjects_of

    import nodes

    ours = made(applied, "a photo of embedding:my-cat and a car", ["my-cat", "car"])[0]
    (stock,) = nodes.CLIPTextEncode().encode(applied, "oil on canvas")
    (behind,) = nodes.ConditioningConcat().concat(ours, stock)
    columns = [column for subject in subjects_of(behind) for column in subject.columns]
    assert behind[0][0].shape[1] == 2 * 77
    assert torch.equal(behind[0][0][:, columns], ours[0][0][:, columns])
    (before,) = nodes.ConditioningConcat().concat(stock, ours)
    with pytest.raises(ValueError, match="Composition Prompt"):
        subjects_of(before)
