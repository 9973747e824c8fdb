"""What an embedding's file is, which models it is for, and what to do about it."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from ..backbone import Backbone
from ..cards import ENDING as CARD
from ..concept import FORMAT, OF_A_MODEL, WIDTHS, Concept, check_family, read_concept, read_content
from ..prompts.vocabulary import Vocabulary
from ..reading.table import layers_named
from ..sentences import quoted
from .figures import HIGH_DOMINANCE, SAME_DOMINANCE, Standing, dominance, standing
from .measuring import ALONE, Sampling, check_reportable, compare, other_words

SHORT, LONG = 0.5, 2.0  # of a typical word's norm; text encoders normalise what lies between
ADVICE = "what to do:"  # the line of a report behind which it stands
RESOLUTION, STEPS, CFG, OTHERS = 256, 10, 5.0, 2  # of a quick look at the attention; Concept Report looks longer


@dataclass(frozen=True)
class Dominance:
    """The dominance index, and that of the class word written as often as the concept has vectors."""

    own: float
    usual: float


@dataclass(frozen=True)
class Examination:
    """Attributes:
    file: its name.
    form: what the file is.
    concept: what is in it; None where it cannot be used.
    fault: why it cannot be used, or not with the text encoder that it is compared with; a sentence.
    standings: text-encoder key -> where it is among its words; empty where it is compared with none.
    dominance: None where it was not measured.
    not_measured: why it was not, though that was asked for; a sentence.
    """

    file: str
    form: str
    concept: Concept | None = None
    fault: str = ""
    standings: Mapping[str, Standing] = field(default_factory=dict[str, Standing])
    dominance: Dominance | None = None
    not_measured: str = ""

    def text(self) -> str:
        """All of it, a line for each finding."""
        lines = [f"{quoted(self.file, 60)}: {self.form}"]
        if self.concept is not None:
            lines.append(self.concept.describe())
        for key, own in self.standings.items():
            words = ", ".join(f"{word} {likeness:.2f}" for word, likeness in own.nearest)
            lines.append(
                f"{key}: norm {own.length:.2f} times a typical word's, outlier percentile {own.percentile:.0f}, nearest words {words}"
            )
        if self.dominance is not None:
            lines.append(
                f"dominance index {self.dominance.own:.2f}; an ordinary word of so many vectors: {self.dominance.usual:.2f}"
            )
        if self.not_measured:
            lines.append(f"dominance index not measured: {self.not_measured}")
        return "\n".join([*lines, ADVICE, *(f"- {sentence}" for sentence in self.advice())])

    def advice(self) -> list[str]:
        """What to do, a sentence or two for each thing to mend."""
        if self.concept is None:
            return [self.fault]
        told = [self.fault] if self.fault else []
        told += [*_of_content(self.concept), *(line for one in self.standings.items() for line in _of_norm(*one))]
        if self.dominance is not None and self.dominance.own > HIGH_DOMINANCE:
            most = self.dominance.own > (1 + SAME_DOMINANCE) * self.dominance.usual
            why = "" if most else ", as any word of so many vectors does"
            told.append(
                f"It takes {self.dominance.own:.2f} times an ordinary word's share of the attention{why}: sample with Regularized Sampler, or "
                "retrain it with Repair Concept."
            )
        if "file" in self.concept.provenance:
            told.append(
                f"A prompt cannot write the file's name: rename the file, for example to {quoted(self.concept.name, 60)}{Path(self.file).suffix}."
            )
        if Path(self.file).suffix.lower() == CARD:
            told.append(
                "A prompt cannot read a card: load it with Load Concept, then apply it, or save it as an embedding with Save Concept."
            )
        if not self.concept.class_word:
            told.append(
                "It names no class word: write one at Load Concept, which Repair Concept, Concept Report and anchor_mix need."
            )
        return told or ["Nothing to mend."]


def _of_content(concept: Concept) -> list[str]:
    told: list[str] = []
    try:
        check_reportable(concept)
    except ValueError as error:  # all zeros, or too many vectors
        told.append(str(error))
    if concept.family == "part of SDXL":
        told.append(
            "It has vectors for one of SDXL's two text encoders only: put the second file, name_2 beside name, into its folder, or train it again."
        )
    if "words not read" in concept.provenance:
        told.append(
            f"The file holds several words, and ComfyUI reads one of them; not read: {quoted(concept.provenance['words not read'], 60)}."
        )
    if concept.attributes:
        told.append(
            "Attribute Prompt reads each of its attributes in its own blocks; CLIP Text Encode reads one embedding in all of them."
        )
    return told


def _of_norm(key: str, own: Standing) -> list[str]:
    if own.length > LONG:
        return [
            f"Its norm is {own.length:.1f} times a typical word's ({key}), so it may displace the rest of the prompt: retrain it with Repair Concept, or "
            "mix in its class word with Apply Concept's anchor_mix, 0.25 to begin with."
        ]
    if 0 < own.length < SHORT:
        return [
            f"Its norm is {own.length:.2f} times a typical word's ({key}), so it may have little effect: train it longer, or raise Apply Concept's strength."
        ]
    return []


def examine(path: Path, vocabularies: Mapping[str, Vocabulary] | None = None, class_word: str = "") -> Examination:
    """Look at an embedding's file, whatever is in it.

    Args:
        class_word: in place of the one that the file may name.
        vocabularies: text-encoder key -> the words of the model that it shall be used with; None looks at the file alone.
    """
    try:
        raw, told = read_content(path)
    except ValueError as error:
        return Examination(path.name, "not an embedding", fault=str(error))
    found = Examination(path.name, form_of(raw, told, path.suffix.lower()))
    try:
        concept = read_concept(path)
    except ValueError as error:
        return replace(found, fault=str(error))
    concept = replace(concept, class_word=class_word or concept.class_word)
    found = replace(found, concept=concept)
    if vocabularies is None:
        return found
    try:
        check_family(concept, {key: known.vectors.shape[1] for key, known in vocabularies.items()})
    except ValueError as error:
        return replace(found, fault=f"{error} Load a checkpoint of {concept.family}.")
    return replace(found, standings={key: standing(concept.vectors[key], known) for key, known in vocabularies.items()})


def with_dominance(
    found: Examination, backbone: Backbone, each: Callable[[int, int], None] = lambda done, count: None
) -> Examination:
    """The same with its dominance index over two other words, where it can be measured.

    Args:
        each: called after each image that is sampled, with how many are done and how many there are.
    """
    concept = found.concept
    if concept is None or found.fault:
        return found
    word = concept.class_word.lower()
    if not word:
        return replace(found, not_measured="it compares with a class word; write one at class_word.")
    others = other_words(backbone, word, seed=0, count=OTHERS)
    if not others:
        return replace(found, not_measured="this text encoder knows no COCO category to write beside it.")
    side = max(RESOLUTION, backbone.family.least_resolution) // backbone.family.stride
    sampling = Sampling((backbone.family.channels, side, side), seed=0, steps=STEPS, cfg=CFG)
    images, done = (1 + len(others)) * (3 if concept.count > 1 else 2), itertools.count(1)
    try:
        (own, *_), (ordinary, *_), repeated = compare(
            backbone,
            concept,
            word,
            others,
            sampling=sampling,
            templates=ALONE[:1],
            each=lambda: each(next(done), images),
        )
    except ValueError as error:  # all zeros, say, or a class word of several tokens
        return replace(found, not_measured=str(error))
    return replace(found, dominance=Dominance(dominance(own, ordinary), dominance(repeated, ordinary)))


def form_of(raw: Any, told: Mapping[str, str], ending: str) -> str:
    """What a file is, by what `read_content` finds in it: whose form it has, and whether this pack wrote it."""
    named = cast("dict[Any, Any]", raw) if isinstance(raw, dict) else {}
    keys = [str(key) for key in named]
    ours = f", written by this pack ({quoted(told.get('written_by', ''), 20)})" if told.get("format") == FORMAT else ""
    if isinstance(raw, list):
        form = "a list of embeddings"
    elif isinstance(named.get("string_to_param"), nn.ParameterDict):
        form = "the original textual inversion's form"
    elif "string_to_param" in named:
        form = "A1111's form"
    elif any(key.startswith("bundle_emb.") for key in keys):
        form = "an embedding bundled with a LoRA"
    elif any(OF_A_MODEL.search(key) for key in keys):
        form = "weights of a model"
    elif not any(isinstance(value, Tensor) for value in named.values()):
        form = "not an embedding"
    elif layers_named(keys):
        form = "kohya's XTI, an embedding for each block"
    elif any(key.partition(".")[0] in WIDTHS.values() for key in keys):
        form = "ComfyUI's form" + (" with attributes" if any("." in key for key in keys) else "")
    elif "emb_params" in named:
        form = "kohya's form"
    else:
        form = "diffusers' form"
    return f"a card in {form}{ours}" if ending == CARD else f"{form} ({ending}){ours}"
