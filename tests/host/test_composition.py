"""Composition Prompt: stock conditioning that remembers its subjects, and its probe in ordinary words."""

import pytest
import torch


@pytest.fixture
def applied(clip, concept_for):
    from compinv_core.host.text_encoder import with_concept

    return with_concept(with_concept(clip, concept_for(clip)), concept_for(clip, "a-thing", 1, class_word=""))


def made(clip, text, subjects):
    from compinv_core.host.composition import composition_prompt, probes_of

    conditioning = composition_prompt(clip, text, subjects)
    return conditioning, *probes_of(conditioning)[0]


def test_the_conditioning_is_stock_bit_for_bit(applied):
    from compinv_core.host.text_encoder import encode

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
