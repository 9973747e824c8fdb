"""The layout energy and its gradient on the real host, against diffusers' UNet and the paper's formula written out plainly."""

from typing import Any

import pytest
import torch
from test_training_families import Family, comfy_model, diffusers_unet
from torch import Tensor

TEXT = "a fire hydrant, a cat and a teddy bear"
TOKENS = {"fire hydrant": [2, 3, 4], "cat": [7], "teddy bear": [10, 11]}  # fire hydr ant; the text's start is token 0
BOXES = {"fire hydrant": [0, 0, 0.5, 1], "cat": [0.5, 0, 1, 0.5], "teddy bear": [0.5, 0.5, 1, 1]}
HEIGHT, WIDTH = 32, 48  # of the latent; all edges above fall between cells of its coarsest map, 4 x 6
SHARPER = 6  # of the attention, for with plain random weights every token attends alike
CHANNELS = 32  # a tenth of SD 1.5's; its levels, depths, heads and blocks are as they are

SD15 = Family(
    "SD15",
    "EPS",
    48,
    {
        "model_channels": CHANNELS,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
    },
    {
        "block_out_channels": tuple(CHANNELS * factor for factor in (1, 2, 4, 4)),
        "layers_per_block": 2,
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "transformer_layers_per_block": 1,
        "attention_head_dim": 8,
    },
)


class Recorder:
    """Plain attention of diffusers' modules, and its probabilities (B, heads, cells, tokens)."""

    def __init__(self) -> None:
        self.probabilities = torch.empty(0)

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        def by_head(x: Tensor) -> Tensor:
            return x.reshape(len(x), x.shape[1], attn.heads, -1).transpose(1, 2)

        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        q, k, v = by_head(q), by_head(k), by_head(v)
        self.probabilities = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        return attn.to_out[0]((self.probabilities @ v).transpose(1, 2).flatten(2))


def reference(unet: Any, latents: Tensor, step: Tensor, context: Tensor) -> Tensor:
    """(B,), E = mean_i mean_{p in P_i} mean_A (1 - sum_{R_i} A_p / sum A_p)^2 of the middle and the first decoder level
    with attention."""
    used = [unet.mid_block.attentions[0], *unet.up_blocks[1].attentions]
    recorders = [Recorder() for _ in used]
    for transformer, recorder in zip(used, recorders, strict=True):
        transformer.transformer_blocks[0].attn2.set_processor(recorder)
    unet(latents, step, context)
    energies = []
    for picture in range(len(latents)):
        of_subjects = []
        for name, (left, top, right, bottom) in BOXES.items():
            of_tokens = []
            for token in TOKENS[name]:
                strays = []
                for recorder in recorders:
                    averaged = recorder.probabilities[picture, :, :, token].mean(0)  # over the heads
                    scale = (HEIGHT * WIDTH / len(averaged)) ** 0.5
                    height, width = int(HEIGHT / scale), int(WIDTH / scale)
                    rows = slice(int(top * height), int(bottom * height))
                    columns = slice(int(left * width), int(right * width))
                    attention = averaged.reshape(height, width)
                    strays.append((1 - attention[rows, columns].sum() / attention.sum()) ** 2)
                of_tokens.append(sum(strays) / len(strays))
            of_subjects.append(sum(of_tokens) / len(of_tokens))
        energies.append(sum(of_subjects) / len(of_subjects))
    return torch.stack(energies)


def test_energy_and_gradient_are_those_of_diffusers_and_the_formula(
    pack: Any, sd1: Any, monkeypatch: pytest.MonkeyPatch
):
    """In a whole run of the sampler with CFG, two pictures at once."""
    import compositional_inversion.compinv_core.host.sampler as host
    from compositional_inversion.compinv_core.layout.regions import Box, Layout, Region
    from compositional_inversion.compinv_core.sampling.guidance import Guidance
    from compositional_inversion.compinv_core.sampling.schedules import Balance, Steering

    import nodes

    found: list[tuple[float, Tensor, Tensor, Tensor]] = []

    def noted(latents: Tensor, sigma: float, energy: Any, *_: Any, **__: Any) -> Any:
        leaf = latents.clone().requires_grad_()
        energies = energy(leaf)
        (gradient,) = torch.autograd.grad(energies.sum(), leaf)
        found.append((sigma, latents, energies.detach(), gradient))
        return latents, [energies.detach()]

    monkeypatch.setattr(host, "correct", noted)
    model = comfy_model(SD15)
    layout = Layout(tuple(Region(name, Box(*box)) for name, box in BOXES.items()), "my boxes")
    with torch.inference_mode():
        for name, weight in model.model.diffusion_model.named_parameters():
            if name.endswith("attn2.to_q.weight"):
                weight *= SHARPER
        positive = pack.run("CompInvPrompt", clip=sd1, text=TEXT, subjects=", ".join(BOXES))[0]
        negative = nodes.CLIPTextEncode().encode(sd1, "blurry")[0]
        held = host.with_layout(model, layout, Steering(0), Guidance(), balance=Balance())
        latent = {"samples": torch.zeros(2, 4, HEIGHT, WIDTH)}
        nodes.common_ksampler(held, 3, 1, 7.5, "euler", "normal", positive, negative, latent)
    ((sigma, latents, energies, gradient),) = found

    unet = diffusers_unet(SD15, model).requires_grad_(False)
    leaf = latents.clone().requires_grad_()
    step = model.model.model_sampling.timestep(torch.tensor(sigma))
    context = positive[0][0].clone().expand(2, -1, -1)
    expected = reference(unet, leaf / (sigma**2 + 1) ** 0.5, step, context)
    (theirs,) = torch.autograd.grad(expected.sum(), leaf)

    # Float32 through some thirty layers and back, summed in another order: 1e-6 was seen, a slip in any of them is 1e-3.
    assert energies.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert theirs.norm() > 0 and (gradient - theirs).norm() < 1e-5 * theirs.norm()
