"""Attributes on the micro world: which blocks and stages decide them, and what embeddings of single attributes bring along.

python benchmarks/attributes.py --cells                        records/attribute_cells.jsonl: ordinary words read in single cells
python benchmarks/attributes.py --split test --seeds 3         records/attributes.jsonl: rows of learnt attributes

An attribute of a reference is used alone, on every other class; of each image is said which of the reference's four attributes it
shows. Its own should be there (hit), the other three no more often than without it (leak). Then the colour of one, the object of
another and the layout of a third in one image.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from attribute_tables import EACH, MEASURED, NOTHING, WORDS
from attribute_tables import MATTE as WHOLE
from composition import CFG, DEFAULTS, KEPT, STEPS, Bench, load_bench, named
from measures import worn
from recorded import FOLDER, records
from sheets import ATTRIBUTES
from torch import Tensor

import nodes  # the host's
from compinv_core.concept import Concept, read_concept, write_concept
from compinv_core.host.attention import outline
from compinv_core.host.attribute_prompt import Use, attribute_prompt
from compinv_core.host.backbone import ComfyBackbone
from compinv_core.host.contexts import BY_CELL
from compinv_core.host.recovery import without_layout
from compinv_core.host.sampler import with_layout
from compinv_core.host.text_encoder import encode
from compinv_core.reading.by_cell import ByCell
from compinv_core.reading.regional import Variant, Variants
from compinv_core.reading.table import MATTE, ROLES, parsed
from compinv_core.sampling.guidance import Guidance
from compinv_core.sampling.schedules import Balance, Steering
from compinv_core.training.attribute_training import KINDS, AttributeRequest, AttributeTraining, Kind
from compinv_core.training.concept_training import ConceptTraining
from compinv_core.training.recipe import Recipe
from compinv_core.training.request import Request
from microworld.describer import Described, Describer, describe_things, load_describer
from microworld.evaluate import sheet
from microworld.judge import verdicts
from microworld.spec import ReferenceSpec

CUTS = (750.0, 500.0, 250.0)
SIZES = (0.40, 0.28)  # half a thing's: close up, far away
CLOSE, FAR = "a photo of {}, close up", "a photo of {}, far away"
PAIRS = {
    "colour": (("red", "blue"), ("green", "pink"), ("orange", "purple"), ("yellow", "cyan")),
    "style": (("striped", "dotted"), ("dotted", "checkered"), ("checkered", "striped")),
    "object": (("cat", "cup"), ("chair", "boat"), ("car", "umbrella"), ("donut", "kite")),
    "layout": ((CLOSE, FAR), (FAR, CLOSE)),
}
"""Two words, or forms of a prompt, that differ in one attribute."""
IMAGES = 12  # of each pair and cell
SEED = 70_000
NO_STYLE = "plain"  # the neutral word that a style starts from
PLACED = ("a photo of a {colour} {style} {}, {layout}", "a picture of a {colour} {style} {}, {layout}")
PROMPTS = {KINDS[0]: PLACED, KINDS[1]: (), KINDS[2]: ()}
TOGETHER = ("colour", "object", "layout")  # of three references, in one image
Said = dict[str, list[bool | None]]
"""Attribute -> of each image whether it is there; None where its thing is not."""
LAYERS = "colour: fine\nstyle: fine\nobject: coarse\nlayout: coarse"
FOUND = "colour: fine\nstyle: fine\nobject: coarse\nlayout: all"
"""What Where Attributes Are finds without stages, with 12 images of 64 pixels, asked with the first of `PAIRS` each."""


@dataclass(frozen=True)
class Row:
    """How attributes are learnt: all rows from as many samples.

    Attributes:
        cells: where the four attributes act, the text of a `Table`.
        single: as one word, read in all blocks, which stands for each attribute (textual inversion).
        words: nothing is learnt; ordinary words are read in the cells, which is the most that these cells can do.
    """

    kind: Kind = KINDS[0]
    cells: str = str(MATTE)
    colour_style: bool = True
    object_class: bool = True
    single: bool = False
    words: bool = False
    recipe: Recipe = DEFAULTS


ROWS: dict[str, Row | None] = {
    NOTHING: None,
    WORDS: None,
    "textual inversion": Row(single=True, recipe=replace(DEFAULTS, reconstruction_weight=1.0, anchor_weight=0.0)),
    "P+": Row(KINDS[1]),
    "ProSpect": Row(KINDS[2]),
    WHOLE: Row(),
    "MATTE, no colour-style loss": Row(colour_style=False),
    "MATTE, no object loss": Row(object_class=False),
    "MATTE, layers alone": Row(cells=LAYERS),
    MEASURED: Row(cells=FOUND),
    "ordinary words, MATTE's cells": Row(words=True),
    "ordinary words, measured cells": Row(words=True, cells=FOUND),
}


@dataclass(frozen=True)
class Shown:
    """An image, (H, W, 3), all that the judge finds there, and of one thing where it is and what it looks like; None where it is not."""

    image: Tensor
    present: set[str]
    place: tuple[float, float] | None
    looks: Described | None

    def has(self, role: str, wanted: Any) -> bool | None:
        """Whether an attribute is as wanted: some colours, a pattern, a class, or half a size; None where the thing is not found."""
        if role == "object":
            return wanted in self.present
        if self.place is None or self.looks is None:
            return None
        match role:
            case "colour":
                return worn(self.image, self.place, self.looks.extent, wanted)
            case "style":
                return self.looks.pattern == wanted
            case _:
                return min(SIZES, key=lambda size: abs(size - self.looks.extent)) == wanted


@dataclass(frozen=True)
class Viewer:
    """The micro world with all that says what an image shows."""

    bench: Bench
    describer: Describer

    def see(self, images: Tensor, classes: Sequence[str]) -> list[Shown]:
        """Of each image (B, H, W, 3), the thing that is of the first of these classes to be found."""
        said = verdicts(self.bench.judge, self.bench.world, images)
        places = [next((v.places[word] for word in classes if word in v.places), None) for v in said]
        looks = describe_things(self.describer, self.bench.world, images, places)
        return [
            Shown(image, verdict.present, place, look)
            for image, verdict, place, look in zip(images, said, places, looks, strict=True)
        ]

    def meant(self, role: str, word: str) -> Any:
        """What a word of `PAIRS` says of an attribute, as `Shown.has` takes it."""
        world = self.bench.world
        match role:
            case "colour":
                return [world.colors[word]]
            case "style":
                return next(pattern for pattern, said in world.patterns.items() if said["word"] == word)
            case "object":
                return word
            case _:
                return SIZES[word != CLOSE]


def wanted_of(reference: ReferenceSpec) -> dict[str, Any]:
    """Its attributes, as `Shown.has` takes them."""
    look = reference.look
    return {
        "colour": [look.primary, look.secondary],
        "style": look.pattern,
        "object": reference.word,
        "layout": reference.extent,
    }


def load_viewer() -> Viewer:
    bench = load_bench()
    return Viewer(bench, load_describer(bench.world))


def prompts_of(role: str, word: str, thing: str) -> str:
    """A pair's prompt; of classes `word` is the thing itself."""
    match role:
        case "object":
            return f"a photo of {'an' if word[0] in 'aeiou' else 'a'} {word}"
        case "layout":
            return word.format(f"a {thing}")
        case _:
            return f"a photo of {'an' if word[0] in 'aeiou' else 'a'} {word} {thing}"


