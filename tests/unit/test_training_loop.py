from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from compinv_core.training.pictures import off_centre, rescaled, training_pictures

from compinv_core.anchors import sparsemax
from compinv_core.backbone import Encoded, NoiseSchedule, Predictor
from compinv_core.training.loop import REFERENCE, Progress, Pull, Recipe, Task, train
from compinv_core.training.objective import diffusion_loss, timesteps_at

EPSILON = NoiseSchedule(torch.linspace(0.99, 0.01, 10), "epsilon")
ONE_PROMPT = torch.zeros(1, 1, dtype=torch.long)
NO_PROMPT = Encoded(torch.zeros(1, 1, 4), torch.zeros(1, 4))
V = NoiseSchedule(torch.linspace(0.99, 0.01, 10), "v")


def test_a_perfect_prediction_costs_nothing():
    latents, noise, steps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([1, 8])
    for schedule in (EPSILON, V):
        target = schedule.target(latents, noise, steps)
        loss = diffusion_loss(lambda *_, t=target: t, schedule, latents, noise, steps, NO_PROMPT)
        assert loss.tolist() == [0, 0]


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
    assert loss.tolist() == [1]


def encode(indices: list[int], vectors: Mapping[str, torch.Tensor]) -> Encoded:
    """Prompts of one token, which is the word."""
    word = vectors["clip_l"].expand(len(indices), 1, 4)
    return Encoded(word, word[:, 0])


def task(predict: Predictor, recipe: Recipe, pulls: dict[str, Pull] | None = None) -> Task:
    return Task(torch.zeros(1, 4, 2, 2), ONE_PROMPT, encode, predict, EPSILON, recipe, pulls)


