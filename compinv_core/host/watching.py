"""Sampling with an eye on the attention to a prompt's subjects."""

from collections.abc import Sequence
from typing import Any

import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..backbone import Observed
from ..report.figures import entropy
from .attention import Capture, guided_blocks, watch
from .recovery import KEY, check_fit, without_layout
from .text_encoder import columns_in_turn, encode


def observe(
    model: Any,
    clip: Any,
    prompts: Sequence[tuple[str, Sequence[str]]],
    latent: Tensor,
    seed: int,
    steps: int,
    cfg: float,
) -> Observed:
    """Sample prompts, one picture of each, and watch their subjects. A layout attached to the MODEL is left out.

    Args:
        prompts: B texts, each with its subjects in their order; of all, the subjects' tokens stand in the same places.
        latent: (1, C, h, w), an empty latent of the size wanted.
    """
    written = [encode(clip, text) for text, _ in prompts]
    places = {tuple(columns_in_turn(clip, text, of)) for text, of in prompts}
    assert len(places) == 1
    (columns,) = places
    check_fit(model, written[0])
    blocks = guided_blocks(model, *latent.shape[-2:])
    shares: list[Tensor] = []
    entropies: list[Tensor] = []

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None) -> Tensor:
        (cond,) = executor.class_obj.conds["positive"]
        looked_at = [column for own in columns for column in own]
        capture = Capture(blocks, cond["uuid"], looked_at, cond["cross_attn"].shape[1])
        result = executor(x, timestep, watch(model_options, [capture], stop=False), seed)
        if capture.maps:  # packs that save time leave blocks out of some steps
            of_words = [_by_subject(maps, columns) for maps in capture.maps.values()]
            shares.append(torch.stack([maps.mean((-2, -1)) for maps in of_words]).mean(0))
            entropies.append(torch.stack([entropy(maps) for maps in of_words]).mean(0))
        return result

    watching = without_layout(model)
    watching.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, wrapper)
    latent = comfy.sample.fix_empty_latent_channels(model, latent).repeat(len(prompts), 1, 1, 1)
    noise = comfy.sample.prepare_noise(latent, seed)
    positive, negative = [_joined(written)], encode(clip, "")
    latents = comfy.sample.sample(
        watching, noise, steps, cfg, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=seed
    )
    return Observed(torch.stack(shares).cpu(), torch.stack(entropies).cpu(), latents)


def _by_subject(maps: Tensor, columns: Sequence[Sequence[int]]) -> Tensor:
    """(B, P, h, w) of columns -> (B, S, h, w) of subjects, their tokens summed."""
    own = maps.float().split([len(of_one) for of_one in columns], dim=1)
    return torch.stack([part.sum(dim=1) for part in own], dim=1)


def _joined(written: Sequence[Any]) -> list[Any]:
    """Conditionings of one prompt each as one of a batch."""
    entries = [entry for ((entry, _),) in written]
    pooled = [rest["pooled_output"] for ((_, rest),) in written]
    return [torch.cat(entries), {**({"pooled_output": torch.cat(pooled)} if pooled[0] is not None else {})}]
