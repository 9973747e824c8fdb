"""The loop on UNets of a line: what it minimises, finds and refuses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from compositional_inversion.compinv_core.anchors import AnchorSet, sparsemax
from compositional_inversion.compinv_core.backbone import Encoded, NoiseSchedule, Predictor
from compositional_inversion.compinv_core.memory import MemoryPlan
from compositional_inversion.compinv_core.training.checkpoint import Checkpoint, Progress
from compositional_inversion.compinv_core.training.images import off_centre, rescaled, training_images
from compositional_inversion.compinv_core.training.loop import Surroundings, as_leaves, train
from compositional_inversion.compinv_core.training.objective import diffusion_loss, timesteps_at
from compositional_inversion.compinv_core.training.recipe import PAPER, Recipe
from compositional_inversion.compinv_core.training.task import Task, TrainingData
from compositional_inversion.compinv_core.training.ways.textual_inversion import TextualInversion, Word
from fake_backbone import FakeBackbone
from torch import Tensor

EPSILON = NoiseSchedule(torch.linspace(0.99, 0.01, 10), "epsilon")
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


VOCABULARY = {
    "plus": [1.0, 0, 0, 0],
    "minus": [-1.0, 0, 0, 0],
    "third": [0, 3.0, 0, 0],
    "target": [1.0, -1.0, 2.0, 0.0],
}


def the_word(noisy: Tensor, timesteps: Tensor, prompts: Encoded) -> Tensor:
    """A prediction that is the prompt's first token: the best word is zero, the mean of the noise."""
    return prompts.context[:, 0, :, None, None].expand_as(noisy)


def task(predict: Predictor, recipe: Recipe, start: Tensor | None = None, anchors: AnchorSet | None = None) -> Task:
    """Images of nothing, and two prompts that begin with the placeholder."""
    backbone = FakeBackbone(VOCABULARY)
    backbone.predict = predict
    backbone.schedule = EPSILON
    prepared = backbone.prepare([("embedding:mine", "mine")] * 2, {"mine": 1})
    word = Word("mine", "plus", {"clip_l": torch.zeros(1, 4) if start is None else start}, anchors)
    data = TrainingData(torch.zeros(3, 4, 2, 2), torch.tensor([[0, 1]] * 3))
    return Task.on(backbone, data, TextualInversion(backbone, (word,), prepared), replace(recipe, lr_unit="absolute"))


def learn(
    task: Task, on_report: Callable[[Progress], None] = lambda progress: None, micro_batch: int | None = None
) -> Checkpoint:
    """All steps of it."""
    plan = MemoryPlan(0, 1, task.recipe.batch, micro_batch or task.recipe.batch)
    leaves = as_leaves(task.way.start(), task.device, set(task.way.learning_rates(task.recipe)))
    return train(task, Surroundings(plan, on_report=on_report), leaves)


def word_of(checkpoint: Checkpoint) -> Tensor:
    return checkpoint.parameters["mine/clip_l"]


def anchored(*words: str, learnt: bool = False) -> AnchorSet:
    return AnchorSet(words[0], words, (1 / len(words),) * len(words), learnt)


def test_plain_training_finds_the_best_word():
    found = word_of(learn(task(the_word, Recipe(200, 4, 0.1, 1, 0, seed=1), torch.full((1, 4), 3.0))))
    assert found.abs().max() < 0.5


def test_anchors_alone_end_on_their_target():
    start = torch.full((1, 4), 3.0)
    found = word_of(learn(task(the_word, Recipe(300, 4, 0.1, 0, 1, seed=1), start, anchored("target"))))
    assert torch.allclose(found, torch.tensor([VOCABULARY["target"]]), atol=0.05)


def test_weights_that_are_learnt_find_the_anchors_that_explain_the_word():
    """The best word is zero: of three anchors it lies between the first two, and the third has no part in it."""
    anchors, start = anchored("plus", "minus", "third", learnt=True), torch.full((1, 4), 1.0)
    end = learn(task(the_word, Recipe(400, 8), start, anchors))
    first, second, third = sparsemax(end.parameters["mine/anchors"]).tolist()
    assert third == 0 and first == pytest.approx(0.5, abs=0.3) and first + second == pytest.approx(1)
    fixed = learn(task(the_word, Recipe(400, 8), start, replace(anchors, learnt=False)))
    assert torch.equal(fixed.parameters["mine/anchors"], torch.tensor(anchors.weights))


