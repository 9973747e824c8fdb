"""ComfyUI's MODEL, CLIP and VAE as the method's `Backbone`."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import comfy.sample
import torch
from comfy import model_management
from torch import Tensor

from ..backbone import Encoded, Family, NoiseSchedule, Observed, PreparedPrompts, Vectors, WeightChange
from ..concept import Concept
from ..families.unet import Outline
from ..prompts.vocabulary import Vocabulary
from . import text_encoder, text_gradient
from .attention import attention_to, outline
from .latents import context_width, decode_latents, encode_images, family_of, noise_schedule
from .model import (
    checkpointed,
    differentiable_forwards,
    fingerprint_of,
    frozen_weights,
    is_of_gradients,
    load,
    max_batch,
    measuring_saved_activations,
    no_gradient,
    non_dynamic,
    predictor,
)
from .recovery import without_layout
from .watching import observe
from .weights import Changes, lora_names, own_weight, weights_of

TAKE_AWAY = "Connect the MODEL without it."
log = logging.getLogger(__name__)


class ComfyBackbone:
    """See `Backbone`, each of whose members it has.

    Raises:
        ValueError: a MODEL or CLIP that is not of SD 1.x, SD 2.x or SDXL, or of two checkpoints.
    """

    def __init__(self, model: Any, clip: Any, vae: Any = None):
        self.model, self.clip, self.vae = non_dynamic(model), text_encoder.non_dynamic_clip(clip), vae
        if "model_function_wrapper" in model.model_options:
            log.warning('Another node wraps what samplers call of the input "model"; training does without it.')
        self.encoders = text_encoder.text_encoders(self.clip)
        self.schedule: NoiseSchedule = noise_schedule(self.model)
        self.vocabularies: Mapping[str, Vocabulary] = {
            key: text_encoder.vocabulary(self.clip, key) for key in self.encoders
        }
        width = sum(known.vectors.shape[1] for known in self.vocabularies.values())
        if context_width(self.model) != width:
            raise ValueError(
                f"MODEL and CLIP do not match: the model expects {context_width(self.model)}-dimensional text embeddings, this CLIP "
                f"gives {width}. Load both from the same checkpoint."
            )
        self.family: Family = family_of(self.model)
        self.fingerprint: str = fingerprint_of(self.model)
        self.outline: Outline = outline(self.model)
        self._changes = Changes()
        self.out_of_memory: tuple[type[BaseException], ...] = (model_management.OOM_EXCEPTION,)
        self.cancelled: tuple[type[Exception], ...] = (model_management.InterruptProcessingException,)

    @property
    def unet(self) -> Any:
        return self.model.model.diffusion_model

    @property
    def device(self) -> torch.device:
        return self.model.load_device

    @property
    def lora_names(self) -> Mapping[str, str]:
        return lora_names(self.model)

    def load(self) -> None:
        load(self.model, self.clip)

    def prepare(
        self, prompts: Sequence[tuple[str, str]], counts: Mapping[str, int], others: Sequence[Sequence[str]] = ()
    ) -> PreparedPrompts:
        return text_gradient.prepare(self.clip, prompts, counts, others)

    def encode(self, prepared: PreparedPrompts, indices: Sequence[int], words: Mapping[str, Vectors]) -> Encoded:
        return text_gradient.encode_prepared(self.clip, prepared, indices, words)

    def encode_text(self, text: str, concepts: Sequence[Concept] = ()) -> Encoded:
        clip = self._knowing(concepts)
        context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        return Encoded(context, pooled)

    def columns(self, text: str, phrases: Sequence[str], concepts: Sequence[Concept] = ()) -> list[tuple[int, ...]]:
        return text_encoder.columns_in_turn(self._knowing(concepts), text, phrases)

    @property
    def predict(self) -> Any:
        """The raw output of the UNet; a sampler's run of its own each time that it is asked for."""
        return predictor(self.model)

    def attention_to(self, prompt: Encoded, columns: Sequence[int], noisy: Tensor, timesteps: Tensor) -> list[Tensor]:
        return attention_to(self.model, prompt, columns, noisy=noisy, timesteps=timesteps)

    def sample(
        self, texts: Sequence[str], concepts: Sequence[Concept], noise: Tensor, *,
        steps: int, cfg: float, seed: int, on_step: Callable[..., None] | None = None,
    ) -> Tensor:  # fmt: skip
        with torch.inference_mode():
            clip = self._knowing(concepts)
            encoded = [text_encoder.encode(clip, text)[0] for text in texts]
            pooled = torch.cat([extra["pooled_output"] for _, extra in encoded])
            positive = [[torch.cat([cond for cond, _ in encoded]), {"pooled_output": pooled}]]
            latents = comfy.sample.sample(
                without_layout(self.model), noise, steps, cfg, "euler", "normal", positive, text_encoder.encode(clip, ""),
                torch.zeros_like(noise), disable_pbar=True, callback=on_step, seed=seed % 2**64,
            )  # fmt: skip
            latents = self.model.model.process_latent_in(latents.float())
        return latents.to(self.device)

    def observe(
        self, text: str, subjects: Sequence[str], concepts: Sequence[Concept], shape: tuple[int, int, int], *,
        seed: int, steps: int, cfg: float,
    ) -> Observed:  # fmt: skip
        clip = self._knowing(concepts)
        return observe(self.model, clip, [(text, subjects)], torch.zeros(1, *shape), seed=seed, steps=steps, cfg=cfg)

    def encode_images(self, images: Tensor) -> Tensor:
        return encode_images(self.model, self.vae, images)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return decode_latents(self.model, self.vae, latents)

    def weight(self, path: str) -> Tensor:
        return own_weight(self.model, path)

    def weights_of(self, kind: str) -> list[str]:
        return weights_of(self.unet, kind)

    @contextmanager
    def trainable(self, checkpointing: bool, reserve: float) -> Generator[None]:
        load(self.model, self.clip, reserve)
        with (
            frozen_weights(self.unet, *self.encoders.values()),
            differentiable_forwards(self.unet, *self.encoders.values()),
            text_gradient.differentiable(self.clip),
            checkpointed(self.unet) if checkpointing else nullcontext(),
        ):
            try:
                yield
            except RuntimeError as error:
                if is_of_gradients(error):
                    raise no_gradient("Training", TAKE_AWAY, self.model.model_options, error) from error
                raise

    def changed(self, changes: Mapping[str, WeightChange]) -> AbstractContextManager[None]:
        return self._changes.attached(self.unet, changes)

    def unchanged(self) -> AbstractContextManager[None]:
        return self._changes.detached()

    def measuring_saved_activations(self) -> AbstractContextManager[Callable[[], int]]:
        return measuring_saved_activations(self.unet, *self.encoders.values())

    def free_memory(self) -> float:
        return model_management.get_free_memory(self.device) - model_management.extra_reserved_memory()

    def max_batch(self, latents: Tensor) -> int:
        return max_batch(self.model, latents)

    def _knowing(self, concepts: Sequence[Concept]) -> Any:
        """The CLIP that also understands these concepts."""
        clip = self.clip
        for concept in concepts:
            clip = text_encoder.with_concept(clip, concept)
        return clip
