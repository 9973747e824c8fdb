from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from compinv_core.anchors import sparsemax
from compinv_core.training.loop import Progress, Pull, Recipe, Task, train
from compinv_core.training.objective import Encoded, NoiseSchedule, Predictor, diffusion_loss
from compinv_core.training.pictures import training_pictures

EPSILON = NoiseSchedule(torch.linspace(0.99, 0.01, 10), "epsilon")
NO_PROMPT = Encoded(torch.zeros(1, 1, 4), torch.zeros(1, 4))
V = NoiseSchedule(torch.linspace(0.99, 0.01, 10), "v")


def test_a_perfect_prediction_costs_nothing():
    latents, noise, steps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([1, 8])
    for schedule in (EPSILON, V):
        target = schedule.target(latents, noise, steps)
        loss = diffusion_loss(lambda *_, t=target: t, schedule, latents, noise, steps, NO_PROMPT)
        assert loss == 0


def test_the_output_of_either_prediction_tells_latents_and_noise():
    latents, noise, steps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([1, 8])
    for schedule in (EPSILON, V):
        noisy = schedule.noisy(latents, noise, steps)
        clean, found = schedule.clean(noisy, schedule.target(latents, noise, steps), steps)
        assert torch.allclose(clean, latents, atol=1e-4)  # 1 / sqrt(0.01) magnifies rounding tenfold
        assert torch.allclose(found, noise, atol=1e-4)


def test_what_a_mask_covers_is_not_learnt():
    """The reference implementation averages the error before it masks it, which changes nothing."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    latents, noise, steps = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), torch.tensor([5])
    output = torch.where(mask > 0, 1.0, 100.0).expand(1, 4, 8, 8)
    loss = diffusion_loss(lambda *_: output, EPSILON, latents, noise, steps, NO_PROMPT, mask)
    assert loss == 1


def encode(indices: list[int], vectors: Mapping[str, torch.Tensor]) -> Encoded:
    """Prompts of one token, which is the word."""
    word = vectors["clip_l"].expand(len(indices), 1, 4)
    return Encoded(word, word[:, 0])


def task(predict: Predictor, recipe: Recipe, pulls: dict[str, Pull] | None = None) -> Task:
    return Task(torch.zeros(1, 1, 4, 2, 2), 1, encode, predict, EPSILON, recipe, pulls)


def _train(steps: int, pulls: dict[str, Pull] | None, reconstruction: float, anchor: float) -> torch.Tensor:
    """A UNet whose prediction is the prompt's last token: the best word is zero, the mean of the noise."""
    start = {"clip_l": torch.full((1, 4), 3.0)}
    return train(
        start,
        {"clip_l": 1.0},
        Task(
            torch.zeros(3, 1, 4, 2, 2),
            prompts=2,
            encode=encode,
            predict=lambda noisy, steps, prompts: prompts.context[:, -1, :, None, None].expand_as(noisy),
            schedule=EPSILON,
            recipe=Recipe(steps, 4, 0.1, reconstruction, anchor, seed=1),
            pulls=pulls,
        ),
    ).vectors["clip_l"]


def test_plain_training_finds_the_best_word():
    assert _train(200, None, 1, 0).abs().max() < 0.5


def test_anchors_alone_end_on_their_target():
    target = torch.tensor([1.0, -1.0, 2.0, 0.0])
    assert torch.allclose(_train(300, {"clip_l": Pull(target[None], 1.0)}, 0, 1), target[None], atol=0.05)


def test_weights_that_are_learnt_find_the_anchors_that_explain_the_word():
    """The best word is zero: of three anchors it lies between the first two, and the third has no part in it."""
    anchors = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 3.0, 0, 0]])
    mixed = replace(
        task(lambda noisy, steps, prompts: prompts.context[:, -1, :, None, None].expand_as(noisy), Recipe(400, 8)),
        pulls={"clip_l": Pull(anchors, 1.0)},
        weights=torch.full((3,), 1 / 3),
        learn_weights=True,
    )
    end = train({"clip_l": torch.full((1, 4), 1.0)}, {"clip_l": 1.0}, mixed)
    first, second, third = sparsemax(end.scores).tolist()
    assert third == 0 and first == pytest.approx(0.5, abs=0.3) and first + second == pytest.approx(1)
    fixed = train({"clip_l": torch.full((1, 4), 1.0)}, {"clip_l": 1.0}, replace(mixed, learn_weights=False))
    assert torch.equal(fixed.scores, mixed.weights)


def test_the_same_seed_learns_the_same_word():
    assert torch.equal(_train(5, None, 1, 0), _train(5, None, 1, 0))


def test_the_best_word_is_the_one_of_the_lowest_check():
    """The learning rate is far too high, so the word swings, and the last one is not the best."""
    seen: list[Progress] = []
    swinging = task(
        lambda noisy, steps, prompts: prompts.context[:, -1, :, None, None].expand_as(noisy), Recipe(60, 2, 20.0, 1, 0)
    )
    end = train({"clip_l": torch.full((1, 4), 3.0)}, {"clip_l": 1.0}, swinging, on_report=seen.append)
    checks = {p.check: p.checkpoint.vectors["clip_l"] for p in seen if p.check is not None}
    assert len(checks) >= 5 and end.lowest == min(checks) < end.before
    assert torch.equal(end.best["clip_l"], checks[min(checks)])
    assert swinging.check(end.best, end.scores)[0] == end.lowest


def test_a_loss_that_is_no_number_stops_the_run():
    with pytest.raises(FloatingPointError, match="before step 1: the loss is nan"):
        train(
            {"clip_l": torch.zeros(1, 4)},
            {"clip_l": 1.0},
            task(lambda noisy, steps, prompts: prompts.context.sum() * noisy * float("nan"), Recipe(1)),
        )


def test_a_word_that_runs_away_stops_the_run_and_no_report_shows_it():
    seen: list[Progress] = []
    with pytest.raises(FloatingPointError, match="times as long as ordinary ones"):
        train(
            {"clip_l": torch.zeros(1, 4)},
            {"clip_l": 1.0},
            task(
                lambda noisy, steps, prompts: noisy + 0 * prompts.context.sum(),
                Recipe(1000, learning_rate=5.0),
                {"clip_l": Pull(torch.full((1, 4), 1e9), 1.0)},
            ),
            on_report=seen.append,
        )
    assert seen and seen[-1].checkpoint.vectors["clip_l"].abs().max() < 100


def test_pictures_of_any_kind_become_square_rgb():
    grey, rgb, rgba = torch.rand(1, 40, 30, 1), torch.rand(2, 32, 32, 3), torch.rand(1, 64, 100, 4)
    assert training_pictures([grey, rgb, rgba], 64).shape == (4, 64, 64, 3)


def test_alpha_is_laid_on_white():
    assert training_pictures([torch.zeros(1, 32, 32, 4)], 64).min() > 0.99


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([], "is empty"),
        ([torch.zeros(1, 1, 1, 3)], "1 x 1 pixels"),
        ([torch.zeros(1, 32, 32, 2)], "2 channels"),
        ([torch.full((1, 32, 32, 3), float("nan"))], "NaN"),
    ],
)
def test_pictures_that_cannot_be_learnt_from_are_refused(images: list[torch.Tensor], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        training_pictures(images, 64)
