"""The pack's own doors, one for each kind of file: what is fed to them, and what they must do with whatever comes."""

import base64
import json
import logging
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import card_files
import torch
from compositional_inversion.compinv_core.cards import A1111, OWN, TENSOR
from compositional_inversion.compinv_core.concept import Concept, is_ours, read_concept, write_concept
from compositional_inversion.compinv_core.custom_diffusion import read_custom_diffusion
from compositional_inversion.compinv_core.layout.editing import layout_from_json, whole_json
from compositional_inversion.compinv_core.layout.predictor import (  # fmt: skip
    FORMAT,
    BoxPredictor,
    LayoutPredictor,
    Provenance,
    read_predictor,
    write_predictor,
)
from compositional_inversion.compinv_core.layout.predictor_training import read_recoveries
from compositional_inversion.compinv_core.layout.regions import Box, Layout, Region
from compositional_inversion.compinv_core.training.recipe import Recipe
from compositional_inversion.compinv_core.training.request import FineTuneRequest
from fake_training import training
from torch import nn

from . import damage

MAX_SENTENCE = 300
TEXTS = [b"tEXt", b"tEXt", b"zTXt", b"iTXt"]  # how a PNG may hold a text
NAME = "fuzzed"
WEIGHTS = {f"mid.attn2.to_{name}.weight": (16, 8) for name in ("k", "v")}


class RawError(Exception):
    """What a user must never see."""


def refused(error: Exception) -> bool:
    """Whether an error is one sentence of ours; raises what it is else."""
    text = str(error)
    if type(error) not in (ValueError, FloatingPointError):
        raise RawError(f"{type(error).__name__}: {text[:200]}") from error
    if not re.fullmatch(r'["A-Z][^\n]*\.', text) or len(text) > MAX_SENTENCE:
        raise RawError(f"no sentence ({len(text)} letters): {text[:200]}") from error
    return True


@dataclass(frozen=True)
class Kind:
    """Attributes:
    make: a file's ending and bytes.
    read: reads it; False where it was refused. Raises what a user must not see.
    """

    make: Callable[[Random], tuple[str, bytes]]
    read: Callable[[Path, bytes], bool]


def bytes_of(random: Random, whole: Callable[[], bytes], odd: Callable[[], bytes]) -> bytes:
    """Odd content, damaged bytes, or both."""
    data = odd() if random.random() < 0.6 else whole()
    if random.random() < 0.6 and data:
        data = random.choice([*damage.DAMAGES, damage.rezipped, damage.rezipped])(data, random)
    if random.random() < 0.06 and data:
        data = damage.spliced(data, random, random.choice([*valid_files().values()]))
    return data


@cache
def valid_files() -> dict[str, bytes]:
    """By ending, of what has one."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "whole.safetensors"
        write_concept(concept(), file)
        found = {"embedding": file.read_bytes()}
        write_predictor(predictor(), file)
        found["predictor"] = file.read_bytes()
    found["adapter"] = damage.pickled(custom_diffusion(), Random(1))
    found["run"], found["material"] = (kept_run()[ending] for ending in (".pt", ".material"))
    return found


@cache
def concept() -> Concept:
    torch.manual_seed(0)
    own = {key: torch.randn(2, width) for key, width in (("clip_l", 768), ("clip_g", 1280))}
    attributes = {
        name: {key: torch.randn(1, value.shape[1]) for key, value in own.items()} for name in ("colour", "object")
    }
    return Concept(
        "my-cat",
        {k: v[:1] for k, v in own.items()},
        "cat",
        {"steps": "30"},
        attributes,
        "colour: fine in 1\nobject: coarse",
    )


def cards(random: Random) -> tuple[str, bytes]:
    """Our text, A1111's and its pixels, damaged inside and then packed as if they were whole."""
    word = [[0.5] * random.choice([768, 768, 1024, 8])] * random.choice([1, 2, 75])

    def own() -> bytes:
        return card_files.text(OWN, base64.b64encode(inside(valid_files()["embedding"])), random.choice(TEXTS))

    def a1111() -> bytes:
        tree: Any = {"string_to_param": {"*": {TENSOR: word}}, "name": "x", "step": 5}
        for _ in range(random.randint(0, 3)):
            tree = damage.changed(tree, random, damage.odd_json)
        return inside(damage.written(tree, random).encode(errors="surrogatepass"))

    def inside(data: bytes) -> bytes:
        return random.choice(damage.DAMAGES)(data, random) if random.random() < 0.5 and data else data

    form = random.random()
    if form < 0.4:
        data = card_files.plain(own())
    elif form < 0.75:
        data = card_files.plain(card_files.text(A1111, base64.b64encode(a1111()), random.choice(TEXTS)))
    else:
        data = card_files.hidden(inside(zlib.compress(a1111())), random.choice([1, 8, 64]))
    return ".png", random.choice(damage.DAMAGES)(data, random) if random.random() < 0.3 else data


