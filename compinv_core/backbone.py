"""The page between the method and its host: all that the method asks of a loaded model, and nothing that only ComfyUI knows.

The method (everything in this package but `host/`) is written against `Backbone`; `host/backbone.py` implements it for ComfyUI,
`tests/fake_backbone.py` in a few lines for tests.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from einops import rearrange
from torch import Tensor

from .concept import Concept
from .families.unet import Outline
from .prompts.vocabulary import Vocabulary

Prediction = Literal["epsilon", "v"]
Vectors = Mapping[str, Tensor]
"""A word's input embeddings: text-encoder key -> (n, E)."""


@dataclass(frozen=True)
class Family:
    """What differs between architectures, as far as the method has to know.

    Attributes:
        name: "SD 1.x", "SD 2.x" or "SDXL"; adapters and embeddings of one do not fit another.
        channels: of its latents.
        stride: pixels of an image along one cell of its latents.
        least_resolution: pixels a side below which it draws badly.
    """

    name: str
    channels: int = 4
    stride: int = 8
    least_resolution: int = 0


@dataclass(frozen=True)
class Encoded:
    """Prompts as a UNet reads them.

    Attributes:
        context: (B, L, E), for cross-attention; the widths of all text encoders side by side.
        pooled: (B, P), one vector for a whole prompt, which SDXL reads too.
        elsewhere: name of a place ("output 3") -> (B, L, E), what its blocks read in place of `context`.
    """

    context: Tensor
    pooled: Tensor
    elsewhere: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def with_others(self, others: "Encoded") -> "Encoded":
        """These prompts, then others."""
        elsewhere = {
            place: torch.cat([one.elsewhere.get(place, one.context) for one in (self, others)])
            for place in (*self.elsewhere, *others.elsewhere)
        }
        return Encoded(torch.cat([self.context, others.context]), torch.cat([self.pooled, others.pooled]), elsewhere)

    def split(self, size: int) -> "list[Encoded]":
        """These prompts, so many at a time."""
        starts = range(0, len(self.context), size)
        return [self._each(lambda own, i=i: own[i : i + size]) for i in starts]

    def expand(self, count: int) -> "Encoded":
        """One prompt as so many, without a copy."""
        return self._each(lambda own: own.expand(count, *[-1] * (own.ndim - 1)))

    def to(self, device: torch.device) -> "Encoded":
        return self._each(lambda own: own.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Encoded":
        elsewhere = {place: change(own) for place, own in self.elsewhere.items()}
        return Encoded(change(self.context), change(self.pooled), elsewhere)


class Predictor(Protocol):
    """The UNet: what it predicts for noisy latents (B, C, h, w) at timesteps (B,) under B prompts."""

    def __call__(self, noisy: Tensor, timesteps: Tensor, prompts: Encoded) -> Tensor: ...


@dataclass(frozen=True)
class NoiseSchedule:
    """The checkpoint's own schedule.

    Attributes:
        alphas_cumprod: (T,), the share of the signal left at each timestep.
        prediction: what the UNet was trained to predict.
    """

    alphas_cumprod: Tensor
    prediction: Prediction

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        signal, spread = self._scales(timesteps)
        return signal * latents + spread * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        signal, spread = self._scales(timesteps)
        return signal * noise - spread * latents

    def clean(self, noisy: Tensor, output: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(latents, noise) that the UNet's output amounts to."""
        signal, spread = self._scales(timesteps)
        if self.prediction == "epsilon":
            return (noisy - spread * output) / signal, output
        return signal * noisy - spread * output, signal * output + spread * noisy

    def _scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alpha = rearrange(self.alphas_cumprod[timesteps], "b -> b 1 1 1")
        return alpha.sqrt(), (1 - alpha).sqrt()


@dataclass(frozen=True)
class PreparedPrompts:
    """Prompts that are tokenised once, by text encoder, with room for the vectors of placeholders.

    Attributes:
        embeds: (P, L, E), the input embeddings, zero where a placeholder goes.
        positions: (P,), the column where a prompt's placeholder begins.
        lengths: P numbers of tokens, which the pooled output needs.
        placeholders: P names: whose place it is.
        counts: placeholder -> how many vectors it has.
        others: of each prompt, the names of further placeholders and the columns where they begin; empty where there are none.
    """

    embeds: Mapping[str, Tensor]
    positions: Mapping[str, Tensor]
    lengths: Mapping[str, list[int]]
    placeholders: tuple[str, ...]
    counts: Mapping[str, int]
    others: tuple[tuple[tuple[str, int], ...], ...] = ()


@dataclass(frozen=True)
class Observed:
    """Images, and what their subjects got of the attention while they were sampled: means over the blocks and cells.

    Attributes:
        shares: (T, B, S) in 0..1, how much of a step's attention went to a subject's tokens, of all tokens' 1.
        entropies: (T, B, S) in 0..1, how widely it was spread.
        latents: (B, C, h, w), finished, as the autoencoder takes them.
    """

    shares: Tensor
    entropies: Tensor
    latents: Tensor


WeightChange = Callable[[Tensor], Tensor]
"""What a weight becomes for the model's forward: of its shape, dtype and device, differentiable in what is learnt."""


class Backbone(Protocol):
    """A loaded text-to-image model with its text encoders and autoencoder. Its weights are never changed."""

    @property
    def family(self) -> Family: ...

    @property
    def device(self) -> torch.device:
        """Where the UNet computes."""
        ...

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        """Text-encoder key -> its whole words."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short name of the UNet's own weights."""
        ...

    @property
    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        """What is raised when the device's memory is used up."""
        ...

    @property
    def cancelled(self) -> tuple[type[Exception], ...]:
        """What is raised within a forward when the user cancels."""
        ...

    def load(self) -> None:
        """Bring the UNet and the text encoders to their devices, together."""
        ...

    @property
    def outline(self) -> Outline:
        """The UNet's cross-attentions."""
        ...

    def prepare(
        self, prompts: Sequence[tuple[str, str]], counts: Mapping[str, int], others: Sequence[Sequence[str]] = ()
    ) -> PreparedPrompts:
        """Tokenise (prompt, name of the placeholder in it) once; each placeholder has `counts` vectors.

        Args:
            others: of each prompt, further placeholders in it.

        Raises:
            ValueError: a prompt is longer than one chunk of the text encoder, or does not hold its placeholder once.
        """
        ...

    def encode(self, prepared: PreparedPrompts, indices: Sequence[int], words: Mapping[str, Vectors]) -> Encoded:
        """Encode prepared prompts with the placeholders' vectors written in; differentiable in these within `trainable`."""
        ...

    def encode_text(self, text: str, concepts: Sequence[Concept] = ()) -> Encoded:
        """One prompt (1, L, E) exactly as the host's own text encode node reads it, with concepts as `embedding:name`."""
        ...

    def columns(self, text: str, phrases: Sequence[str], concepts: Sequence[Concept] = ()) -> list[tuple[int, ...]]:
        """Where phrases, which a prompt has in this order, sit on the token axis."""
        ...

    @property
    def predict(self) -> Predictor:
        """The UNet's raw output, as the checkpoint predicts."""
        ...

    def attention_to(self, prompt: Encoded, columns: Sequence[int], noisy: Tensor, timesteps: Tensor) -> list[Tensor]:
        """Of the blocks whose maps are used, the attention to P columns of one prompt: (B, P, h, w) each."""
        ...

    def sample(
        self, texts: Sequence[str], concepts: Sequence[Concept], noise: Tensor, *,
        steps: int, cfg: float, seed: int, on_step: Callable[..., None] | None = None,
    ) -> Tensor:  # fmt: skip
        """The host's own Euler sampler from noise (B, C, h, w), a prompt each: latents as the UNet sees them."""
        ...

    def observe(
        self, text: str, subjects: Sequence[str], concepts: Sequence[Concept], shape: tuple[int, int, int], *,
        seed: int, steps: int, cfg: float,
    ) -> Observed:  # fmt: skip
        """Sample one prompt and watch its subjects, which it has in this order."""
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) in 0..1 -> (N, C, h, w) as the UNet sees them, on its device."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as the UNet sees them -> (B, H, W, 3) in 0..1."""
        ...

    @property
    def lora_names(self) -> Mapping[str, str]:
        """Path of a weight of the UNet -> its name in LoRA files, without an ending."""
        ...

    def weight(self, path: str) -> Tensor:
        """A weight of the UNet, patches left out, in its own dtype; paths are its own module names."""
        ...

    def weights_of(self, kind: str) -> list[str]:
        """Paths of the UNet's weights, in the order in which they run.

        Args:
            kind: "cross-attention keys and values", "attention" or "all".
        """
        ...

    def trainable(self, checkpointing: bool, reserve: float) -> AbstractContextManager[None]:
        """For its time a backward goes through text encoders and UNet, whose weights stay frozen.

        Args:
            checkpointing: whether blocks keep only their inputs and compute the rest again (gradient checkpointing).
            reserve: bytes that are left free for it.
        """
        ...

    def changed(self, changes: Mapping[str, WeightChange]) -> AbstractContextManager[None]:
        """For its time the UNet runs with other weights; after it, as before."""
        ...

    def unchanged(self) -> AbstractContextManager[None]:
        """Within `changed`, for its time, the UNet runs with its own weights."""
        ...

    def measuring_saved_activations(self) -> AbstractContextManager[Callable[[], int]]:
        """For its time a forward saves nothing for a backward; yields how many bytes it would have saved so far."""
        ...

    def free_memory(self) -> float:
        """Bytes that the device has left."""
        ...

    def max_batch(self, latents: Tensor) -> int:
        """How many of such latents (B, C, h, w) go through the UNet at once, without a backward."""
        ...
