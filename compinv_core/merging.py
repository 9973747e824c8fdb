"""Several concepts' keys and values in one adapter, in closed form and without training (Kumari et al. 2023, section 3.3)."""

from collections.abc import Sequence
from random import Random
from typing import cast

import torch
from torch import Tensor

from .adapter import Adapter, Change
from .anchors import COCO_CATEGORIES
from .backbone import Backbone
from .concept import Concept, check_family
from .prompts.templates import prompts_about

CAPTIONS = 200  # ordinary ones, as the paper has; and as many of any words
CAPTION_WORDS = (4, 10)  # of the latter
CAPTION_WEIGHT = 0.1  # of what ordinary captions change, against what a concept's own prompts miss
RIDGE = 1e-6  # of the mean squared feature, for directions that no prompt uses: a layer norm leaves one that is but rounding
PROMPTS = ("{} {}", "photo of a {} {}")  # a concept's own, with its class word behind it
KEYS_AND_VALUES = "cross-attention keys and values"


def merged_change(captions: Tensor, targets: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The change D of one matrix under which each concept's prompts give what its own model gives, and ordinary captions change least.

    The paper solves min |X Dᵀ|² subject to T Dᵀ = V, with the captions' features X, the concepts' features T, and V what their own
    changes add to these. A prompt has 76 columns, padding among them, so that T may have more rows than a narrow model's features
    have dimensions; hence min |T Dᵀ - V|² + CAPTION_WEIGHT |X Dᵀ|², of which the paper's is the limit where T can be met exactly.

    Args:
        captions: (N, in), text features of ordinary captions.
        targets: of each concept, features (n, in) and the change of its own matrix (out, in).

    Returns:
        (out, in), float32.
    """
    x = captions.double()
    features = torch.cat([own for own, _ in targets]).double()
    wanted = torch.cat([own.double() @ delta.double().T for own, delta in targets])
    second = features.T @ features / len(features) + CAPTION_WEIGHT * x.T @ x / len(x)
    second += RIDGE * second.diagonal().mean() * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return cast(Tensor, torch.linalg.solve(second, features.T @ wanted / len(features))).T.float()


@torch.no_grad()
def merged_adapter(backbone: Backbone, parts: Sequence[tuple[Concept, Adapter]]) -> Adapter:
    """One adapter for several concepts, each with its own.

    Raises:
        ValueError: fewer than two, the same twice, one of another family, or one that changes more than keys and values.
    """
    _check(backbone, parts)
    captions = _captions(backbone)
    features = [_features(backbone, concept) for concept, _ in parts]
    found: dict[str, Change] = {}
    for path in backbone.weights_of(KEYS_AND_VALUES):
        targets = [
            (own, adapter.changes[path].delta.to(own.device))
            for own, (_, adapter) in zip(features, parts, strict=True)
            if path in adapter.changes
        ]
        if targets:
            found[path] = Change(merged_change(captions, targets))
    return Adapter(found, backbone.family.name)


def _check(backbone: Backbone, parts: Sequence[tuple[Concept, Adapter]]) -> None:
    names = [concept.name for concept, _ in parts]
    if len(parts) < 2:
        raise ValueError(f"{len(parts)} concept with an adapter is connected; connect two to four.")
    if len(set(names)) < len(names) or len({id(adapter) for _, adapter in parts}) < len(parts):
        raise ValueError(
            f"The same concept or adapter is connected twice ({', '.join(names)}); each can be merged once."
        )
    widths = {key: known.vectors.shape[1] for key, known in backbone.vocabularies.items()}
    allowed = set(backbone.weights_of(KEYS_AND_VALUES))
    for concept, adapter in parts:
        check_family(concept, widths)
        for path, change in adapter.changes.items():
            if path not in allowed:
                raise ValueError(
                    f'The adapter of "{concept.name}" changes "{path}"; only cross-attention keys and values can be merged. Chain '
                    "LoRA loaders for others."
                )
            shape = tuple(backbone.weight(path).shape)
            if tuple(change.shape) != shape:
                raise ValueError(
                    f'The adapter of "{concept.name}" is for another family of models: its change of "{path}" has the shape '
                    f"{tuple(change.shape)}, the model's weight {shape}."
                )


def _captions(backbone: Backbone) -> Tensor:
    """(N, E), the text features of ordinary captions, all their columns, as the UNet reads them.

    Half of them are about things; the paper's, from the web, speak of everything. What no caption speaks of, a merged change may move at
    will, so the other half are random words of the vocabulary.
    """
    vocabularies = list(backbone.vocabularies.values())
    words = [c for c in COCO_CATEGORIES if all(part in known for known in vocabularies for part in c.split())]
    if len(words) < 3:
        raise ValueError(
            'The input "clip" knows fewer than three of the COCO categories as words; no captions can be made for it.'
        )
    texts = [text for text, _ in prompts_about(words, CAPTIONS, seed=0)]
    random = Random(0)
    ordinary = [
        word for word in vocabularies[0].words if word.isalpha() and all(word in known for known in vocabularies)
    ]
    texts += [" ".join(random.choices(ordinary, k=random.randint(*CAPTION_WORDS))) for _ in range(CAPTIONS)]
    return torch.cat([backbone.encode_text(text).context[0] for text in texts]).float().to(backbone.device)


def _features(backbone: Backbone, concept: Concept) -> Tensor:
    """(n, E), the text features of a concept's own prompts: all columns but the first, which is the same for every prompt."""
    prompts = [" ".join(prompt.format(f"embedding:{concept.name}", concept.class_word).split()) for prompt in PROMPTS]
    encoded = [backbone.encode_text(prompt, [concept]).context[0, 1:] for prompt in prompts]
    return torch.cat(encoded).float().to(backbone.device)
