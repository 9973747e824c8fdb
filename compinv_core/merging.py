"""Several concepts' keys and values in one adapter, in closed form and without training (Kumari et al. 2023, section 3.3)."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from .adapter import Adapter, Change
from .anchors import COCO_CATEGORIES
from .backbone import Backbone
from .concept import Concept, check_family
from .prompts.templates import prompts_about

CAPTIONS = 200  # ordinary ones, as the paper has
RIDGE = (
    1e-4  # of the captions' mean squared feature, without which directions that no caption uses could not be inverted
)
PROMPTS = ("{} {}", "photo of a {} {}")  # a concept's own, with its class word behind it
KEYS_AND_VALUES = "cross-attention keys and values"


def merged_change(captions: Tensor, targets: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The change D of one matrix under which each concept's prompts give what its own model gives, and ordinary captions change least.

    With C = XᵀX over the captions' features X, the concepts' features T and V what their own changes add to these,
    min ‖X Dᵀ‖² subject to T Dᵀ = V has the solution D = Vᵀ (T C⁻¹ Tᵀ)⁺ T C⁻¹.

    Args:
        captions: (N, in), text features of ordinary captions.
        targets: of each concept, features (n, in) and the change of its own matrix (out, in).

    Returns:
        (out, in), float32.
    """
    x = captions.double()
    features = torch.cat([own for own, _ in targets]).double()
    wanted = torch.cat([own.double() @ delta.double().T for own, delta in targets])
    second = x.T @ x / len(x)
    second += RIDGE * second.diagonal().mean() * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    towards = cast(Tensor, torch.linalg.solve(second, features.T)).T  # T C⁻¹
    between = features @ towards.T  # T C⁻¹ Tᵀ
    return (wanted.T @ cast(Tensor, torch.linalg.pinv(between, hermitian=True)) @ towards).float()


@torch.no_grad()
def merged_adapter(backbone: Backbone, parts: Sequence[tuple[Concept, Mapping[str, Tensor]]]) -> Adapter:
    """One adapter for several concepts, each with its LoRA file's tensors.

    Raises:
        ValueError: fewer than two, the same twice, one of another family, or one that changes more than keys and values.
    """
    adapters = _checked(backbone, parts)
    captions = _captions(backbone)
    features = [_features(backbone, concept) for concept, _ in parts]
    found: dict[str, Change] = {}
    for path in backbone.weights_of(KEYS_AND_VALUES):
        targets = [
            (own, adapter.changes[path].delta.to(own.device))
            for own, adapter in zip(features, adapters, strict=True)
            if path in adapter.changes
        ]
        if targets:
            found[path] = Change(merged_change(captions, targets))
    return Adapter(found, backbone.family.name)


def _checked(backbone: Backbone, parts: Sequence[tuple[Concept, Mapping[str, Tensor]]]) -> list[Adapter]:
    names = [concept.name for concept, _ in parts]
    if len(parts) < 2:
        raise ValueError(f"{len(parts)} concept with an adapter is connected; two to four are merged.")
    if len(set(names)) < len(names) or len({id(lora) for _, lora in parts}) < len(parts):
        raise ValueError(
            f"The same concept or adapter is connected twice ({', '.join(names)}); each can be merged once."
        )
    widths = {key: known.vectors.shape[1] for key, known in backbone.vocabularies.items()}
    allowed, adapters = set(backbone.weights_of(KEYS_AND_VALUES)), list[Adapter]()
    for concept, lora in parts:
        check_family(concept, widths)
        adapter = Adapter.from_lora(lora, backbone.lora_names, backbone.family.name)
        for path, change in adapter.changes.items():
            if path not in allowed:
                raise ValueError(
                    f'The adapter of "{concept.name}" changes "{path}"; only cross-attention keys and values can be merged. Chain '
                    "LoRA loaders for others."
                )
            shape = tuple(backbone.weight(path).shape)
            if tuple(change.delta.shape) != shape:
                raise ValueError(
                    f'The adapter of "{concept.name}" is for another family of models: its change of "{path}" has the shape '
                    f"{tuple(change.delta.shape)}, the model's weight {shape}."
                )
        adapters.append(adapter)
    return adapters


def _captions(backbone: Backbone) -> Tensor:
    """(N, E), the text features of ordinary captions, all their columns, as the UNet reads them."""
    vocabularies = backbone.vocabularies.values()
    words = [c for c in COCO_CATEGORIES if all(part in known for known in vocabularies for part in c.split())]
    if len(words) < 3:
        raise ValueError(
            'The input "clip" knows fewer than three of the COCO categories as words; no captions can be made for it.'
        )
    texts = [text for text, _ in prompts_about(words, CAPTIONS, seed=0)]
    return torch.cat([backbone.encode_text(text).context[0] for text in texts]).float().to(backbone.device)


def _features(backbone: Backbone, concept: Concept) -> Tensor:
    """(n, E), the text features of a concept's own prompts: from the first word to the end, and one column of padding."""
    word = concept.class_word
    prompts = [" ".join(prompt.format(f"embedding:{concept.name}", word).split()) for prompt in PROMPTS]
    prepared = backbone.prepare([(prompt, concept.name) for prompt in prompts], {concept.name: concept.count})
    lengths = next(iter(prepared.lengths.values()))
    rows: list[Tensor] = []
    for number, length in enumerate(lengths):
        context = backbone.encode(prepared, [number], {concept.name: concept.vectors}).context[0]
        rows.append(torch.cat([context[1:length], context[-1:]]))
    return torch.cat(rows).float().to(backbone.device)
