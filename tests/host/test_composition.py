"""Composition Prompt: stock conditioning that remembers its subjects, and its probe in ordinary words."""

import pytest
import torch


@pytest.fixture
def applied(clip, concept_for):
    from compositional_inversion.compinv_core.host.text_encoder import with_concept

    return with_concept(with_concept(clip, concept_for(clip)), concept_for(clip, "a-thing", 1, class_word=""))


def made(clip, text, subjects):
    from compositional_inversion.compinv_core.host.composition import composition_prompt, probes_of

    conditioning = composition_prompt(clip, text, subjects)
    return conditioning, *probes_of(conditioning)[0]


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
