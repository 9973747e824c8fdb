"""What we know of a MODEL's noise schedule and latents, and of a VAE."""

from typing import Any

import torch
from comfy import model_base, model_sampling
from torch import Tensor

from ..backbone import Family, NoiseSchedule

SUPPORTED = "SD 1.x, SD 2.x and SDXL checkpoints for text to image are supported"
SDXL_LEAST_RESOLUTION = 768  # pixels a side: below, it draws badly


def noise_schedule(model: Any) -> NoiseSchedule:
    """The schedule and prediction target of a loaded MODEL.

    Raises:
        ValueError: an architecture that is not of the kind of SD 1.x, SD 2.x or SDXL, or a patch that makes it sample as others do.
    """
    sampling = model.get_model_object("model_sampling")
    sigmas = getattr(sampling, "sigmas", None)
    unet = model.model.diffusion_model
    supported = (
        isinstance(sampling, model_sampling.ModelSamplingDiscrete)
        and isinstance(sampling, model_sampling.EPS)
        and not isinstance(sampling, (model_sampling.X0, model_sampling.ModelSamplingDiscreteEDM))
    )
    known = hasattr(unet, "input_blocks") and unet.in_channels == 4
    if known and not supported and sampling is not model.model.model_sampling:
        kind = ", ".join(base.__name__ for base in type(sampling).__bases__)
        raise ValueError(
            f'The input "model" has a patch that sets how it samples ({kind}), for which training knows no noise schedule; '
            "connect the MODEL from before that node."
        )
    if sigmas is None or not supported or not known:
        raise ValueError(
            f'The input "model" is a {type(model.model).__name__} that training does not know; {SUPPORTED}.'
        )
    if model.model.adm_channels and not isinstance(model.model, model_base.SDXL):
        raise ValueError(
            f'The input "model" is a {type(model.model).__name__}, conditioned on more than text and size; {SUPPORTED}.'
        )
    alphas = 1 / (sigmas.float().cpu().clone() ** 2 + 1)
    prediction = "v" if isinstance(sampling, model_sampling.V_PREDICTION) else "epsilon"
    return NoiseSchedule(alphas.to(model.load_device), prediction)


def noise_of(sampling: Any, sigma: float) -> float:
    """The share of a model's own timesteps below a noise level, 0..1; 1 is pure noise.

    Args:
        sampling: the model's `model_sampling`, whose sigmas rise.
    """
    sigmas = sampling.sigmas.float()
    return int((sigmas < sigma * (1 - 1e-4)).sum()) / len(sigmas)  # a sampler's sigmas are rounded


def family_of(model: Any) -> Family:
    """Of a MODEL that `noise_schedule` takes."""
    if isinstance(model.model, model_base.SDXL):
        return Family("SDXL", least_resolution=SDXL_LEAST_RESOLUTION)
    return Family("SD 2.x" if context_width(model) == 1024 else "SD 1.x")


def context_width(model: Any) -> int:
    """The width of the text that a MODEL's cross-attention reads."""
    for name, module in model.model.diffusion_model.named_modules():
        if name.endswith("attn2.to_k"):
            return int(module.weight.shape[1])
    raise ValueError(
        f'The input "model" is a {type(model.model).__name__} without cross-attention to text; '
        "SD 1.x, SD 2.x and SDXL checkpoints are supported."
    )


def encode_images(model: Any, vae: Any, images: Tensor) -> Tensor:
    """(N, H, W, 3) in 0..1 -> (N, C, h, w) as the UNet sees them, on its device."""
    encoded = torch.cat([vae.encode(image[None]) for image in images])
    return model.model.process_latent_in(encoded.float()).to(model.load_device).clone()


def decode_latents(model: Any, vae: Any, latents: Tensor) -> Tensor:
    """(B, C, h, w) as the UNet sees them -> (B, H, W, 3) in 0..1."""
    return vae.decode(model.model.process_latent_out(latents)).clamp(0, 1)