def cells(viewer: Viewer, file: Path) -> None:
    """B is read in one group and stage, A everywhere else: the share of images that follow B."""
    bench = viewer.bench
    unet = outline(bench.model)
    reading = with_layout(without_layout(bench.model), None, Steering(0), Guidance(0), balance=Balance(0))
    (negative,) = nodes.CLIPTextEncode().encode(bench.clip, "")
    groups: dict[str, list[str]] = {str(group): places for group, places in unet.places_by_group.items()}
    groups["all"] = unet.place_names
    stages = {"all": list(range(1, len(CUTS) + 2)), **{str(i): [i] for i in range(1, len(CUTS) + 2)}}
    done = {(r["role"], r["a"], r["b"], r["blocks"], r["stage"]) for r in records(file)}
    for role, pairs in PAIRS.items():
        for number, (a, b) in enumerate(pairs):
            thing = "car" if role != "layout" else ("cat", "chair")[number]
            prompts = [prompts_of(role, word, thing) for word in (a, b)]
            ((start, rest), *_), ((end, _), *_) = (encode(bench.clip, text) for text in prompts)
            variants = [Variants(Variant(own, ()), Variant(own, ()), {}) for own in (start, end)]
            for (blocks, places), (stage, numbers) in itertools.product(groups.items(), stages.items()):
                if (role, a, b, blocks, stage) in done:
                    continue
                of_cells = {(place, one): 1 for place in places for one in numbers}
                by_cell = ByCell(CUTS, variants, of_cells, unet.place_names, prompts)
                latent = {"samples": torch.zeros(IMAGES, 4, 8, 8)}
                (sampled,) = nodes.common_ksampler(
                    reading,
                    SEED + number,
                    STEPS,
                    CFG,
                    "euler",
                    "normal",
                    [[start, {**rest, BY_CELL: by_cell}]],
                    negative,
                    latent,
                )
                images = bench.vae.decode(sampled["samples"]).clamp(0, 1)
                shown = viewer.see(images, [b, a] if role == "object" else [thing])
                follows = [one.has(role, viewer.meant(role, b)) if one.place else None for one in shown]
                record = {"role": role, "a": a, "b": b, "blocks": blocks, "stage": stage, "follows": follows}
                with file.open("a") as out:
                    out.write(json.dumps(record) + "\n")