def embeddings(random: Random) -> tuple[str, bytes]:
    if random.random() < 0.2:
        return cards(random)
    word = torch.ones(2, random.choice([768, 768, 1024, 1280]))
    trees: list[Any] = [
        {"string_to_param": {"*": word}, "name": "x", "step": 5, "sd_checkpoint_name": "v1-5"},
        {"string_to_param": nn.ParameterDict({"*": nn.Parameter(word)})},
        {"<cat>": word[0], "<dog>": word[1]},
        [{"<one>": word}, {"<two>": word}],
        {"bundle_emb.one.clip_l": word, "bundle_emb.two.clip_l": word},
        {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280), "clip_l.colour": torch.ones(1, 768)},
        {f"IN{i:02d}": word for i in range(3)},
    ]
    if random.random() < 0.55:
        tree = random.choice(trees)

        def odd() -> bytes:
            changed = tree
            for _ in range(random.randint(1, 3)):
                changed = damage.changed(changed, random)
            return damage.pickled(changed, random)

        return random.choice([".pt", ".bin"]), bytes_of(random, lambda: damage.pickled(tree, random), odd)
    entries: dict[str, Any] = random.choice([one for one in trees[2:] if isinstance(one, dict)])
    metadata = {
        "class_word": "cat",
        "cells": random.choice(damage.CELLS),
        "steps": "30",
        "format": "compositional inversion",
    }
    return ".safetensors", bytes_of(
        random, lambda: valid_files()["embedding"], lambda: damage.safetensors(entries, metadata, random)
    )


def read_embedding(path: Path, _: bytes) -> bool:
    is_ours(path)
    try:
        found = read_concept(path)
    except Exception as error:
        return not refused(error)
    if not (len(found.describe()) < 20_000 and found.count and "\n" not in found.name):
        raise RawError(f"describes itself in {len(found.describe())} letters")
    _ = found.table
    return True


def custom_diffusion() -> dict[str, Any]:
    torch.manual_seed(1)
    weights: dict[str, Any] = {name: torch.randn(shape) for name, shape in WEIGHTS.items()}
    weights["mid.attn2.to_v.weight"] = {"u": torch.randn(16, 2), "v": torch.randn(2, 8)}
    return {"unet": weights, "modifier_token": {"<new1>": torch.randn(768), "<new2>": torch.randn(768)}}


def adapters(random: Random) -> tuple[str, bytes]:
    of_diffusers = {f"mid.attn2.processor.to_{name}_custom_diffusion.weight": torch.ones(16, 8) for name in ("k", "v")}
    if random.random() < 0.3:
        return ".safetensors", bytes_of(
            random,
            lambda: damage.safetensors(of_diffusers, {}, random, change=False),
            lambda: damage.safetensors(of_diffusers, {}, random),
        )
    wide = {
        "mid.attn2.to_v.weight": {
            "u": torch.ones(10 ** random.randint(1, 6), 1),
            "v": torch.ones(1, 10 ** random.randint(1, 6)),
        }
    }
    tree = random.choice([custom_diffusion(), of_diffusers, wide])

    def odd() -> bytes:
        changed = tree
        for _ in range(random.randint(1, 3)):
            changed = damage.changed(changed, random)
        return damage.pickled(changed, random)

    return ".bin", bytes_of(random, lambda: damage.pickled(tree, random), odd)


def read_adapter(path: Path, _: bytes) -> bool:
    own = {name: torch.ones(shape) for name, shape in WEIGHTS.items()}
    try:
        words, adapter = read_custom_diffusion(path, {name: name for name in own}, own.__getitem__, "cat")
    except Exception as error:
        return not refused(error)
    lora = adapter.to_lora({name: name.removesuffix(".weight") for name in own})
    if not all(value.isfinite().all() for value in lora.values()) or any(word.count > 10_000 for word in words):
        raise RawError("what is read is not finite, or has no end")
    return True


def layouts(random: Random) -> tuple[str, bytes]:
    boxes: Any = {"cat": [0, 0.25, 0.5, 1], "red car": [0.5, 0, 1, 1.0]}
    form = random.random()
    if form < 0.3:
        regions = (Region("cat", Box(0, 0.25, 0.5, 1)), Region("red car", Box(0.5, 0, 1, 1), torch.ones(8, 8), 0.5))
        boxes = json.loads(whole_json(Layout(regions, "attention", "a note")))
    elif form < 0.6:
        boxes = [[[0, 0, 0.5, 1], [0.5, 0, 1, 1]], None, [[0.25, 0, 1, 1]]]
    tree = boxes
    for _ in range(random.randint(0, 3)):
        tree = damage.changed(tree, random, damage.odd_json)
    text = damage.written(tree, random).encode(errors="surrogatepass")
    if random.random() < 0.5 and text:
        text = random.choice(damage.DAMAGES)(text, random)
    return ".json", text


