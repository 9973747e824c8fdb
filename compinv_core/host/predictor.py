"""The layout predictor inside ComfyUI: learnt from recoveries on generated prompts, kept beside the user's models."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor

from .. import __version__
from ..anchors import COCO_CATEGORIES
from ..files import whole_file
from ..layout import Layout
from ..predictor import Example, LayoutPredictor, learn, read_predictor, write_predictor
from ..prompts.spans import Subject
from ..prompts.templates import prompts_about
from ..training.checkpoint import fingerprint
from .attention import all_blocks
from .composition import composition_prompt, probes_of
from .model import fingerprint_of
from .sampler import check_fit, plain_layout, recover_layout
from .text_encoder import encode, text_encoders, vocabulary

log = logging.getLogger(__name__)
FOLDER = "layout_predictors"
LIMITS = {
    "prompts": {"min": 20, "max": 100_000},
    "resolution": {"min": 64, "max": 2048},
    "steps": {"min": 2, "max": 100},
    "cfg": {"min": 1.0, "max": 30.0},
    "seed": {"min": 0, "max": 0xFFFFFFFFFFFFFFFF},
}
"""Of what a user sets, the same on the node and on the command line; the resolution is a multiple of 64, too."""


@dataclass(frozen=True)
class Recoveries:
    """What a predictor learns from; numbers keep to LIMITS.

    Attributes:
        prompts: how many of them are sampled.
        resolution: pixels a side.
        steps, cfg: of the sampling, as Spatial Layout Recover has them.
        seed: of the first; each takes the next one.
    """

    prompts: int = 300
    resolution: int = 512
    steps: int = 8
    cfg: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            if not limit["min"] <= getattr(self, name) <= limit["max"]:
                raise ValueError(f"{name} is {getattr(self, name)}; {limit['min']} to {limit['max']} is allowed.")
        if self.resolution % 64:
            raise ValueError(f"resolution is {self.resolution}; a multiple of 64 is needed.")


Report = Callable[[int, Layout, Tensor, Tensor | None], None]
"""(how many prompts are done, and of the last: what `recover_layout` gives)."""


def train_predictor(
    model: Any, clip: Any, wanted: Recoveries, stop_if_asked: Callable[[], None], on_report: Report
) -> tuple[LayoutPredictor, Path]:
    """Recover the layouts of generated prompts, learn from them, and save the predictor where `predicted_layout` finds it.

    Every recovery is kept in the user's folder: what was interrupted goes on from there, and so does a wish for more.

    Args:
        stop_if_asked: called before every recovery; what it raises ends the training there.

    Returns:
        The predictor and its file.

    Raises:
        ValueError: a MODEL or CLIP that cannot be used, or too few layouts could be read.
    """
    all_blocks(model)
    negative = encode(clip, "")
    check_fit(model, negative)
    if model.patches:
        raise ValueError(
            'The input "model" has LoRAs or other patches; a layout predictor is learnt for the base model and serves it '
            "with any LoRA, so connect the checkpoint's own model."
        )
    vocabularies = [vocabulary(clip, key) for key in text_encoders(clip)]
    words = tuple(c for c in COCO_CATEGORIES if all(word in known for known in vocabularies for word in c.split()))
    if len(words) < 3:
        raise ValueError(
            'The input "clip" knows fewer than three of the COCO categories as words; no prompts can be made for it.'
        )
    name = fingerprint_of(model)
    settings = (words, wanted.resolution, wanted.steps, wanted.cfg, wanted.seed, __version__)
    kept = Path(folder_paths.get_user_directory()) / "compositional_inversion" / "layouts"
    kept /= f"{name}-{fingerprint(settings, [known.phrase(w) for known in vocabularies for w in words])}.json"
    found = _kept(kept)
    prompts = prompts_about(words, wanted.prompts, wanted.seed)
    latent = torch.zeros(1, 4, wanted.resolution // 8, wanted.resolution // 8)
    for number in range(len(found), wanted.prompts):
        stop_if_asked()
        positive = composition_prompt(clip, *prompts[number])
        seed = (wanted.seed + number) % 2**64
        layout, maps, glimpse = recover_layout(model, positive, negative, latent, seed, wanted.steps, wanted.cfg)
        boxes = [[r.box.left, r.box.top, r.box.right, r.box.bottom] for r in layout.regions]
        found.append(boxes if layout.source == "attention" else None)
        with whole_file(kept) as new:
            new.write_text(json.dumps(found))
        on_report(number + 1, layout, maps, glimpse)
    read = [
        (subjects, _rows(composition_prompt(clip, text, subjects))[1], boxes)
        for (text, subjects), boxes in zip(prompts, found, strict=False)
        if boxes is not None
    ]
    with torch.inference_mode(False), torch.enable_grad():
        examples = [Example(subjects, rows.clone(), torch.tensor(boxes)) for subjects, rows, boxes in read]
        predictor = learn(examples, name)
    file = Path(_folders()[0]) / f"{name}.safetensors"
    write_predictor(predictor, file)
    return predictor, file


def predicted_layout(model: Any, positive: Sequence[Any]) -> Layout:
    """Where the MODEL's predictor puts each subject, without any sampling; the default boxes where it has none.

    Raises:
        ValueError: the predictor's file is damaged, not ours, or another model's.
    """
    all_blocks(model)
    check_fit(model, positive)
    name = fingerprint_of(model)
    _folders()
    file = folder_paths.get_full_path(FOLDER, f"{name}.safetensors")
    if file is None:
        return replace(plain_layout(positive), source="default boxes (no predictor for this model)")
    subjects, rows, places = _rows(positive)
    return read_predictor(Path(file), name).layout([subject.phrase for subject in subjects], rows, places)


def predictor_files() -> list[tuple[str, int, int]]:
    """What predictors there are, so that a graph notices a new one: path, size and time."""
    files = sorted(file for folder in _folders() for file in Path(folder).glob("*.safetensors"))
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _folders() -> list[str]:
    """Where predictors lie, the first for new ones; `layout_predictors` in extra_model_paths.yaml adds others."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / "compositional_inversion" / FOLDER))
    return folder_paths.get_folder_paths(FOLDER)


def _rows(positive: Sequence[Any]) -> tuple[list[Subject], Tensor, list[tuple[int, int]]]:
    """Of all prompts together: the S subjects, the mean of each one's tokens in the encoded probe (S, E), and its place."""
    prompts = probes_of(positive)
    subjects = [subject for own, _ in prompts for subject in own]
    rows = [probe[0][0][0, list(s.probe_columns)].float().mean(dim=0).cpu() for own, probe in prompts for s in own]
    places = [(i, s.probe_columns[0]) for i, (own, _) in enumerate(prompts) for s in own]
    return subjects, torch.stack(rows), places


def _kept(file: Path) -> list[list[list[float]] | None]:
    """The recoveries of a training that was interrupted, None for those that could not be read."""
    if not file.exists():
        return []
    try:
        return list(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        log.warning("The recoveries in %s cannot be read, so they begin anew: %s.", file, error)
        return []
