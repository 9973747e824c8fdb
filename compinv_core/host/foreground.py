"""Where the thing is in its pictures, said by the frozen model's own attention to the class word."""

import logging
from typing import Any

import torch
from torch import Tensor

from ..attention import foreground_weights
from ..training.objective import Encoded, NoiseSchedule
from .attention import Capture, guided_blocks, resized_mean, until_last_map, watch
from .composition import composition_prompt, subjects_of
from .model import fitting, load, predictor

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
    prompt = composition_prompt(clip, PROMPT.format(word), [word])
    (subject,) = subjects_of(prompt)
    context, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT.format(word)), return_pooled=True)
    height, width = latents.shape[-2:]
    timesteps = torch.tensor([round(level * len(schedule.alphas_cumprod)) for level in LEVELS], device=latents.device)
    generator = torch.Generator().manual_seed(seed)
    load(model, clip)  # encoding may have taken the model's memory
    at_once = fitting(model, latents)
    blocks = guided_blocks(model, height, width)
    found: list[Tensor] = []
    for latent in latents:
        total = torch.zeros(height, width, device=latents.device)
        for _ in range(DRAWS):
            noise = torch.randn((len(LEVELS), *latent.shape), generator=generator).to(latents)
            noisy = schedule.noisy(latent.expand_as(noise), noise, timesteps)
            seen: list[Tensor] = []
            for part, steps in zip(noisy.split(at_once), timesteps.split(at_once), strict=True):
                capture = Capture(blocks, word, subject.columns, context.shape[1])
                seeing = model.clone()
                seeing.model_options = watch(seeing.model_options, [capture], stop=True)
                seeing.model_options["transformer_options"]["uuids"] = [word]
                asked = Encoded(context.expand(len(part), -1, -1), pooled.expand(len(part), -1))
                until_last_map(lambda: predictor(seeing)(part, steps, asked))  # noqa: B023 - called at once
                maps = [m / m.mean((-2, -1), keepdim=True).clamp_min(1e-8) for m in capture.maps.values()]
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
