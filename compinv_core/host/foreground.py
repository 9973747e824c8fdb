"""Where the thing is in its pictures, said by the frozen model's own attention to the class word."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..attention.maps import foreground_weights, resized_mean
from ..backbone import Encoded, NoiseSchedule
from .attention import Capture, guided_blocks, until_last_map, watch
from .model import fitting, load, predictor
from .text_encoder import columns_in_turn

log = logging.getLogger(__name__)
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the schedule: the picture is there still, and the prompt is needed
DRAWS = 2  # of noise at each
PROMPT = "a photo of a {}"


def find_foreground(
    model: Any, clip: Any, schedule: NoiseSchedule, latents: Tensor, word: str, seed: int
) -> Tensor | None:
    """How much of each cell is the thing, as the model itself sees it; no one has to paint a mask.

    The pictures are noised, and the UNet, asked for the class word, shows where its cross-attention to it goes. Ten forward
    passes a picture, each as far as the last map that is needed.

    Args:
        latents: (N, C, h, w), as the UNet sees them.
        word: the class word.
        seed: of the noise.

    Returns:
        (N, 1, h, w) in 0..1, or None where attention to this word is all over the pictures and says nothing.
    """
    prompt = PROMPT.format(word)
    (columns,) = columns_in_turn(clip, prompt, [word])
    context, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
    height, width = latents.shape[-2:]
    timesteps = torch.tensor([round(level * len(schedule.alphas_cumprod)) for level in LEVELS], device=latents.device)
    generator = torch.Generator().manual_seed(seed)
    load(model, clip)  # encoding may have taken the model's memory
    at_once = fitting(model, latents)
    found: list[Tensor] = []
    for latent in latents:
        total = torch.zeros(height, width, device=latents.device)
        for _ in range(DRAWS):
            noise = torch.randn((len(LEVELS), *latent.shape), generator=generator).to(latents)
            noisy = schedule.noisy(latent.expand_as(noise), noise, timesteps)
            seen: list[Tensor] = []
            for part, steps in zip(noisy.split(at_once), timesteps.split(at_once), strict=True):
                maps = attention_to(model, Encoded(context, pooled), columns, part, steps)
                maps = [m / m.mean((-2, -1), keepdim=True).clamp_min(1e-8) for m in maps]
                seen.append(resized_mean(maps, height, width).sum(1))
            total += torch.cat(seen).mean(0)
        found.append(total)
    weights = foreground_weights(torch.stack(found))
    if weights is None:
        log.warning(
            'The model\'s attention to "%s" does not say where it is in the pictures; all of them is learnt.', word
        )
        return None
    return weights.unsqueeze(1)


def attention_to(model: Any, prompt: Encoded, columns: Sequence[int], noisy: Tensor, timesteps: Tensor) -> list[Tensor]:
    """The attention of each of the blocks that are guided to P token columns of one prompt: (B, P, h, w) each.

    Args:
        noisy, timesteps: (B, C, h, w) and (B,), what the UNet is shown, as far as the last of these blocks.
    """
    context, pooled = prompt.context, prompt.pooled
    capture = Capture(guided_blocks(model, *noisy.shape[-2:]), "asked", columns, context.shape[1])
    seeing = model.clone()
    seeing.model_options = watch(seeing.model_options, [capture], stop=True)
    seeing.model_options["transformer_options"]["uuids"] = ["asked"]
    asked = Encoded(context.expand(len(noisy), -1, -1), pooled.expand(len(noisy), -1))
    until_last_map(lambda: predictor(seeing)(noisy, timesteps, asked))
    return list(capture.maps.values())