def _train(steps: int, pulls: dict[str, Pull] | None, reconstruction: float, anchor: float) -> torch.Tensor:
    """A UNet whose prediction is the prompt's last token: the best word is zero, the mean of the noise."""
    start = {"clip_l": torch.full((1, 4), 3.0)}
    return train(
        start,
        {"clip_l": 1.0},
        Task(
            torch.zeros(3, 4, 2, 2),
            prompts=torch.tensor([[0, 1]] * 3),
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


@pytest.mark.parametrize(
    ("steps", "batch", "checks", "previews", "exam"),
    [
        (3, 2, 1, 1, 4),
        (100, 1, 10, 1, 4),
        (200, 4, 10, 2, 8),
        (400, 4, 10, 5, 16),
        (425, 4, 10, 5, 16),
        (5000, 8, 10, 10, 16),
    ],
)
def test_a_short_run_is_looked_at_less(steps: int, batch: int, checks: int, previews: int, exam: int):
    recipe = Recipe(steps, batch)
    reports = [step for step in range(1, steps + 1) if step % 10 == 0 or step == steps]
    checked, looked = ([step for step in reports if at(step)] for at in (recipe.checks, recipe.previews))
    assert (len(checked), len(looked), recipe.exam) == (checks, previews, exam)
    assert set(looked) <= set(checked) and looked[-1] == steps

    seen: list[int] = []

    def predict(noisy: torch.Tensor, steps: torch.Tensor, prompts: Encoded) -> torch.Tensor:
        seen.append(len(noisy))
        return noisy

    task(predict, recipe).check({"clip_l": torch.zeros(1, 4)}, torch.ones(1))
    assert sum(seen) == exam


def test_noise_levels_are_drawn_as_stated():
    shares = (torch.arange(100_000) + 0.5) / 100_000
    even, high, low = (timesteps_at(shares, 1000, levels) / 1000 for levels in ("even", "high", "low"))
    for drawn, mean in ((even, 1 / 2), (high, 1 / 2 + 2 / torch.pi**2), (low, 1 / 2 - 2 / torch.pi**2)):
        assert drawn.mean() == pytest.approx(mean, abs=1e-3)  # of the density 1, 1 - cos(pi t), 1 + cos(pi t)
        assert drawn.min() >= 0 and drawn.max() < 1
    assert torch.bincount((even * 1000).round().long()).tolist() == [100] * 1000


def test_a_batchs_noise_levels_lie_apart():
    drawn = task(lambda noisy, *_: noisy, Recipe(1)).draw(5, torch.Generator().manual_seed(0), "even")
    assert (drawn.timesteps // 2).tolist() == [0, 1, 2, 3, 4]


def test_a_growing_pull_begins_at_nothing_and_ends_at_its_height():
    growing, constant = Recipe(100, growing=True), Recipe(100)
    assert growing.weights(1)[1] == pytest.approx(constant.weights(1)[1] / 100)
    assert growing.weights(100) == constant.weights(100)


def test_the_reference_recipe_is_the_papers_formula():
    """0.05 of the mean squared error, 0.95 of the mean over 77 whole positions; AdamW with its default decay, no schedule."""
    target, start = torch.tensor([[1.0, -1.0, 2.0, 0.0]]), torch.full((1, 4), 0.5)

    def predict(noisy: torch.Tensor, steps: torch.Tensor, prompts: Encoded) -> torch.Tensor:
        return prompts.context[:, -1, :, None, None].expand_as(noisy)

    pulled = task(predict, replace(REFERENCE, steps=3), {"clip_l": Pull(target, 0.1)})
    learnt = train({"clip_l": start}, {"clip_l": 9.0}, pulled).vectors["clip_l"]

    generator = torch.Generator().manual_seed(0)
    word = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([word], lr=0.04)
    for _ in range(3):
        noise = pulled.draw(8, generator, "even").noise
        reconstruction = torch.nn.functional.mse_loss(word[:, :, None, None].expand_as(noise), noise)
        whole = torch.zeros(77, 4)
        optimizer.zero_grad()
        prompt, ordinary = torch.cat([word, whole[1:]]), torch.cat([target, whole[1:]])
        (0.05 * reconstruction + 0.95 * torch.nn.functional.mse_loss(prompt, ordinary)).backward()
        optimizer.step()
    assert torch.allclose(learnt, word, atol=1e-6)


def test_a_batch_in_parts_is_the_batch():
    def predict(noisy: torch.Tensor, steps: torch.Tensor, prompts: Encoded) -> torch.Tensor:
        return prompts.context[:, -1, :, None, None].expand_as(noisy)

    whole = task(predict, Recipe(5, 5))
    ends = [train({"clip_l": torch.ones(1, 4)}, {"clip_l": 1.0}, t) for t in (whole, replace(whole, at_once=2))]
    assert torch.allclose(ends[0].vectors["clip_l"], ends[1].vectors["clip_l"], atol=1e-6)


def test_rescaled_pictures_hold_the_picture_and_mask_the_rest():
    pictures = torch.cat([torch.full((2, 32, 32, 3), 0.9), torch.ones(2, 32, 32, 1)], dim=-1)
    small, large = (rescaled(pictures, s, torch.Generator().manual_seed(0)) for s in (True, False))
    assert small.shape == large.shape == pictures.shape
    assert torch.allclose(large, pictures)
    inside = small[..., 3] > 0.5
    assert 0.4**2 - 0.1 < inside.float().mean() < 0.8**2 + 0.1
    assert torch.allclose(small[inside], pictures[0, 0, 0]) and torch.allclose(
        small[~inside], torch.tensor([0.5, 0.5, 0.5, 0.0])
    )


def test_pictures_of_any_kind_become_square_rgb():
    grey, rgb, rgba = torch.rand(1, 40, 30, 1), torch.rand(2, 32, 32, 3), torch.rand(1, 64, 100, 4)
    assert training_pictures([grey, rgb, rgba], 64).shape == (4, 64, 64, 3)


def test_the_square_is_centred_or_goes_where_the_mask_is():
    wide, tall = torch.zeros(1, 64, 160, 3), torch.zeros(1, 101, 64, 3)
    wide[:, :, 48:112], tall[:, 18:82] = 0.5, 0.5
    assert training_pictures([wide, tall], 64).unique().tolist() == [0.5]
    masks = [torch.zeros(64, 160), torch.zeros(101, 64), torch.ones(101, 64)]
    masks[0][10:20, :30], masks[1][70:, 30:] = 1, 1
    shifts = [off_centre(mask) for mask in masks]
    assert shifts == [(-17, -65), (35, 15), (0, 0)]
    wide[:, :, :64], tall[:, 37:] = 0.9, 0.9
    assert torch.allclose(training_pictures([wide, tall], 64, shifts[:2]), torch.tensor(0.9))


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


def test_a_gradient_too_large_for_the_model_is_asked_for_again_smaller():
    """A frozen model whose half precision ends at 10, as float16's at 65504."""

    def predict(noisy: torch.Tensor, steps: torch.Tensor, prompts: Encoded) -> torch.Tensor:
        word = prompts.context[:, -1, :, None, None].expand_as(noisy)
        if word.requires_grad:
            word.register_hook(lambda gradient: gradient.where(gradient.abs() < 10, torch.inf))
        return word

    end = train({"clip_l": torch.full((1, 4), 3.0)}, {"clip_l": 1.0}, task(predict, Recipe(200, 4)))
    assert 1 <= end.scale < task(predict, Recipe(200, 4)).scale
    assert end.vectors["clip_l"].abs().max() < 0.5


def test_a_gradient_that_is_never_a_number_stops_the_run():
    def predict(noisy: torch.Tensor, steps: torch.Tensor, prompts: Encoded) -> torch.Tensor:
        word = prompts.context[:, -1, :, None, None].expand_as(noisy)
        if word.requires_grad:
            word.register_hook(lambda gradient: gradient * torch.nan)
        return word

    with pytest.raises(FloatingPointError, match="load the model in float32"):
        train({"clip_l": torch.zeros(1, 4)}, {"clip_l": 1.0}, task(predict, Recipe(20, 4)))


def test_kernels_are_repeatable_while_it_runs_and_what_was_set_comes_back():
    def set_now() -> tuple[bool, bool, bool]:
        filled = torch.utils.deterministic.fill_uninitialized_memory
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            filled,
        )

    before, seen = set_now(), list[tuple[bool, bool, bool]]()

    def predict(noisy: torch.Tensor, steps: torch.Tensor, prompts: Encoded) -> torch.Tensor:
        seen.append(set_now())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return prompts.context[:, -1, :, None, None].expand_as(noisy)

    with pytest.raises(KeyboardInterrupt):
        train({"clip_l": torch.zeros(1, 4)}, {"clip_l": 1.0}, task(predict, Recipe(20, 16)))
    assert set(seen) == {(True, True, False)} and set_now() == before != seen[0]
