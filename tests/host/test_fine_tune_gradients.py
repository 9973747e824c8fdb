"""The gradients of changed weights, small and with random weights, against diffusers and peft."""

import copy
from typing import Any

import pytest
import torch
from fine_tunes import Small, small_fine_tune
from test_training_families import FAMILIES, comfy_model, diffusers_unet
from torch import Tensor

SIZES = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])  # original, corner of the crop, target
BETA = 20.0  # of DCO here: by the paper's 1000, losses that differ in their last bit differ by 1e-4 in their gradient
CHANGE = 0.1  # in units of each weight's own root mean square
RANK = 3


def task_of(small: Small, masked: bool, prior: Any) -> Any:
    """Three images, and as many of the class where the prior has them."""
    from compositional_inversion.compinv_core.training.recipe import Recipe
    from compositional_inversion.compinv_core.training.task import Task, TrainingData

    generator = torch.Generator().manual_seed(1)
    fitting = torch.tensor([[0, 1]]).expand(3, -1)
    mask = (torch.rand(3, 1, 8, 8, generator=generator) > 0.4).float() if masked else None
    data = TrainingData(torch.randn(3, 4, 8, 8, generator=generator), fitting, mask)
    class_data = TrainingData(torch.randn(3, 4, 8, 8, generator=generator), fitting) if prior.weight else None
    return Task.on(small.backbone, data, small.way, Recipe(batch=2), prior=prior, class_data=class_data)


def ours(small: Small, task: Any, drawn: Any) -> Tensor:
    """The gradients of a step, which are left in the leaves; its three losses."""
    for leaf in small.leaves.values():
        leaf.grad = torch.zeros_like(leaf) if leaf.requires_grad else None
    with torch.inference_mode(), torch.inference_mode(False), torch.enable_grad():
        small.way.encode_ordinary([0])
        with small.backbone.trainable(False, 0), small.backbone.changed(small.way.changes(small.leaves)):
            scale = torch.tensor(task.loss_scale)
            losses, again = task.backward(small.leaves, drawn, step=1, scale=scale, micro_batch=2)
    assert again == scale
    return losses


def losses_by_diffusers(unet: Any, family: Any, data: Any, batch: Any, encoded: Any) -> Tensor:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    latents, noise, steps = data.latents[batch.example], batch.noise, batch.timesteps
    extra = {"text_embeds": encoded.pooled, "time_ids": SIZES.repeat(len(steps), 1)}
    added = extra if family.config == "SDXL" else None
    output = unet(scheduler.add_noise(latents, noise, steps), steps, encoded.context, added_cond_kwargs=added).sample
    error = (output - (noise if family.prediction == "EPS" else scheduler.get_velocity(latents, noise, steps))).square()
    shares = torch.ones_like(error) if data.masks is None else data.masks[batch.example].expand_as(error)
    return (error * shares).sum(dim=(1, 2, 3)) / shares.sum(dim=(1, 2, 3))


def loss_by_diffusers(small: Small, task: Any, drawn: Any, tuned: Any, plain: Any, family: Any) -> Tensor:
    """The whole loss of a step, by the UNet with the change and without."""
    with torch.no_grad():
        text = small.way.encode(drawn.batch.prompt.tolist(), small.leaves)
        ordinary = small.way.encode_ordinary(drawn.batch.prompt.tolist())
        base = losses_by_diffusers(plain, family, task.data, drawn.batch, ordinary)
    losses = losses_by_diffusers(tuned, family, task.data, drawn.batch, text)
    if task.prior.needs_base_loss:  # Direct Consistency Optimization, equation 9, in the units of the loss
        distance = BETA * (losses - base)
        assert distance.abs().max() > 2e-3  # a slope a hundred times the tolerance away from the loss's own
        return -2 / BETA * torch.nn.functional.logsigmoid(-distance).mean()
    if drawn.class_batch is None:
        return losses.mean()
    of_class = small.way.encode_ordinary(drawn.class_batch.prompt.tolist())
    own = losses_by_diffusers(tuned, family, task.class_data, drawn.class_batch, of_class)
    return losses.mean() + task.prior.weight * own.mean()


