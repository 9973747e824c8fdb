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
from ..layout.regions import Layout
from ..prompts.spans import Subject
from ..training.checkpoint import fingerprint
from .attention import outline
from .composition import composition_prompt, probes_of
from .folders import new_predictor_file, predictor_file, recoveries_file
from .model import fingerprint_of
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

    def recover(self, text: str, subjects: Sequence[str], seed: int) -> Recovered:
        positive = composition_prompt(self.clip, text, subjects)
        latent = torch.zeros(1, 4, self.request.resolution // 8, self.request.resolution // 8)
        steps, cfg = self.request.steps, self.request.cfg
        return recover_layout(self.host, positive, self.negative, latent, seed=seed, steps=steps, cfg=cfg)

    def rows(self, text: str, subjects: Sequence[str]) -> Tensor:
        return _rows(composition_prompt(self.clip, text, subjects))[1]


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


def predicted_layout(model: Any, positive: Sequence[Any]) -> Layout:
    """Where the MODEL's predictor puts each subject, without any sampling; the default boxes where it has none.

    Raises:
        ValueError: the predictor's file is damaged, not ours, or another model's.
    """
    outline(model)
    check_fit(model, positive)
    name = fingerprint_of(model)
    file = predictor_file(name)
    if file is None:
        return replace(plain_layout(positive), source="default boxes (no predictor for this model)")
    subjects, rows, places = _rows(positive)
    return read_predictor(file, name).layout([subject.phrase for subject in subjects], rows, places)


def _rows(positive: Sequence[Any]) -> tuple[list[Subject], Tensor, list[tuple[int, int]]]:
    """Of all prompts together: the S subjects, the mean of each one's tokens in the encoded probe (S, E), and its place."""
    prompts = probes_of(positive)
    subjects = [subject for own, _ in prompts for subject in own]
    rows = [probe[0][0][0, list(s.probe_columns)].float().mean(dim=0).cpu() for own, probe in prompts for s in own]
    places = [(i, s.probe_columns[0]) for i, (own, _) in enumerate(prompts) for s in own]
    return subjects, torch.stack(rows), places
