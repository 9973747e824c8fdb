"""Where a concept is in its images, said by the frozen model's own attention to the class word."""

import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ..attention.maps import foreground_weights, resized_mean
from ..backbone import Backbone

log = logging.getLogger(__name__)
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the schedule: the image is there still, and the prompt is needed
DRAWS = 2  # of noise at each
PROMPT = "a photo of a {}"


def find_foreground(
    backbone: Backbone,
    latents: Tensor,
    word: str,
    seed: int,
    on_image: Callable[[int, int], Any] = lambda number, count: None,
) -> Tensor | None:
    """How much of each cell is the concept, as the model itself sees it; no one has to paint a mask.

    The images are noised, and the UNet, asked for the class word, shows where its cross-attention to it goes. Ten forward
    passes an image, each as far as the last map that is needed.

    Args:
        latents: (N, C, h, w), as the UNet sees them.
        word: the class word.
        seed: of the noise.
        on_image: called before each image with its number, from 1, and how many there are.

    Returns:
        (N, 1, h, w) in 0..1, or None where attention to this word is all over the images and says nothing.
    """
    prompt, schedule = PROMPT.format(word), backbone.schedule
    (columns,) = backbone.columns(prompt, [word])
    asked = backbone.encode_text(prompt)
    height, width = latents.shape[-2:]
    timesteps = torch.tensor([round(level * len(schedule.alphas_cumprod)) for level in LEVELS], device=latents.device)
    generator = torch.Generator().manual_seed(seed)
    backbone.load()  # encoding may have taken the UNet's memory
    size = backbone.max_batch(latents)
    found: list[Tensor] = []
    for number, latent in enumerate(latents, start=1):
        on_image(number, len(latents))
        total = torch.zeros(height, width, device=latents.device)
        for _ in range(DRAWS):
            noise = torch.randn((len(LEVELS), *latent.shape), generator=generator).to(latents)
            noisy = schedule.noisy(latent.expand_as(noise), noise, timesteps)
            seen: list[Tensor] = []
            parts = (cast("tuple[Tensor, ...]", values.split(size)) for values in (noisy, timesteps))
            for part, steps in zip(*parts, strict=True):
                maps = backbone.attention_to(asked, columns, part, steps)
                maps = [m / m.mean((-2, -1), keepdim=True).clamp_min(1e-8) for m in maps]
                seen.append(resized_mean(maps, height, width).sum(1))
            total += torch.cat(seen).mean(0)
        found.append(total)
    weights = foreground_weights(torch.stack(found))
    if weights is None:
        log.warning(
            'Cross-attention to "%s" is too diffuse to find it in the images; the background is learnt, too.', word
        )
        return None
    return weights.unsqueeze(1)
