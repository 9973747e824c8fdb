"""The layout predictor inside ComfyUI: trained on what a MODEL recovers, found by the MODEL it was trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..layout.predictor import LayoutPredictor, read_predictor, write_predictor
from ..layout.predictor_training import OnRecovery, PredictorTraining, Recovered, known_categories
from ..layout.predictor_training import train_predictor as train
from ..layout.regions import Layout, layout_by_place
from ..training.checkpoint import fingerprint
from .attention import outline
from .composition import composition_prompt, placed_subjects
from .folders import new_predictor_file, predictor_file, recoveries_file
from .model import fingerprint_of
from .places import Canvas
from .recovery import check_fit, plain_layout, recover_layout
from .text_encoder import encode, text_encoders, vocabulary


@dataclass(frozen=True)
class _Source:
    """A MODEL and a CLIP, for the training; see `LayoutSource`."""

    host: Any
    clip: Any
    negative: Any
    request: PredictorTraining
    model: str
    words: tuple[str, ...]

    @property
    def canvas(self) -> Canvas:
        return self.request.resolution // 8, self.request.resolution // 8

    def recover(self, text: str, subjects: Sequence[str], seed: int) -> Recovered:
        positive = composition_prompt(self.clip, text, subjects)
        latent = torch.zeros(1, 4, *self.canvas)
        steps, cfg = self.request.steps, self.request.cfg
        return recover_layout(self.host, positive, self.negative, latent, seed=seed, steps=steps, cfg=cfg)

    def rows(self, text: str, subjects: Sequence[str]) -> Tensor:
        placed = placed_subjects(composition_prompt(self.clip, text, subjects), self.canvas)
        return torch.stack([one.row for one in placed])


def train_predictor(
    model: Any,
    clip: Any,
    request: PredictorTraining,
    stop_if_asked: Callable[[], None],
    on_recovery: OnRecovery,
) -> tuple[LayoutPredictor, Path]:
    """Train the predictor of a MODEL, and save it where `predicted_layout` finds it.

    Args:
        stop_if_asked, on_recovery: see `layout.predictor_training.train_predictor`.

    Returns:
        The predictor and its file.

    Raises:
        ValueError: a MODEL or CLIP that cannot be used, or too few layouts could be read.
    """
    outline(model)
    negative = encode(clip, "")
    check_fit(model, negative)
    if model.patches:
        raise ValueError(
            'The input "model" has LoRAs or other patches. A layout predictor is trained on the base model and serves it '
            "with any LoRA: connect the checkpoint's own model."
        )
    vocabularies = [vocabulary(clip, key) for key in text_encoders(clip)]
    words, name = known_categories(vocabularies), fingerprint_of(model)
    settings = (words, request.resolution, request.steps, request.cfg, request.seed, __version__)
    run = f"{name}-{fingerprint(settings, [known.phrase(word) for known in vocabularies for word in words])}"
    source = _Source(model, clip, negative, request=request, model=name, words=words)
    file = recoveries_file(run)
    predictor = train(source, request, file, stop_if_asked=stop_if_asked, on_recovery=on_recovery)
    file = new_predictor_file(name)
    write_predictor(predictor, file)
    return predictor, file


def predicted_layout(model: Any, positive: Sequence[Any], canvas: Canvas) -> Layout:
    """Where the MODEL's predictor puts each subject, without any sampling; the default boxes where it has none. Both are in the
    part of the canvas that a subject's prompt is for.

    Raises:
        ValueError: the predictor's file is damaged, not ours, or another model's.
    """
    outline(model)
    check_fit(model, positive)
    name = fingerprint_of(model)
    file = predictor_file(name)
    if file is None:
        return replace(plain_layout(positive, canvas), source="default boxes (no predictor for this model)")
    subjects, predictor = placed_subjects(positive, canvas), read_predictor(file, name)

    def predict(own: Sequence[int]) -> Layout:
        chosen = [subjects[i] for i in own]
        rows = torch.stack([one.row for one in chosen])
        return predictor.layout([one.phrase for one in chosen], rows, [one.turn for one in chosen])

    return layout_by_place([one.place for one in subjects], predict)