def said_of(reference: ReferenceSpec) -> dict[str, Any]:
    """What every row says of a reference. A vector for each thing that is learnt, as the papers have it."""
    return {"name": "mine", "class_word": reference.word, "vectors": 1, "resolution": 64, "mirror": True}


def requested(row: Row, reference: ReferenceSpec, images: list[Tensor]) -> AttributeRequest:
    return AttributeRequest(
        Request(images=images, prompts=PROMPTS[row.kind], **said_of(reference)),
        row.kind,
        parsed(row.cells),
        style_word=NO_STYLE,
        colour_style=row.colour_style,
        object_class=row.object_class,
    )


@dataclass(frozen=True)
class Rows:
    """What embeddings of single attributes show, on one split of the references."""

    viewer: Viewer
    split: str
    records: Path

    @property
    def references(self) -> list[ReferenceSpec]:
        return [one for one in self.viewer.bench.world.references.values() if one.split == self.split]

    def run(self, row: str, seed: int) -> None:
        """Append what is missing of a row and a seed of training to the records."""
        recipe = named(ROWS[row])
        done = {(r["row"], r["unit"], r["seed"], r["recipe"]) for r in records(self.records)}
        for reference in self.references:
            if (row, reference.name, seed, recipe) in done:
                continue
            began = time.time()
            used = {role: self.used(row, reference, role, seed) for role in ROLES}
            record = {
                **{"row": row, "unit": reference.name, "seed": seed, "recipe": recipe},
                **{"used": used, "together": self.together(row, reference, seed)},
            }
            with self.records.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{row}, {reference.name}, seed {seed}: {time.time() - began:.0f} s", flush=True)

    def used(self, row: str, reference: ReferenceSpec, role: str, seed: int) -> Said:
        """Which images have each attribute of a reference where one of them, `role`, is used alone on each other class."""
        others = [word for word in self.viewer.bench.world.classes if word != reference.word]
        said: Said = {name: [] for name in ROLES}
        for number, other in enumerate(others):
            word = reference.word if role == "object" else other
            shown = self.images(row, {role: reference}, word, seed, range(number * EACH, (number + 1) * EACH))
            if self.split == "test":
                ATTRIBUTES.mkdir(parents=True, exist_ok=True)
                sheet(shown[0].image[None], 1, ATTRIBUTES / f"{row}, {role} of {reference.name}, {number} {word}.png")
            for name, wanted in wanted_of(reference).items():
                said[name] += [one.has(name, wanted) for one in shown]
        return said

    def together(self, row: str, reference: ReferenceSpec, seed: int) -> Said:
        """Which images have the colour of a reference, the object of the next and the layout of the one after that, asked for together."""
        first = self.references.index(reference)
        several = [self.references[(first + i) % len(self.references)] for i in range(len(TOGETHER))]
        used = dict(zip(TOGETHER, several, strict=True))
        shown = self.images(row, used, used["object"].word, seed, range(len(TOGETHER) * EACH))
        return {role: [one.has(role, wanted_of(own)[role]) for one in shown] for role, own in used.items()}

    def images(
        self, row: str, used: Mapping[str, ReferenceSpec], word: str, seed: int, numbers: Sequence[int]
    ) -> list[Shown]:
        """Images of a class, of these numbers of the noise, with references' attributes."""
        bench = self.viewer.bench
        reading = with_layout(without_layout(bench.model), None, Steering(0), Guidance(0), balance=Balance(0))
        (negative,) = nodes.CLIPTextEncode().encode(bench.clip, "")
        positive = self.conditioning(row, used, word, seed)
        latent = {"samples": torch.zeros(len(numbers), 4, 8, 8), "batch_index": list(numbers)}
        (sampled,) = nodes.common_ksampler(
            reading, SEED + seed, STEPS, CFG, "euler", "normal", positive, negative, latent
        )
        return self.viewer.see(bench.vae.decode(sampled["samples"]).clamp(0, 1), [word])

    def conditioning(self, row: str, used: Mapping[str, ReferenceSpec], word: str, seed: int) -> list[Any]:
        bench = self.viewer.bench
        told = {role: self.word_for(own, role) for role, own in used.items()} if row == WORDS else {}
        roles = [role for role in ROLES if role in used and row != NOTHING]
        thing = " ".join([*(told.get(role, f"{{{role}}}") for role in roles if role in ("colour", "style")), word])
        text = f"a photo of {'an' if thing[0] in 'aeiou' else 'a'} {thing}"
        if "layout" in roles:
            text = f"{text}, {told.get('layout', '{layout}')}"
        if row in (NOTHING, WORDS):
            return encode(bench.clip, text)
        concepts = {own.name: self.learnt(row, own, seed) for own in used.values()}
        of_concept = {name: [role for role in roles if used[role].name == name] for name in concepts}
        return attribute_prompt(
            bench.model, bench.clip, text, [], [Use(concepts[name], own) for name, own in of_concept.items()]
        )

    def word_for(self, reference: ReferenceSpec, role: str) -> str:
        """What captions call an attribute."""
        world, look = self.viewer.bench.world, reference.look
        match role:
            case "colour":
                named_colors = {color: name for name, color in world.colors.items()}
                return " ".join(named_colors[color] for color in (look.primary, look.secondary))
            case "style":
                return world.patterns[look.pattern]["word"]
            case "object":
                return reference.word
            case _:
                return "close up" if reference.extent == SIZES[0] else "far away"

    def learnt(self, row: str, reference: ReferenceSpec, seed: int) -> Concept:
        """The concept, from the cache when it was learnt before."""
        file = KEPT / "attributes" / f"{named(ROWS[row])}-{seed}" / f"{reference.name}.safetensors"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_concept(self.learn(ROWS[row], reference, seed), file)
        return read_concept(file)

    def learn(self, row: Row, reference: ReferenceSpec, seed: int) -> Concept:
        bench, recipe = self.viewer.bench, replace(row.recipe, seed=seed)
        backbone, images = ComfyBackbone(bench.model, bench.clip, bench.vae), bench.owners_pictures(reference)
        if row.words:
            words = {role: self.word_for(reference, role).split() for role in ROLES}
            attributes = {
                role: {
                    key: torch.stack([known.vector(word) for word in own])
                    for key, known in backbone.vocabularies.items()
                }
                for role, own in words.items()
            }
            return Concept("mine", attributes["object"], reference.word, {}, attributes, row.cells)
        with tempfile.TemporaryDirectory() as folder:
            if row.single:
                training = ConceptTraining(backbone, [Request(images=images, **said_of(reference))], recipe)
                (word,) = training.concepts(training.run(Path(folder), lambda: False, lambda _: None))
                everywhere = "\n".join(f"{role}: all" for role in ROLES)
                return replace(word, attributes=dict.fromkeys(ROLES, word.vectors), cells=everywhere)
            training = AttributeTraining(backbone, requested(row, reference, images), recipe)
            (concept,) = training.concepts(training.run(Path(folder), lambda: False, lambda _: None))
            return concept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", action="store_true", help="which blocks and stages decide an attribute")
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--seeds", type=int, default=1, help="of training")
    args = parser.parse_args()
    with torch.inference_mode():
        viewer = load_viewer()
        if args.cells:
            began = time.time()
            cells(viewer, FOLDER / "attribute_cells.jsonl")
            print(f"cells: {time.time() - began:.0f} s")
            return
        name = "attributes" if args.split == "test" else "attribute_candidates"
        rows = Rows(viewer, args.split, FOLDER / f"{name}.jsonl")
        for seed in range(args.seeds):
            for row in args.rows:
                rows.run(row, seed)


if __name__ == "__main__":
    main()
