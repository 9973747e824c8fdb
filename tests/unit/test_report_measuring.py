"""A concept is watched as its class word is, on a fake backbone."""

import pytest
import torch
from compositional_inversion.compinv_core.concept import Concept
from compositional_inversion.compinv_core.report.figures import Report
from compositional_inversion.compinv_core.report.measuring import (
    Rendered,
    Sampling,
    image_count,
    likeness,
    other_words,
    report_concept,
)
from fake_backbone import FakeBackbone

SAMPLING = Sampling((4, 4, 4), seed=5, steps=3, cfg=3.0)


def reported(vectors: torch.Tensor, class_word: str = "cat") -> tuple[Report, Rendered, Rendered]:
    concept = Concept("my cat (2)", {"clip_l": vectors})
    return report_concept(FakeBackbone(), concept, class_word, ["car", "cup"], sampling=SAMPLING)


def cats(count: int) -> torch.Tensor:
    return FakeBackbone().vocabularies["clip_l"].vector("cat").repeat(count, 1)


def test_the_class_word_as_a_concept_is_like_an_ordinary_word():
    report, own, ordinary = reported(cats(1))
    assert report.dominance == 1 and report.kept == 1 and report.attention == report.ordinary
    assert list(report.attention.beside) == ["car", "cup"]
    ours, theirs = report.standings["clip_l"]
    assert ours == theirs and ours.nearest[0] == ("cat", pytest.approx(1))
    assert torch.equal(own.alone, ordinary.alone) and torch.equal(own.beside, ordinary.beside)
    assert own.alone.shape == (3, 4, 4, 4) and own.beside.shape == (2, 4, 4, 4)


def test_more_vectors_take_more_of_the_attention_as_the_class_word_written_as_often_does():
    one, three = reported(cats(1))[0], reported(cats(3))[0]
    assert three.dominance > one.dominance + 0.1 and one.kept == 1
    assert three.usual == pytest.approx(three.dominance) and one.usual == 1
    assert (one.vectors, three.vectors) == (1, 3)


@pytest.mark.parametrize("word", ["photo", "picture"])
def test_words_of_the_reports_own_prompts_are_read_where_the_subject_stands(word: str):
    vectors = FakeBackbone().vocabularies["clip_l"].vector(word)[None]
    report, *_ = reported(vectors, word)
    assert report.attention == report.ordinary


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_images_are_sampled_as_are_announced(count: int):
    done: list[None] = []
    concept = Concept("mine", {"clip_l": cats(count)})
    report_concept(
        FakeBackbone(), concept, "cat", ["car", "cup"], sampling=SAMPLING, each=lambda: done.append(None)
    )  # fmt: skip
    assert len(done) == image_count(concept, ["car", "cup"])


def test_other_words_are_drawn_by_the_seed_and_are_never_the_class_word():
    drawn = [other_words(FakeBackbone(), "cat", seed) for seed in range(20)]
    assert all(len(set(words)) == 4 and "cat" not in words for words in drawn)
    assert len({tuple(words) for words in drawn}) > 1 and other_words(FakeBackbone(), "cat", 3) == drawn[3]
    nothing = {"mat": [1.0, 0, 0, 1], "rug": [0, 1.0, 1, 0]}
    assert other_words(FakeBackbone(nothing), "mat", 0) == []


@pytest.mark.parametrize(
    ("concept", "class_word", "others", "sentence"),
    [
        (Concept("mine", {"clip_l": torch.ones(2, 768)}), "cat", ["car"], "is for another family"),
        (Concept("mine", {"clip_l": torch.zeros(2, 6)}), "cat", ["car"], "is all zeros"),
        (Concept("mine", {"clip_l": torch.ones(75, 6)}), "cat", ["car"], "has 75 vectors; at most 64"),
        (Concept("mine", {"clip_l": torch.ones(1, 6)}, "cute cat"), "cute cat", [], "comes with the concept"),
        (
            Concept("mine", {"clip_l": torch.ones(1, 6)}),
            "qwxzy",
            [],
            '"qwxzy" is not a single token.*for "class_word".$',
        ),
        (
            Concept("mine", {"clip_l": torch.ones(1, 6)}),
            "cat",
            ["qwxzy"],
            '"qwxzy" is not a single token.*for "beside".$',
        ),
    ],
)
def test_what_cannot_be_reported_is_refused_before_anything_is_sampled(
    concept: Concept, class_word: str, others: list[str], sentence: str
):
    sampled: list[None] = []
    with pytest.raises(ValueError, match=sentence):
        report_concept(
            FakeBackbone(), concept, class_word, others, sampling=SAMPLING, each=lambda: sampled.append(None)
        )  # fmt: skip
    assert not sampled


class Mean:
    """A vision model that sees nothing but the mean colour."""

    def encode_image(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image_embeds": images.mean((1, 2))}


def test_likeness_is_the_mean_cosine_of_all_pairs():
    """Of red and green with red and with (.6, .8, 0): 1, .6, 0 and .8, however bright they are."""

    def pictures(*colours: tuple[float, float, float]) -> torch.Tensor:
        return torch.tensor(colours)[:, None, None].expand(-1, 4, 6, -1)

    one = pictures((1, 0, 0), (0, 0.5, 0))
    assert likeness(Mean(), one, pictures((0.3, 0, 0), (0.6, 0.8, 0))) == pytest.approx((1 + 0.6 + 0 + 0.8) / 4)
    assert likeness(Mean(), one[:1], one[:1]) == pytest.approx(1)
