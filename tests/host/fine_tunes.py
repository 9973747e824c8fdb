"""Fine-tunes for tests: the node on the micro world, and small models of every family beside diffusers' with the same weights."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).parent.parent.parent
PROMPTS = ["a photo of a embedding:probe", "a rendering of the embedding:probe, on grass"]
ORDINARY = tuple(prompt.replace("embedding:probe", "cat") for prompt in PROMPTS)


def pictures_of(concept: str) -> list[Tensor]:
    folder = ROOT / "microworld" / "user_pictures" / concept
    return [torch.from_numpy(np.asarray(Image.open(p), np.float32) / 255)[None] for p in sorted(folder.iterdir())]


def fine_tune(pack: Any, loaded: Any, images: Sequence[Tensor], **changes: Any) -> tuple[Any, ...]:
    """What Compositional Fine-Tune gives: concept, adapter, model, losses, preview, loss plot, learnt, second concept."""
    model, clip, vae = loaded
    inputs = {
        "model": model, "clip": clip, "vae": vae, "placeholder": "my-mittens", "class_word": "cat", "resolution": 64,
        "steps": 3, "batch": 2, "vectors": 1, "learning_rate": 0.05, "anchor_weight": 0.1, "kind": "object",
        "mirror": True, "ignore_background": False, "seed": 0, "what": "keys and values (Custom Diffusion)", "rank": 0,
        "weights_learning_rate": 0.01, "prior": "DCO", **changes,
    }  # fmt: skip
    lists = {name: value if isinstance(value, list) else [value] for name, value in inputs.items()}
    with torch.inference_mode():
        return pack.run("CompInvTrainModel", images=list(images), **lists)


def loras_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of LoRAs for a test, with one for embeddings beside it: nothing is written to the host's own."""
    import folder_paths

    for kind in ("loras", "embeddings"):
        (folder / kind).mkdir()
        endings = {".safetensors", ".pt", ".bin", ".pth"}
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder / kind)], endings))
        folder_paths.filename_list_cache.pop(kind, None)
    return folder / "loras"


def node_module(pack: Any, node: str) -> Any:
    """The module in which a node is written, as the node sees it."""
    return sys.modules[pack.nodes[node].__module__]


@dataclass(frozen=True)
class Small:
    """A fine-tune on a small model, before its first step.

    Attributes:
        way: what is learnt, with what it starts from.
        leaves: at random values that are not zero, so that what is learnt differs from the model.
    """

    backbone: Any
    way: Any
    leaves: dict[str, Tensor]


def small_fine_tune(model: Any, clip: Any, what: str, rank: int, size: float = 0.02) -> Small:
    """Args: size: of the change, in units of each weight's own root mean square."""
    from compositional_inversion.compinv_core.host.backbone import ComfyBackbone
    from compositional_inversion.compinv_core.training.loop import as_leaves
    from compositional_inversion.compinv_core.training.recipe import Recipe
    from compositional_inversion.compinv_core.training.ways.fine_tune import UNET, FineTune, parametrised
    from compositional_inversion.compinv_core.training.ways.textual_inversion import TextualInversion, Word

    backbone = ComfyBackbone(model, clip)
    start = {key: known.vector("cat").repeat(2, 1) for key, known in backbone.vocabularies.items()}
    prepared = backbone.prepare([(prompt, "probe") for prompt in PROMPTS], {"probe": 2})
    of_words = TextualInversion(backbone, (Word("probe", "cat", start),), prepared, ORDINARY)
    way = FineTune(of_words, parametrised(backbone, what, rank))
    values, generator = way.start(), torch.Generator().manual_seed(5)
    units = way.learning_rates(Recipe(weights_learning_rate=1.0))
    for name, value in values.items():
        if name.startswith(UNET) and not value.any():
            values[name] = torch.randn(value.shape, generator=generator) * size * units[name]
    return Small(backbone, way, as_leaves(values, torch.device("cpu"), set(units)))