def whole_matrices(unet: Any, small: Small, names: dict[str, str]) -> dict[str, Tensor]:
    """The keys' and values' own weights, changed: leaf -> what takes the gradient.

    Diffusers' CustomDiffusionAttnProcessor is not asked: it cuts the start token's column from the gradient, as adobe's code does and
    the paper does not say.
    """
    found: dict[str, Tensor] = {}
    for name, weight in unet.named_parameters():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            leaf = f"unet/{names[name]}"
            weight.data = weight.detach() + small.leaves[leaf].detach()
            found[leaf] = weight
    return found


def low_rank(unet: Any, small: Small, names: dict[str, str], targets: Any) -> dict[str, Tensor]:
    """Peft's LoRA with the same factors."""
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, init_lora_weights=False))
    found: dict[str, Tensor] = {}
    for name, weight in unet.named_parameters():
        if ".lora_" in name:
            module, _, rest = name.partition(".lora_")
            leaf = f"unet/{names[f'{module}.weight']}/{'down' if rest.startswith('A') else 'up'}"
            weight.data = small.leaves[leaf].detach().clone()
            found[leaf] = weight
    return found


def prior_named(name: str) -> Any:
    from compositional_inversion.compinv_core.training.priors import ClassImages, DirectConsistency, NoPrior

    return {"none": NoPrior(), "DCO": DirectConsistency(BETA), "class images": ClassImages(0.7)}[name]


CASES = [
    ("none", False),
    ("none", True),
    ("class images", True),
    ("DCO", True),
]  # the prior, and whether there are masks


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("what", ["keys and values", "attention"])
def test_gradients_of_changed_weights_are_those_of_diffusers_and_peft(
    what: str, name: str, pack: Any, request: pytest.FixtureRequest
):
    """Custom Diffusion's whole matrices by diffusers, LoRA's factors by peft; with each prior, with masks and without."""
    from compositional_inversion.compinv_core.host.weights import diffusers_paths

    family, clip = FAMILIES[name], request.getfixturevalue(name)
    model = comfy_model(family, depth=1)
    small = small_fine_tune(model, clip, what, RANK if what == "attention" else 0, CHANGE)
    names, plain = diffusers_paths(model), diffusers_unet(family, model, depth=1)
    tuned = copy.deepcopy(plain)
    if what == "keys and values":
        theirs = whole_matrices(tuned, small, names)
    else:
        theirs = low_rank(tuned, small, names, r".*attn[12]\.(to_[qkv]|to_out\.0)")
    assert set(theirs) == {leaf for leaf in small.leaves if leaf.startswith("unet/")}

    for prior, masked in CASES:
        task = task_of(small, masked, prior_named(prior))
        drawn = task.draw(torch.Generator().manual_seed(3))
        losses = ours(small, task, drawn)
        tuned.zero_grad()
        loss_by_diffusers(small, task, drawn, tuned, plain, family).backward()

        assert (losses[2] > 0) == (prior == "class images")
        for mine, their in ((small.leaves[leaf].grad, weight.grad) for leaf, weight in theirs.items()):
            # Where attention is even, as random weights make it, queries get next to no gradient, and more of it is rounding.
            assert mine is not None and their is not None and cosine(mine, their) > 1 - 1e-5, prior
        mine, their = (
            torch.cat([tensor.grad.flatten() for tensor in tensors])
            for tensors in ([small.leaves[leaf] for leaf in theirs], theirs.values())
        )
        # Float32 forward and back through some twenty layers, in another order of summation: 1e-6 was measured.
        assert 0 < (mine - their).norm() < 1e-5 * their.norm(), prior


def cosine(one: Tensor, other: Tensor) -> float:
    return torch.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0).item()
