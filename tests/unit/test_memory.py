"""The memory policy: what fits, what is tried next, what is said."""

import pytest
from compositional_inversion.compinv_core.memory import MemoryPlan

FIXED, PER_IMAGE = 100.0, 50.0


def plan(images: float, batch: int = 4) -> MemoryPlan:
    """With memory for so many images."""
    return MemoryPlan.fitting(FIXED, PER_IMAGE, batch, 1.2 * (FIXED + images * PER_IMAGE) + 1e-6)


@pytest.mark.parametrize(
    ("images", "micro_batch", "checkpointing"),
    [(9, 4, False), (4, 4, False), (3.9, 3, False), (1, 1, False), (0.99, 3, True), (0.5, 2, True), (0.1, 1, True)],
)
def test_as_many_images_as_fit_go_through_together(images: float, micro_batch: int, checkpointing: bool):
    """Checkpointing leaves a quarter of an image's activations."""
    assert (plan(images).micro_batch, plan(images).checkpointing) == (micro_batch, checkpointing)


def test_where_nothing_fits_one_image_with_gradient_checkpointing_is_tried():
    least = MemoryPlan.fitting(FIXED, PER_IMAGE, 4, 0)
    assert (least.micro_batch, least.checkpointing) == (1, True)


@pytest.mark.parametrize("images", [9, 2.5, 0.6])
def test_what_a_step_reserves_is_no_more_than_was_free(images: float):
    chosen = plan(images)
    assert 1.2 * FIXED < chosen.reserve <= 1.2 * (FIXED + images * PER_IMAGE) + 1e-3


def test_out_of_memory_halves_then_checkpoints_then_gives_up():
    tried, now = list[tuple[int, bool]](), plan(9)
    while now is not None:
        tried.append((now.micro_batch, now.checkpointing))
        now = now.on_out_of_memory()
    assert tried == [(4, False), (2, False), (1, False), (1, True)]


def test_a_run_that_goes_on_keeps_its_micro_batches():
    assert plan(9).at_most(3).micro_batch == 3 and plan(2).at_most(3).micro_batch == 2


def test_it_says_what_it_does():
    large = MemoryPlan.fitting(1.2e9, 0.8e9, 4, 3.6e9)
    assert large.describe(3.6e9) == "Activations: 1.2 GB + 0.8 GB per image, 3.6 GB free: micro-batches of 2 (batch 4)."
    assert "gradient checkpointing on" in MemoryPlan.fitting(1.2e9, 0.8e9, 4, 2e9).describe(2e9)
