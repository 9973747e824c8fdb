"""The vocabulary's geometry and anchor regularisation."""

import pytest
import torch
from compositional_inversion.compinv_core.anchors import (
    COCO_CATEGORIES,
    AnchorSet,
    anchor_loss,
    density,
    embedded_prompt_loss,
    sparsemax,
    weigh,
)
from compositional_inversion.compinv_core.prompts.vocabulary import Vocabulary

# Ten words in two groups on the axes of a plane, a step of 0.1 between neighbours, and one word apart.
WORDS = (*(f"{group}{i}" for group in ("cat", "car") for i in range(10)), "odd")
POINTS = torch.tensor([[1, 0.1 * i] for i in range(10)] + [[-1, 0.1 * i] for i in range(10)] + [[0.0, -9.0]])
VOCABULARY = Vocabulary(WORDS, torch.arange(21), POINTS)


def test_nearest_words_are_the_most_similar_ones():
    assert VOCABULARY.nearest(torch.tensor([2.0, 0.0]), 2) == [
        ("cat0", pytest.approx(1)),
        ("cat1", pytest.approx(1 / 1.01**0.5)),
    ]
    assert VOCABULARY.nearest(POINTS[0], 1, exclude=("cat0",))[0][0] == "cat1"


def test_an_unknown_word_is_refused_with_suggestions():
    with pytest.raises(ValueError, match=r'"cta0" is not a single token.*cat0'):
        VOCABULARY.vector("cta0")
    assert "CAT0" in VOCABULARY and "cta0" not in VOCABULARY


def test_the_spread_scales_with_the_square_of_the_vectors():
    doubled = Vocabulary(WORDS, VOCABULARY.ids, 2 * POINTS)
    assert doubled.spread == pytest.approx(4 * VOCABULARY.spread, rel=1e-4)
    assert VOCABULARY.percentile(torch.tensor([1.0, 0.45])) < 50
    assert VOCABULARY.percentile(torch.tensor([50.0, 50.0])) == pytest.approx(100)


def test_the_outlier_percentile_follows_the_distance_to_the_nearest_words():
    assert VOCABULARY.percentile(VOCABULARY.vector("odd")) > 90  # nothing is near it
    assert VOCABULARY.percentile(VOCABULARY.vector("cat5")) < 20  # it is in the middle of ten


def test_a_phrase_is_the_mean_of_its_words():
    assert torch.equal(VOCABULARY.phrase("cat0 cat2"), (POINTS[0] + POINTS[2]) / 2)
    assert torch.allclose(weigh("cat0", ("cat0 cat2",), VOCABULARY).vectors(VOCABULARY), POINTS[1])
    with pytest.raises(ValueError, match='"dog" is not a single token'):
        VOCABULARY.phrase("cat0 dog")


def test_the_class_word_alone_is_its_own_target():
    anchors = weigh("cat3", ("cat3",), VOCABULARY)
    assert anchors.weights == (1.0,)
    assert torch.equal(anchors.vectors(VOCABULARY), POINTS[3][None])


def test_words_that_point_elsewhere_get_no_weight():
    anchors = weigh("cat0", ("cat0", "cat1", "car0"), VOCABULARY)
    assert anchors.weights[2] == 0 and sum(anchors.weights) == pytest.approx(1)
    assert anchors.weights[0] > anchors.weights[1]
    with pytest.raises(ValueError, match="None of the anchors"):
        weigh("cat0", ("car0", "car1"), VOCABULARY)


@pytest.mark.parametrize("weights", [(), (0.5, 0.6), (1.5, -0.5)])
def test_weights_lie_on_the_simplex(weights):
    with pytest.raises(ValueError, match=r"[Ww]eight"):
        AnchorSet("cat0", ("cat0", "cat1"), weights)


def test_sparse_weights_are_the_nearest_point_of_the_simplex():
    assert torch.equal(sparsemax(torch.tensor([0.5, 0.25, 0.25])), torch.tensor([0.5, 0.25, 0.25]))
    assert torch.equal(sparsemax(torch.tensor([3.0, 0.1, -7.0])), torch.tensor([1.0, 0.0, 0.0]))
    scores = torch.tensor([0.9, 0.6, -0.2, 0.55], dtype=torch.float64)
    weights = sparsemax(scores)
    assert weights.sum().item() == pytest.approx(1) and (weights >= 0).all() and (weights == 0).any()
    others = torch.distributions.Dirichlet(torch.full((4,), 0.5, dtype=torch.float64)).sample((20_000,))
    assert (others - scores).square().sum(1).min() >= (weights - scores).square().sum()


def test_a_single_anchor_has_density_zero():
    assert density(torch.tensor([1.0, 0.0])) == 0
    assert density(torch.full((4,), 0.25)) == pytest.approx(3 / 4)


def test_the_loss_is_zero_on_the_target_and_one_a_neighbours_distance_away():
    target = POINTS[0]
    assert anchor_loss(target.expand(3, 2), target, VOCABULARY.spread) == 0
    away = target + torch.tensor([VOCABULARY.spread**0.5, 0.0])
    assert anchor_loss(away.expand(3, 2), target, VOCABULARY.spread) == pytest.approx(1)


def test_the_paper_s_loss_is_the_mean_over_the_whole_embedded_prompt():
    prompt = torch.randn(77, 6)
    vectors, target = torch.randn(2, 6), torch.randn(6)
    learnt, ordinary = prompt.clone(), prompt.clone()
    learnt[4:6], ordinary[4:6] = vectors, target
    expected = torch.nn.functional.mse_loss(learnt, ordinary)
    torch.testing.assert_close(embedded_prompt_loss(vectors, target), expected)


def test_a_step_down_the_loss_brings_the_vectors_nearer():
    vectors = torch.zeros(2, 2, requires_grad=True)
    loss = anchor_loss(vectors, POINTS[0], VOCABULARY.spread)
    (gradient,) = torch.autograd.grad(loss, [vectors])
    assert anchor_loss(vectors - 1e-3 * gradient, POINTS[0], VOCABULARY.spread) < loss


def test_coco_has_eighty_categories():
    assert len(set(COCO_CATEGORIES)) == len(COCO_CATEGORIES) == 80
    assert {"teddy bear", "cat", "toothbrush", "kite", "bed"} <= set(COCO_CATEGORIES)