def read_layout(path: Path, data: bytes) -> bool:
    """As text in a node's input, and as a file of the recoveries that a predictor learns from."""
    prompts = [("", ("cat", "car")), ("", ("cat",)), ("", ("cat",))]
    for (_, subjects), boxes in zip(prompts, read_recoveries(path, prompts), strict=False):
        if boxes is not None and torch.tensor(boxes).shape != (len(subjects), 4):
            raise RawError("recoveries of another shape")
    try:
        found = layout_from_json(data.decode(errors="surrogateescape"))
    except Exception as error:
        return not refused(error)
    for region in found.regions:
        if not region.cells(8, 8).isfinite().all():
            raise RawError("a region that is not finite")
    layout_from_json(whole_json(found))
    return True


@cache
def predictor() -> LayoutPredictor:
    torch.manual_seed(0)
    return LayoutPredictor(BoxPredictor(12).eval(), Provenance("mine", 9, 2, 0.3, 0.2))


def predictors(random: Random) -> tuple[str, bytes]:
    made: Any = vars(predictor().provenance)
    if random.random() < 0.5:
        made = damage.changed(made, random, damage.odd_json)
    metadata = {FORMAT: damage.written(made, random)}
    state = predictor().network.state_dict()
    return ".safetensors", bytes_of(
        random,
        lambda: valid_files()["predictor"],
        lambda: damage.safetensors(state, metadata, random, change=random.random() < 0.6),
    )


def read_predictor_file(path: Path, _: bytes) -> bool:
    try:
        found = read_predictor(path, "mine")
    except Exception as error:
        return not refused(error)
    try:
        layout = found.layout(["cat", "car"], torch.ones(2, len(found.network.mean)), [0, 1])
    except Exception as error:
        return not refused(error)
    if not all(math.isfinite(region.box.area) for region in layout.regions) or len(found.provenance.describe()) > 1000:
        raise RawError("boxes that are not finite")
    return True


RECIPE = Recipe(steps=11, batch=2)
FINE_TUNE = FineTuneRequest(rank=2, prior="class images", prior_count=2)


@cache
def run_of() -> Any:
    return training(recipe=RECIPE, fine_tune=FINE_TUNE)


@cache
def kept_run() -> dict[str, Any]:
    """A run's own files after its first report, and what it learns in the end."""
    with TemporaryDirectory() as folder:
        one = training(recipe=RECIPE, fine_tune=FINE_TUNE)
        steps: list[None] = []
        one.run(Path(folder), lambda: len(steps) == 9 or bool(steps.append(None)), lambda _: None)
        files: dict[str, Any] = {file.suffix: file.read_bytes() for file in Path(folder).iterdir()}
        files["end"] = one.run(Path(folder), lambda: False, lambda _: None).parameters
        return files


def checkpoints(random: Random) -> tuple[str, bytes]:
    ending = random.choice([".pt", ".pt", ".material"])
    whole = kept_run()[ending]
    if random.random() < 0.4:
        return ending, random.choice([damage.cut, damage.flipped, damage.flipped, damage.swapped, damage.sized])(
            whole, random
        )
    with TemporaryDirectory() as folder:
        (Path(folder) / "whole").write_bytes(whole)
        tree: Any = torch.load(Path(folder) / "whole", weights_only=True)

    def odd() -> bytes:
        changed = tree
        for _ in range(random.randint(1, 2)):
            changed = damage.changed(changed, random)
        return damage.pickled(changed, random)

    return ending, bytes_of(random, lambda: whole, odd)


def read_checkpoint(path: Path, data: bytes) -> bool:
    """It is gone on with, or begun anew; and where the file is of the run but for its damage, to the same end."""
    one = run_of()
    own = (path.parent / one.name).with_suffix(path.suffix)
    path.replace(own)
    if path.suffix == ".material":
        own.with_suffix(".pt").write_bytes(kept_run()[".pt"])
    try:
        end = one.run(path.parent, lambda: False, lambda _: None)
    except Exception as error:
        return not refused(error)
    aside = own.with_suffix(".damaged").exists()
    if not all(value.isfinite().all() for value in end.parameters.values()):
        raise RawError("learns what is not finite")
    return not aside


KINDS = {
    "embedding": Kind(embeddings, read_embedding),
    "adapter": Kind(adapters, read_adapter),
    "layout": Kind(layouts, read_layout),
    "predictor": Kind(predictors, read_predictor_file),
    "checkpoint": Kind(checkpoints, read_checkpoint),
}


def kind_of(seed: int) -> str:
    return list(KINDS)[seed % len(KINDS)]


def file_of(seed: int) -> tuple[str, str, bytes]:
    """(kind, ending, bytes) of a damaged file."""
    random = Random(seed)
    return kind_of(seed), *KINDS[kind_of(seed)].make(random)


def read(seed: int, folder: Path) -> tuple[str, bool]:
    """Its kind, and whether it was read; False where it was refused.

    Raises:
        RawError, and whatever else a user must not see.
    """
    kind, ending, data = file_of(seed)
    path = folder / f"{NAME}{ending}"
    path.write_bytes(data)
    logging.disable(logging.CRITICAL)
    return kind, KINDS[kind].read(path, data)