def test_the_same_seed_learns_the_same_word():
    one, two, other = (word_of(learn(task(the_word, Recipe(5, seed=seed)))) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_the_best_word_is_the_one_of_the_lowest_evaluation():
    """The learning rate is far too high, so the word swings, and the last one is not the best."""
    seen: list[Progress] = []
    swinging = task(the_word, Recipe(60, 2, 20.0, 1, 0), torch.full((1, 4), 3.0))
    end = learn(swinging, seen.append)
    evaluations = {p.evaluation: word_of(p.checkpoint) for p in seen if p.evaluation is not None}
    assert len(evaluations) >= 5 and end.best_loss == min(evaluations) < end.initial_loss
    assert torch.equal(end.best["mine/clip_l"], evaluations[min(evaluations)])
    assert swinging.evaluate({**end.parameters, **end.best}, 2)[0] == end.best_loss


def test_a_loss_that_is_no_number_stops_the_run():
    with pytest.raises(FloatingPointError, match=r"diverged before step 1 \(loss nan, embedding norm"):
        learn(task(lambda noisy, steps, prompts: prompts.context.sum() * noisy * float("nan"), Recipe(1)))


def test_a_diverging_embedding_stops_the_run_and_no_report_shows_it():
    """A UNet that is the better the longer the word is."""
    seen: list[Progress] = []

    def longer(noisy: Tensor, steps: Tensor, prompts: Encoded) -> Tensor:
        return (-prompts.context[:, 0, :, None, None] / 1000).exp().expand_as(noisy)

    with pytest.raises(
        FloatingPointError, match=r"embedding norm \d+ times a typical word's\)\. Lower the learning rate"
    ):
        learn(task(longer, Recipe(1000, learning_rate=5.0)), seen.append)
    assert seen and word_of(seen[-1].checkpoint).abs().max() < 100 * 1.5  # a typical word's root mean square is 1.06


@pytest.mark.parametrize(
    ("steps", "batch", "evaluations", "previews", "eval_size"),
    [
        (3, 2, 1, 1, 4),
        (100, 1, 10, 1, 4),
        (200, 4, 10, 2, 8),
        (400, 4, 10, 5, 16),
        (425, 4, 10, 5, 16),
        (5000, 8, 10, 10, 16),
    ],
)
def test_a_short_run_has_fewer_evaluations(steps: int, batch: int, evaluations: int, previews: int, eval_size: int):
    recipe = Recipe(steps, batch)
    reports = [step for step in range(1, steps + 1) if step % 10 == 0 or step == steps]
    evaluated, looked = ([step for step in reports if at(step)] for at in (recipe.evaluates, recipe.previews))
    assert (len(evaluated), len(looked), recipe.eval_size) == (evaluations, previews, eval_size)
    assert set(looked) <= set(evaluated) and looked[-1] == steps
    assert (looked[0] == evaluated[0]) == (previews > 1 or evaluations == 1)

    seen: list[int] = []

    def predict(noisy: Tensor, steps: Tensor, prompts: Encoded) -> Tensor:
        seen.append(len(noisy))
        return noisy

    asked = task(predict, recipe)
    asked.evaluate(asked.way.start(), batch)
    assert sum(seen) == eval_size and max(seen) == min(batch, eval_size)


def test_noise_levels_are_drawn_as_stated():
    shares = (torch.arange(100_000) + 0.5) / 100_000
    even, high, low = (timesteps_at(shares, 1000, levels) / 1000 for levels in ("even", "high", "low"))
    for drawn, mean in ((even, 1 / 2), (high, 1 / 2 + 2 / torch.pi**2), (low, 1 / 2 - 2 / torch.pi**2)):
        assert drawn.mean() == pytest.approx(mean, abs=1e-3)  # of the density 1, 1 - cos(pi t), 1 + cos(pi t)
        assert drawn.min() >= 0 and drawn.max() < 1
    assert torch.bincount((even * 1000).round().long()).tolist() == [100] * 1000


def test_a_batchs_noise_levels_lie_apart():
    data = task(the_word, Recipe(1)).data
    drawn = data.draw(5, torch.Generator().manual_seed(0), EPSILON, "even")
    assert (drawn.timesteps // 2).tolist() == [0, 1, 2, 3, 4]


def test_the_anchor_warmup_begins_at_zero_and_ends_at_the_full_weight():
    growing, constant = Recipe(100, anchor_schedule="growing"), Recipe(100)
    assert growing.loss_weights(1)[1] == pytest.approx(constant.loss_weights(1)[1] / 100)
    assert growing.loss_weights(100) == constant.loss_weights(100)


def test_the_learning_rate_falls_along_half_a_cosine_or_stays():
    recipe = Recipe(100)
    assert recipe.lr_factor(1) == 1 and recipe.lr_factor(51) == pytest.approx(0.5) and 0 < recipe.lr_factor(100) < 1e-3
    assert {replace(recipe, lr_schedule="constant").lr_factor(step) for step in (1, 50, 100)} == {1.0}


def test_a_papers_recipe_is_its_formula():
    """0.05 of the mean squared error, 0.95 of the mean over 77 whole positions; AdamW with its default decay, no schedule."""
    target, start = torch.tensor([VOCABULARY["target"]]), torch.full((1, 4), 0.5)
    asked = task(the_word, replace(PAPER, steps=3), start, anchored("target"))
    learnt = word_of(learn(asked))

    generator = torch.Generator().manual_seed(0)
    word = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([word], lr=0.04)
    for _ in range(3):
        noise = asked.draw(generator).batch.noise
        reconstruction = torch.nn.functional.mse_loss(word[:, :, None, None].expand_as(noise), noise)
        whole = torch.zeros(77, 4)
        optimizer.zero_grad()
        prompt, ordinary = torch.cat([word, whole[1:]]), torch.cat([target, whole[1:]])
        (0.05 * reconstruction + 0.95 * torch.nn.functional.mse_loss(prompt, ordinary)).backward()
        optimizer.step()
    assert torch.allclose(learnt, word, atol=1e-6)


def test_a_batch_in_micro_batches_is_the_batch():
    whole = task(the_word, Recipe(5, 5), torch.ones(1, 4))
    assert torch.allclose(word_of(learn(whole)), word_of(learn(whole, micro_batch=2)), atol=1e-6)


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
    assert training_images([grey, rgb, rgba], 64).shape == (4, 64, 64, 3)


def test_the_square_is_centred_or_goes_where_the_mask_is():
    wide, tall = torch.zeros(1, 64, 160, 3), torch.zeros(1, 101, 64, 3)
    wide[:, :, 48:112], tall[:, 18:82] = 0.5, 0.5
    assert training_images([wide, tall], 64).unique().tolist() == [0.5]
    masks = [torch.zeros(64, 160), torch.zeros(101, 64), torch.ones(101, 64)]
    masks[0][10:20, :30], masks[1][70:, 30:] = 1, 1
    shifts = [off_centre(mask) for mask in masks]
    assert shifts == [(-17, -65), (35, 15), (0, 0)]
    wide[:, :, :64], tall[:, 37:] = 0.9, 0.9
    assert torch.allclose(training_images([wide, tall], 64, shifts[:2]), torch.tensor(0.9))


def test_alpha_is_laid_on_white():
    assert training_images([torch.zeros(1, 32, 32, 4)], 64).min() > 0.99


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([], "is empty"),
        ([torch.zeros(1, 1, 1, 3)], "1 x 1 pixels"),
        ([torch.zeros(1, 32, 32, 2)], "2 channels"),
        ([torch.full((1, 32, 32, 3), float("nan"))], "NaN"),
    ],
)
def test_pictures_that_cannot_be_learnt_from_are_refused(images: list[Tensor], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        training_images(images, 64)


def test_a_gradient_too_large_for_the_model_is_asked_for_again_smaller():
    """A frozen model whose half precision ends at 10, as float16's at 65504."""

    def predict(noisy: Tensor, steps: Tensor, prompts: Encoded) -> Tensor:
        word = the_word(noisy, steps, prompts)
        if word.requires_grad:
            word.register_hook(lambda gradient: gradient.where(gradient.abs() < 10, torch.inf))
        return word

    asked = task(predict, Recipe(200, 4), torch.full((1, 4), 3.0))
    end = learn(asked)
    assert 1 <= end.loss_scale < asked.loss_scale
    assert word_of(end).abs().max() < 0.5


def test_a_gradient_that_is_never_a_number_stops_the_run():
    def predict(noisy: Tensor, steps: Tensor, prompts: Encoded) -> Tensor:
        word = the_word(noisy, steps, prompts)
        if word.requires_grad:
            word.register_hook(lambda gradient: gradient * torch.nan)
        return word

    with pytest.raises(FloatingPointError, match="load the model in float32"):
        learn(task(predict, Recipe(20, 4)))


def test_float32_does_not_notice_the_loss_scale(monkeypatch: pytest.MonkeyPatch):
    scaled = word_of(learn(task(the_word, Recipe(20, 4), torch.ones(1, 4), anchored("target"))))
    monkeypatch.setattr(Task, "loss_scale", 1.0)
    assert torch.equal(word_of(learn(task(the_word, Recipe(20, 4), torch.ones(1, 4), anchored("target")))), scaled)


def test_kernels_are_repeatable_while_it_runs_and_what_was_set_comes_back():
    def set_now() -> tuple[bool, bool, bool]:
        filled = torch.utils.deterministic.fill_uninitialized_memory
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            filled,
        )

    before, seen = set_now(), list[tuple[bool, bool, bool]]()

    def predict(noisy: Tensor, steps: Tensor, prompts: Encoded) -> Tensor:
        seen.append(set_now())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return the_word(noisy, steps, prompts)

    with pytest.raises(KeyboardInterrupt):
        learn(task(predict, Recipe(20, 16)))
    assert set(seen) == {(True, True, False)} and set_now() == before != seen[0]
