"""A backward through ComfyUI's CLIP: training prompts that are tokenised once, encoded with a placeholder's vectors in them."""

import types
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..backbone import Encoded, PreparedPrompts, Vectors
from ..concept import Concept
from ..sentences import quoted
from .model import frozen_weights, other_forwards
from .text_encoder import text_encoders, with_concept


@contextmanager
def differentiable(clip: Any) -> Generator[None]:
    """For its time, this CLIP's layers add their residuals out of place, as autograd needs; other CLIPs are untouched."""
    layers = [layer for e in text_encoders(clip).values() for layer in e.transformer.text_model.encoder.layers]

    def forward(self: Any, x: Tensor, mask: Tensor | None = None, optimized_attention: Any = None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
        return x + self.mlp(self.layer_norm2(x))

    with other_forwards(layers, lambda layer: types.MethodType(forward, layer)):
        yield


def prepare(
    clip: Any, prompts: Sequence[tuple[str, str]], counts: Mapping[str, int], others: Sequence[Sequence[str]] = ()
) -> PreparedPrompts:
    """Tokenise (prompt, name of the placeholder in it) once, as `embedding:<name>` with `counts` vectors each.

    Args:
        others: of each prompt, further placeholders in it.

    Raises:
        ValueError: a prompt is longer than one chunk of the text encoder, or does not hold its placeholder once.
    """
    embeds: dict[str, Tensor] = {}
    positions: dict[str, Tensor] = {}
    lengths: dict[str, list[int]] = {}
    further: tuple[tuple[tuple[str, int], ...], ...] = ()
    encoders = text_encoders(clip)
    widths = {key: encoder.transformer.get_input_embeddings().weight.shape[1] for key, encoder in encoders.items()}
    places = {name: {key: torch.zeros(count, widths[key]) for key in encoders} for name, count in counts.items()}
    marked = clip
    for name, own in places.items():
        marked = with_concept(marked, Concept(name, own))
    with torch.no_grad(), frozen_weights(*encoders.values()):
        for key, encoder in encoders.items():
            rows = [_tokens(marked, key, prompt, counts[name]) for prompt, name in prompts]
            starts = [
                _start(row, prompt, name, places[name][key]) for row, (prompt, name) in zip(rows, prompts, strict=True)
            ]
            further = tuple(  # the same for all text encoders, whose tokens are in step
                tuple((name, _start(row, prompt, name, places[name][key])) for name in own)
                for row, (prompt, _), own in zip(rows, prompts, others or [()] * len(rows), strict=True)
            )
            device = encoder.transformer.get_input_embeddings().weight.device
            values, _, lengths[key], _ = encoder.process_tokens(rows, device)
            embeds[key] = values.clone().to(clip.patcher.load_device)
            positions[key] = torch.tensor(starts, device=clip.patcher.load_device)
    placeholders = tuple(name for _, name in prompts)
    return PreparedPrompts(
        embeds, positions, lengths, placeholders=placeholders, counts=dict(counts), others=further
    )  # fmt: skip


def _tokens(clip: Any, key: str, prompt: str, count: int) -> list[Any]:
    """Of one text encoder; vectors of embeddings among them."""
    chunks = clip.tokenize(prompt)[key.removeprefix("clip_")]
    if len(chunks) > 1:
        raise ValueError(
            f'The prompt "{quoted(prompt)}" with {count} vectors is longer than one chunk of {len(chunks[0])} tokens; use fewer vectors.'
        )
    return [token for token, _ in chunks[0]]


def _start(row: Sequence[Any], prompt: str, name: str, vectors: Tensor) -> int:
    """The column where a placeholder begins; its vectors stand side by side."""
    found = [i for i, token in enumerate(row) if _is_part(token, vectors)]
    if len(found) != len(vectors):
        raise ValueError(
            f'The prompt "{quoted(prompt)}" must hold "embedding:{name}" once, with a space before and after it.'
        )
    return found[0]


def _is_part(token: Any, vectors: Tensor) -> bool:
    """Whether it is one of these vectors, and not of another embedding in the prompt."""
    return isinstance(token, Tensor) and token.untyped_storage().data_ptr() == vectors.untyped_storage().data_ptr()


def encode_prepared(
    clip: Any, prepared: PreparedPrompts, indices: Sequence[int], words: Mapping[str, Vectors]
) -> Encoded:
    """Encode prepared prompts with the placeholders' vectors written in; equal to ComfyUI's own encoding of the text.

    To be called within `differentiable(clip)` and `frozen_weights`, for a gradient.

    The pooled output is that of the last text encoder, as ComfyUI has it.
    """
    clip.cond_stage_model.reset_clip_options()
    if clip.layer_idx is not None:
        clip.cond_stage_model.set_clip_options({"layer": clip.layer_idx})
    outputs: list[Tensor] = []
    pooled: list[Tensor] = []
    for key, encoder in text_encoders(clip).items():
        device = encoder.transformer.get_input_embeddings().weight.device
        of_encoder = {name: own[key].to(device) for name, own in words.items()}
        embeds = _written(prepared, key, indices, of_encoder)
        # Where the end is, as tokens say it and not as numbers: those the CPU would have to wait for.
        ends = torch.tensor([prepared.lengths[key][i] - 1 for i in indices])[:, None]
        tokens = torch.where(torch.arange(embeds.shape[1]) == ends, encoder.transformer.text_model.eos_token_id, -1)
        result = encoder.transformer(
            tokens.to(device, non_blocking=True),
            None,
            embeds=embeds,
            intermediate_output=None if encoder.layer == "last" else encoder.layer_idx,
            final_layer_norm_intermediate=encoder.layer_norm_hidden_state,
            dtype=torch.float32,
        )
        outputs.append((result[0] if encoder.layer == "last" else result[1]).float())
        pooled.append((result[2] if encoder.return_projected_pooled else result[3]).float())
    return Encoded(torch.cat(outputs, dim=-1), pooled[-1])


def _written(prepared: PreparedPrompts, key: str, indices: Sequence[int], words: Mapping[str, Tensor]) -> Tensor:
    """(B, L, E), the prompts' input embeddings for one text encoder, on the device of the placeholders' vectors (n, E)."""
    device = next(iter(words.values())).device
    asked = torch.tensor(list(indices)).to(device, non_blocking=True)
    embeds, starts = (values[key].to(device)[asked] for values in (prepared.embeds, prepared.positions))
    for name in dict.fromkeys(prepared.placeholders[i] for i in indices):
        vectors = words[name]
        own = torch.tensor([row for row, i in enumerate(indices) if prepared.placeholders[i] == name])
        rows = own.to(device, non_blocking=True)
        columns = starts[rows][:, None] + torch.arange(len(vectors), device=device)
        embeds = embeds.index_put((rows[:, None].expand_as(columns), columns), vectors.expand(len(own), -1, -1))
    for row, i in enumerate(indices):
        for name, start in prepared.others[i] if prepared.others else ():
            vectors = words[name]
            columns = torch.arange(start, start + len(vectors), device=device)
            embeds = embeds.index_put((torch.full_like(columns, row), columns), vectors)
    return embeds
