"""A `Backbone` without ComfyUI: words of a few numbers, and a UNet of one cross-attention, which two blocks share.

A prompt is its words, one token each; of a placeholder, its vectors. An image's latent is its colour, cell by cell.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from compositional_inversion.compinv_core.backbone import (
    Encoded,
    Family,
    NoiseSchedule,
    Observed,
    PreparedPrompts,
    Vectors,
    WeightChange,
)
from compositional_inversion.compinv_core.concept import Concept
from compositional_inversion.compinv_core.families.unet import Outline, Place
from compositional_inversion.compinv_core.prompts.vocabulary import Vocabulary
from compositional_inversion.compinv_core.report.figures import entropy
from compositional_inversion.compinv_core.training.objective import sample
from einops import rearrange
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

CHANNELS, LENGTH = 4, 16
WORDS = ("cat", "kitten", "dog", "car", "cup", "kite", "boat", "chair", "cyan", "red", "photo", "picture")
K, V, Q, OUT, BIAS = (
    "mid.attn2.to_k.weight", "mid.attn2.to_v.weight", "mid.attn1.to_q.weight", "out.weight", "out.bias",
)  # fmt: skip
KINDS = {"cross-attention keys and values": [K, V], "attention": [Q, K, V], "all": [Q, K, V, OUT, BIAS]}


class OutOfMemory(RuntimeError):
    """What this device raises."""


class Cancelled(Exception):
    """What a forward raises when the user cancels."""


class FakeBackbone:
    """See `Backbone`.

    Attributes:
        on_forward: called with the images of each forward that a gradient goes through; may raise.
        free: bytes that the device has left.
        most: images that go through the UNet at once.
        readied: checkpointing of each `trainable`.
    """

    out_of_memory: tuple[type[BaseException], ...] = (OutOfMemory,)
    cancelled: tuple[type[Exception], ...] = (Cancelled,)
    device = torch.device("cpu")
    fingerprint = "fake"
    outline = Outline((Place(("input", 1), 1, 0), Place(("middle", 0), 1, 1)), 1)  # a fine block and a coarse one

    def __init__(self, words: Mapping[str, Sequence[float]] | None = None, width: int = 6):
        generator = torch.Generator().manual_seed(7)
        table = (
            torch.randn(len(WORDS), width, generator=generator) if words is None else torch.tensor([*words.values()])
        )
        known = tuple(words or WORDS)
        self.width = table.shape[1]
        self.vocabularies: Mapping[str, Vocabulary] = {"clip_l": Vocabulary(known, torch.arange(len(known)), table)}
        self.family = Family("SD 1.x")
        self.schedule = NoiseSchedule(torch.linspace(0.99, 0.01, 50), "epsilon")
        shapes = {
            K: (CHANNELS, self.width),
            V: (CHANNELS, self.width),
            Q: (CHANNELS,) * 2,
            OUT: (CHANNELS,) * 2,
            BIAS: (CHANNELS,),
        }
        self.weights = {path: torch.randn(shape, generator=generator) / 2 for path, shape in shapes.items()}
        self.on_forward: Callable[[int], None] = lambda images: None
        self.free, self.most = 1e12, 8
        self.readied: list[bool] = []
        self._changes: Mapping[str, WeightChange] = {}
        self._ready = False

    def load(self) -> None: ...

    def _tokens(self, text: str, counts: Mapping[str, int]) -> list[str | tuple[str, int]]:
        """Words, and of a placeholder its name and the vector's number."""
        found: list[str | tuple[str, int]] = []
        for word in text.replace(",", " ").split():
            name = word.removeprefix("embedding:")
            found += [(name, i) for i in range(counts[name])] if word != name and name in counts else [word]
        if len(found) > LENGTH:
            raise ValueError(f'The prompt "{text}" is longer than one chunk of {LENGTH} tokens.')
        return found

    def _row(self, token: str | tuple[str, int]) -> Tensor:
        known = self.vocabularies["clip_l"]
        return known.vector(token) if isinstance(token, str) and token in known else torch.zeros(self.width)

    def prepare(
        self, prompts: Sequence[tuple[str, str]], counts: Mapping[str, int], others: Sequence[Sequence[str]] = ()
    ) -> PreparedPrompts:
        further: list[tuple[tuple[str, int], ...]] = []
        embeds, positions = torch.zeros(len(prompts), LENGTH, self.width), list[int]()
        for row, (text, name) in enumerate(prompts):
            tokens = self._tokens(text, counts)
            if tokens.count((name, 0)) != 1:
                raise ValueError(f'The prompt "{text}" must hold "embedding:{name}" once.')
            positions.append(tokens.index((name, 0)))
            further.append(tuple((other, tokens.index((other, 0))) for other in (others[row] if others else ())))
            embeds[row, : len(tokens)] = torch.stack([self._row(token) for token in tokens])
        names, lengths = tuple(name for _, name in prompts), [LENGTH] * len(prompts)
        return PreparedPrompts(
            {"clip_l": embeds},
            {"clip_l": torch.tensor(positions)},
            {"clip_l": lengths},
            names,
            dict(counts),
            tuple(further),
        )

    def encode(self, prepared: PreparedPrompts, indices: Sequence[int], words: Mapping[str, Vectors]) -> Encoded:
        rows: list[Tensor] = []
        for i in indices:
            row, vectors = prepared.embeds["clip_l"][i], words[prepared.placeholders[i]]["clip_l"]
            at = torch.arange(len(vectors)) + prepared.positions["clip_l"][i]
            row = row.index_put((at,), vectors)
            for name, start in prepared.others[i]:
                vectors = words[name]["clip_l"]
                row = row.index_put((torch.arange(start, start + len(vectors)),), vectors)
            rows.append(row)
        context = torch.stack(rows)
        return Encoded(context, context.sum(dim=1).tanh())

    def encode_text(self, text: str, concepts: Sequence[Concept] = ()) -> Encoded:
        vectors = {concept.name: concept.vectors["clip_l"] for concept in concepts}
        tokens = self._tokens(text, {name: len(own) for name, own in vectors.items()})
        rows = [vectors[t[0]][t[1]] if isinstance(t, tuple) else self._row(t) for t in tokens]
        context = torch.stack([*rows, *[torch.zeros(self.width)] * (LENGTH - len(rows))])[None]
        return Encoded(context, context.sum(dim=1).tanh())

    def columns(self, text: str, phrases: Sequence[str], concepts: Sequence[Concept] = ()) -> list[tuple[int, ...]]:
        counts = {concept.name: concept.count for concept in concepts}
        tokens, found, start = self._tokens(text, counts), list[tuple[int, ...]](), len(self._tokens(text, counts))
        for phrase in reversed(phrases):
            own = self._tokens(phrase, counts)
            start = next(i for i in reversed(range(start - len(own) + 1)) if tokens[i : i + len(own)] == own)
            found.insert(0, tuple(range(start, start + len(own))))
        return found

    def predict(self, noisy: Tensor, timesteps: Tensor, prompts: Encoded) -> Tensor:
        learnt = (prompts.context, *prompts.elsewhere.values())
        if torch.is_grad_enabled() and any(context.requires_grad for context in learnt):
            assert self._ready, "a backward needs `trainable`"
            self.on_forward(len(noisy))
        weights = {path: self._changes[path](w) if path in self._changes else w for path, w in self.weights.items()}
        cells = rearrange(noisy, "b c h w -> b (h w) c")
        contexts = [prompts.elsewhere.get(place, prompts.context) for place in self.outline.place_names]
        contexts = contexts if prompts.elsewhere else [prompts.context]
        reads = [
            self._attention(noisy, Encoded(context, prompts.pooled), weights) @ (context @ weights[V].T)
            for context in contexts
        ]
        read = torch.stack(reads).mean(dim=0) if len(reads) > 1 else reads[0]
        output = (cells + read).tanh() @ weights[OUT].T + weights[BIAS]
        return rearrange(output, "b (h w) c -> b c h w", h=noisy.shape[2])

    def _attention(self, noisy: Tensor, prompts: Encoded, weights: Mapping[str, Tensor]) -> Tensor:
        """(B, h*w, L)."""
        queries = rearrange(noisy, "b c h w -> b (h w) c") @ weights[Q].T
        return (queries @ (prompts.context @ weights[K].T).mT).softmax(dim=-1)

    def attention_to(self, prompt: Encoded, columns: Sequence[int], noisy: Tensor, timesteps: Tensor) -> list[Tensor]:
        maps = self._attention(noisy, prompt.expand(len(noisy)), self.weights)[..., list(columns)]
        return [rearrange(maps, "b (h w) p -> b p h w", h=noisy.shape[2])]

    def sample(
        self, texts: Sequence[str], concepts: Sequence[Concept], noise: Tensor, *,
        steps: int, cfg: float, seed: int, on_step: Callable[..., None] | None = None,
    ) -> Tensor:  # fmt: skip
        encoded = [self.encode_text(text, concepts) for text in texts]
        prompts = Encoded(torch.cat([e.context for e in encoded]), torch.cat([e.pooled for e in encoded]))
        if on_step is not None:
            on_step(steps)
        empty = self.encode_text("").expand(len(texts))
        return sample(self.predict, self.schedule, noise, prompts, empty, steps, cfg).clamp(-3, 3)

    def observe(
        self, text: str, subjects: Sequence[str], concepts: Sequence[Concept], shape: tuple[int, int, int], *,
        seed: int, steps: int, cfg: float,
    ) -> Observed:  # fmt: skip
        noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
        columns, asked = self.columns(text, subjects, concepts), self.encode_text(text, concepts)
        maps = [self.attention_to(asked, own, noise, torch.zeros(1))[0].sum(dim=1) for own in columns]
        shares, spread = (
            torch.stack([f(m) for m in maps], dim=-1)[None] for f in (lambda m: m.mean((-2, -1)), entropy)
        )
        latents = self.sample([text], concepts, noise, steps=steps, cfg=cfg, seed=seed)
        return Observed(shares.expand(steps, -1, -1), spread.expand(steps, -1, -1), latents)

    def encode_images(self, images: Tensor) -> Tensor:
        cells = F.avg_pool2d(rearrange(images, "n h w c -> n c h w"), self.family.stride)
        return torch.cat([2 * cells - 1, cells.mean(dim=1, keepdim=True)], dim=1)

    def decode_latents(self, latents: Tensor) -> Tensor:
        pixels = F.interpolate((latents[:, :3] + 1) / 2, scale_factor=self.family.stride).clamp(0, 1)
        return rearrange(pixels, "n c h w -> n h w c")

    @property
    def lora_names(self) -> Mapping[str, str]:
        return {path: f"lora_unet_{path.rpartition('.')[0].replace('.', '_')}" for path in self.weights}

    def weight(self, path: str) -> Tensor:
        return self.weights[path]

    def weights_of(self, kind: str) -> list[str]:
        return KINDS[kind]

    @contextmanager
    def trainable(self, checkpointing: bool, reserve: float) -> Generator[None]:
        self.readied.append(checkpointing)
        self._ready = True
        try:
            yield
        finally:
            self._ready = False

    @contextmanager
    def changed(self, changes: Mapping[str, WeightChange]) -> Generator[None]:
        before, self._changes = self._changes, changes
        try:
            yield
        finally:
            self._changes = before

    def unchanged(self):
        return self.changed({})

    @contextmanager
    def measuring_saved_activations(self) -> Generator[Callable[[], int]]:
        saved: dict[int, torch.UntypedStorage] = {}  # itself, or another could be made at the same address

        def count(tensor: Tensor) -> None:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()

        with saved_tensors_hooks(count, lambda _: torch.empty(0)):
            yield lambda: sum(storage.nbytes() for storage in saved.values())

    def free_memory(self) -> float:
        return self.free

    def max_batch(self, latents: Tensor) -> int:
        return self.most
