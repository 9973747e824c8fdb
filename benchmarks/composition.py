"""The paper's comparison on the micro world: recipes of learning and sampling side by side, judged by its detector.

python benchmarks/composition.py --rows "three vectors" "ours" --split test --seeds 3      appends what is missing
python benchmarks/composition.py --candidates                                    what the rows' settings were chosen from
python benchmarks/composition.py --frontier                                      every way of sampling, presence against cost
python benchmarks/composition.py --world microworld/second.toml                  SECOND's rows where no setting was chosen

Each row learns each concept of the split once a seed. The word is then asked for alone, beside every other class ("pretrained
word"), beside every other learnt word ("two concepts"), and in every room that a prompt can name ("in a scene"), of some rows with
two more; prompts and noise are the same for every row. What the judge says of each picture is appended to records/, a line for each concept or pair; what that
holds already is not done again. Words and pictures are kept in composition_output/, so that rows that differ only in sampling learn
once.
"""

import argparse
import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from host import ROOT
from measures import at, mean, share, stained, unlikeness
from PIL import Image
from recorded import FOLDER, records
from torch import Tensor

import nodes  # the host's
from compinv_core.anchors import weigh
from compinv_core.concept import Concept, read_concept, write_concept
from compinv_core.host.backbone import ComfyBackbone
from compinv_core.host.composition import composition_prompt
from compinv_core.host.folders import predictor_files
from compinv_core.host.predictor import predicted_layout, train_predictor
from compinv_core.host.recovery import plain_layout, recover_layout
from compinv_core.host.sampler import with_layout
from compinv_core.host.text_encoder import vocabulary, with_concept
from compinv_core.layout.predictor_training import PredictorTraining
from compinv_core.reading.regional import WHOLE_PROMPT, Regional
from compinv_core.sampling.guidance import Guidance
from compinv_core.sampling.schedules import Balance, Steering
from compinv_core.training.concept_training import ConceptTraining
from compinv_core.training.images import training_images
from compinv_core.training.recipe import PAPER, Recipe
from compinv_core.training.request import Request
from microworld.evaluate import load_checkpoint, sheet
from microworld.judge import Judge, load_judge, verdicts
from microworld.spec import DEFAULT_WORLD, FIRST, ConceptSpec, ReferenceSpec, World, load_world

SEEDS = {"validation": 50_000, "test": 90_000}  # of sampling
STEPS, PROBE_STEPS, CFG = 20, 8, 5.0
EACH = 4  # pictures of a prompt; of a thing alone, twice as many
GUIDED = 1.05  # forward passes in FLOPs, of one up to the last map and back, on SD 1.5 (S1)
WALLPAPER = "wallpaper"
UNSTEERED, UNGUIDED, UNBALANCED = Steering(0), Guidance(0), Balance(0)
KEPT = ROOT / "composition_output"  # words and pictures


@dataclass(frozen=True)
class Held:
    """How subjects are held while sampling.

    Attributes:
        layout: the one recovered from attention, what the predictor gives that is trained for this model if need be, boxes
            side by side, or none, where there is balance alone.
    """

    steering: Steering = UNSTEERED
    guidance: Guidance = UNGUIDED
    balance: Balance = UNBALANCED
    layout: Literal["recovered", "predicted", "side by side", "none"] = "recovered"
    regional: Regional = WHOLE_PROMPT


@dataclass(frozen=True)
class Words:
    """A recipe of training, with its anchors and how it is sampled.

    Attributes:
        anchors: how many words pull, the class word the first of them; 0 for plain textual inversion.
        layout: how sampling is held to one, or None.
        rescale: whether it also learns from the pictures far away and close up.
        everything: whether the pictures' background is learnt as well.
        noun: whether prompts, in training too, write the class word behind the new one.
    """

    recipe: Recipe
    vectors: int = 1
    anchors: int = 0
    layout: Held | None = None
    rescale: bool = False
    everything: bool = True
    noun: bool = False


@dataclass(frozen=True)
class Thing:
    """One of the things that a prompt asks for.

    Attributes:
        word: its class.
        written: as the prompt writes it.
        concept: whose look it should have; None for any thing of the class.
    """

    word: str
    written: str
    concept: ConceptSpec | None = None

    @property
    def phrase(self) -> str:
        return f"{'an' if self.written[0] in 'aeiou' and self.written == self.word else 'a'} {self.written}"


@dataclass(frozen=True)
class Prompt:
    """What a prompt asks for: things, and perhaps a room, which `where` says ("on grass")."""

    things: tuple[Thing, ...]
    room: str | None = None
    where: str = ""

    @property
    def text(self) -> str:
        return " ".join(f"a photo of {' and '.join(thing.phrase for thing in self.things)} {self.where}".split())

    @property
    def subjects(self) -> list[str]:
        return [thing.written for thing in self.things]


Reading = dict[str, float | None]
"""What the judge says of a picture: yes as 1 and no as 0, or None where there is nothing to say.

class, look: whether the first thing is there, as its class and as the concept; other, other look: the second one.
aligned: the judge's features where a concept stands against those of its owner's pictures, as a cosine.
stained: whether the second thing wears the first one's colour; of two concepts, the mean of both ways.
room: whether it is the room of an owner's pictures. wallpaper: whether its walls are papered at all, as owners' all are.
scene: whether it is the room that the prompt asks for, where it asks for one.
"""


@dataclass(frozen=True)
class Bench:
    """The micro world, its judge and its model, sampled with a CFG scale."""

    world: World
    judge: Judge
    model: Any
    clip: Any
    vae: Any
    cfg: float = CFG

    def training(self, words: Words, concept: ConceptSpec, seed: int) -> ConceptTraining:
        known = vocabulary(self.clip, "clip_l")
        anchors = None
        if words.anchors:
            near = [w for w, likeness in known.nearest(known.vector(concept.word), words.anchors) if likeness > 0]
            anchors = weigh(concept.word, tuple(near), known)
        recipe = replace(words.recipe, seed=seed)
        request = Request(
            name="mine",
            class_word=concept.word,
            vectors=words.vectors,
            images=self.owners_pictures(concept),
            masks=[],
            resolution=64,
            kind="object",
            mirror=True,
            rescale=words.rescale,
            ignore_background=not words.everything,
            class_word_too=words.noun,
            anchors=anchors,
        )
        return ConceptTraining(ComfyBackbone(self.model, self.clip, self.vae), [request], recipe)

    def learn(self, words: Words, concept: ConceptSpec, seed: int) -> tuple[Concept, dict[str, float]]:
        """A concept, and what the run says of itself."""
        began = time.time()
        with tempfile.TemporaryDirectory() as folder:
            training = self.training(words, concept, seed)
            end = training.run(Path(folder), lambda: False, lambda _: None)
        (learnt,) = training.concepts(end)
        said = {
            "gained": end.initial_loss - (end.history[-1].evaluation or 0.0),
            "length": self.length(learnt.vectors["clip_l"]),
            "seconds": time.time() - began,
        }
        return learnt, said

    def length(self, vectors: Tensor) -> float:
        """Of a word's vectors (n, E), on average, in ordinary words."""
        ordinary = vocabulary(self.clip, "clip_l").vectors
        return (vectors.norm(dim=1).mean() / ordinary.norm(dim=1).median()).item()

    def paint(self, clip: Any, prompts: list[tuple[str, list[str]]], each: int, seed: int, how: Held | None) -> Tensor:
        """`each` pictures (H, W, 3) of every prompt, which comes with its subjects; the noise is the same however it is held."""
        (negative,) = nodes.CLIPTextEncode().encode(clip, "")
        pictures: list[Tensor] = []
        if how is None:
            encoded = torch.cat(
                [clip.encode_from_tokens(clip.tokenize(text)).repeat(each, 1, 1) for text, _ in prompts]
            )
            return self._sampled(self.model, [[encoded, {}]], negative, range(len(encoded)), seed)
        for i, (text, subjects) in enumerate(prompts):
            positive = composition_prompt(clip, text, subjects)
            match how.layout:
                case "recovered":
                    empty = torch.zeros(1, 4, 8, 8)
                    layout, *_ = recover_layout(
                        self.model, positive, negative, empty, seed=seed + i, steps=PROBE_STEPS, cfg=self.cfg
                    )
                case "predicted":
                    layout = predicted_layout(self.model, positive, (8, 8))
                case "side by side":
                    layout = plain_layout(positive, (8, 8))
                case "none":
                    layout = None
            held = with_layout(
                self.model, layout, how.steering, how.guidance, balance=how.balance, regional=how.regional
            )
            pictures.append(self._sampled(held, positive, negative, range(i * each, (i + 1) * each), seed))
        return torch.cat(pictures)

    def learn_layouts(self) -> None:
        """Train the model's layout predictor, if it has none."""
        if not predictor_files():
            train_predictor(self.model, self.clip, PredictorTraining(resolution=64), lambda: None, lambda *_: None)

    def _sampled(self, model: Any, positive: Any, negative: Any, indices: range, seed: int) -> Tensor:
        latent = {"samples": torch.zeros(len(indices), 4, 8, 8), "batch_index": list(indices)}
        (sampled,) = nodes.common_ksampler(model, seed, STEPS, self.cfg, "euler", "normal", positive, negative, latent)
        return self.vae.decode(sampled["samples"]).clamp(0, 1)

    def read(self, images: Tensor, prompts: list[Prompt], owners: dict[str, Tensor]) -> list[Reading]:
        """A reading for each of the pictures (B, H, W, 3), which belong to the prompts in equal parts.

        Args:
            owners: of each concept, what `owner` says.
        """
        each = len(images) // len(prompts)
        features = self.features(images)
        readings: list[Reading] = []
        for i, said in enumerate(verdicts(self.judge, self.world, images)):
            first, *others = things = prompts[i // each].things
            concepts = [thing.concept for thing in things if thing.concept]
            reading: Reading = {
                "class": first.word in said.present,
                "look": first.concept.name in said.present if first.concept else None,
                "room": said.room in [f"room of {concept.name}" for concept in concepts],
                "wallpaper": said.room == WALLPAPER or said.room.startswith("room of "),
                "aligned": mean(
                    torch.cosine_similarity(owners[c.name], at(features[i], said.places[c.word])[None]).mean().item()
                    for c in concepts
                    if c.word in said.places
                ),
            }
            if prompts[i // each].room:
                reading["scene"] = said.room == prompts[i // each].room
            if len(others) == 1:
                reading["other"] = others[0].word in said.present
                reading["other look"] = others[0].concept.name in said.present if others[0].concept else None
            if len(others) > 1:
                reading["all"] = all(thing.word in said.present for thing in things)
                wanted = [thing.concept.name if thing.concept else thing.word for thing in things]
                reading["all look"] = all(name in said.present for name in wanted)
            if others:
                reading["stained"] = mean(
                    stained(images[i], said.places[on.word], by.concept.look.primary[0])
                    for by, on in itertools.permutations(things, 2)
                    if by.concept and on.word in said.places
                )
            readings.append({key: value if value is None else float(value) for key, value in reading.items()})
        return readings

    def scenes(self, thing: Thing) -> list[Prompt]:
        """The thing in every room but wallpaper, which would come along with a word that has learnt its owner's."""
        phrases = {room: said["phrase"] for room, said in self.world.rooms.items() if room != WALLPAPER}
        return [Prompt((thing,), room, phrase.format("")) for room, phrase in phrases.items()]

    def in_scenes(self, clip: Any, word: str, concept: ConceptSpec, seed: int, each: int) -> float:
        """The share of pictures of a word, as prompts write it, in its own look and in the room that the prompt names."""
        prompts = self.scenes(Thing(concept.word, word, concept))
        images = self.paint(clip, [(prompt.text, prompt.subjects) for prompt in prompts], each, seed, None)
        said = self.read(images, prompts, {concept.name: self.owner(concept)})
        return share(r["look"] and r["scene"] for r in said)

    def features(self, images: Tensor) -> Tensor:
        return self.judge.features(images.movedim(-1, 1) - 0.5)

    def owners_pictures(self, concept: ConceptSpec | ReferenceSpec) -> list[Tensor]:
        files = sorted((self.world.folder / "user_pictures" / concept.name).iterdir())
        return [torch.from_numpy(np.asarray(Image.open(f).convert("RGB"), np.float32) / 255)[None] for f in files]

    def owner(self, concept: ConceptSpec) -> Tensor:
        """(N, 128), the judge's features where the thing is in its owner's pictures, which go through the autoencoder too."""
        images = self.vae.decode(self.vae.encode(training_images(self.owners_pictures(concept), 64))).clamp(0, 1)
        said = verdicts(self.judge, self.world, images)
        found = [at(f, v.places[concept.word]) for f, v in zip(self.features(images), said, strict=True)]
        return torch.stack(found)

    def diversity(self, images: Tensor) -> float:
        """Of pictures of one prompt: 1 - the mean cosine similarity of two of them, in the judge's features."""
        features = self.features(images)
        return unlikeness(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))

    def measure(
        self, clip: Any, word: str, name: str, concept: ConceptSpec, how: Held | None, seed: int, each: int
    ) -> tuple[dict[str, float], Tensor]:
        """Shares of pictures of a word alone and beside each other class, and the pictures.

        Args:
            word: as prompts write it.
            name: what the judge must find.
        """
        thing = Thing(concept.word, word, concept)
        others = [Thing(other, other) for other in self.world.classes if other != concept.word]
        pairs = [Prompt((thing, other)) for other in others]
        alone = self.paint(clip, [(Prompt((thing,)).text, [word])], 2 * each, seed, None)
        beside = self.paint(clip, [(pair.text, pair.subjects) for pair in pairs], each, seed + 1000, how)
        owners = {concept.name: self.owner(concept)}
        single, double = self.read(alone, [Prompt((thing,))], owners), self.read(beside, pairs, owners)
        look = "look" if name == concept.name else "class"
        figures = {
            "alone": share(r[look] for r in single),
            "class alone": share(r["class"] for r in single),
            "present": share(r[look] for r in double),
            "class": share(r["class"] for r in double),
            "other": share(r["other"] for r in double),
            "both": share(r[look] and r["other"] for r in double),
            "both by class": share(r["class"] and r["other"] for r in double),
            "stained": share(r["stained"] for r in double if r["other"]),
            "aligned": mean(r["aligned"] for r in double if r["aligned"] is not None) or 0.0,
            "room alone": share(r["room"] for r in single),
            "room": share(r["room"] for r in double),
        }
        return figures, torch.cat([alone, beside])


@contextmanager
def counted(model: Any) -> Iterator[list[float]]:
    """The calls of a MODEL's UNet, each by its number of pictures; one that a backward follows counts as GUIDED."""
    calls: list[float] = []
    hook = model.model.diffusion_model.register_forward_pre_hook(
        lambda _, given: calls.append(len(given[0]) * (GUIDED if torch.is_grad_enabled() else 1))
    )
    try:
        yield calls
    finally:
        hook.remove()


PLAIN = Recipe(200, 4, 0.1, 1.0, 0.0)  # 800 pictures
ANCHORED = replace(PLAIN, reconstruction_weight=0.9, anchor_weight=0.1)
DEFAULTS = Recipe()
PAPERS, STEERED, OURS = Held(guidance=Guidance()), Held(Steering()), Held(Steering(), regional=Regional())
COARSE = Regional("whole prompt", "coarse blocks")
THREE, SEMANTIC = Words(PLAIN, 3), Words(ANCHORED, 3, anchors=1)


def reference(learning_rate: float, anchor: float = 0.0) -> Words:
    """The reference's recipe with a learning rate and weight of the anchor of one's own choice."""
    recipe = replace(PAPER, learning_rate=learning_rate, reconstruction_weight=1 - anchor, anchor_weight=anchor)
    return Words(recipe, 3, anchors=1 if anchor else 0, noun=True)


RECIPES = {
    "one vector": Words(PLAIN),
    "one vector, slowly": Words(replace(PLAIN, learning_rate=0.03)),
    "three vectors": THREE,
    "reference": reference(0.012),
    "+ semantic": SEMANTIC,
    "+ spatial": replace(THREE, layout=PAPERS),
    "+ spatial, steered": replace(THREE, layout=STEERED),
    "+ both": replace(SEMANTIC, layout=PAPERS),
    "ours, 8 a step": Words(replace(DEFAULTS, batch=8), 3, anchors=1, everything=False),
    "ours, no layout": Words(DEFAULTS, 3, anchors=1, everything=False),
    "ours, whole prompt": Words(DEFAULTS, 3, anchors=1, everything=False, layout=STEERED),
    "ours": Words(DEFAULTS, 3, anchors=1, everything=False, layout=OURS),
}
CLASS_WORD = "class word"
CANDIDATES = {
    **{
        f"{vectors}, rate {rate}, {steps} steps": Words(replace(PLAIN, learning_rate=rate, steps=steps), vectors)
        for vectors in (1, 3)
        for rate, steps in ((0.03, 200), (0.1, 200), (0.3, 200), (0.1, 400))
    },
    **{
        f"3, anchor {weight}": replace(
            SEMANTIC, recipe=replace(PLAIN, reconstruction_weight=1 - weight, anchor_weight=weight)
        )
        for weight in (0.1, 0.3, 0.6)
    },
    **{
        f"3, guidance {strength}": replace(THREE, layout=Held(guidance=Guidance(strength)))
        for strength in (10, 30, 100)
    },
}
"""What the settings of the rows without our own training were chosen from, on the validation concepts."""
SIDE, EVEN = "side by side", Balance(1.0)
WAYS = {
    "plain": None,
    "balance": Held(balance=EVEN, layout="none"),
    "side by side, steered": Held(Steering(), layout=SIDE),
    "side by side, steered and balanced": Held(Steering(), balance=EVEN, layout=SIDE),
    "side by side, the paper's guidance": Held(guidance=Guidance(), layout=SIDE),
    "recovered, steered": STEERED,
    "recovered, steered and balanced": Held(Steering(), balance=EVEN),
    "recovered, the paper's guidance": PAPERS,
    "predicted, steered": Held(Steering(), layout="predicted"),
    "recovered, steered and guided": Held(Steering(), Guidance()),
    "class words in coarse blocks": Held(layout="none", regional=COARSE),
    "side by side, steered, regional": replace(OURS, layout=SIDE),
    "recovered, regional, not steered": Held(regional=Regional()),
    "recovered, steered, regional": OURS,
    "recovered, steered, regional, class words in coarse blocks": replace(
        OURS, regional=Regional(class_words="coarse blocks")
    ),
}
FRONTIER = {
    f"{words}: {way}": replace(RECIPES[row], layout=held)
    for words, row in (("one vector", "one vector"), ("ours", "ours"))
    for way, held in WAYS.items()
}
"""Presence against cost, of every way of sampling, on the validation concepts."""


@dataclass(frozen=True)
class Comparison:
    """One split of the concepts, its records and its cache."""

    bench: Bench
    split: str
    records: Path
    each: int = EACH

    @property
    def concepts(self) -> list[ConceptSpec]:
        return [concept for concept in self.bench.world.concepts.values() if concept.split == self.split]

    def words_of(self, row: str) -> Words | None:
        return None if row == CLASS_WORD else {**RECIPES, **CANDIDATES, **FRONTIER}[row]

    def run(self, row: str, seed: int, settings: tuple[str, ...]) -> None:
        """Append what is missing of a row and a seed of training to the records."""
        recipe = named(self.words_of(row))
        done = {(r["row"], r["setting"], r["unit"], r["seed"], r["recipe"]) for r in records(self.records)}
        for setting in settings:
            for number, (unit, concepts) in enumerate(self.units(setting)):
                if (row, setting, unit, seed, recipe) in done:
                    continue
                began = time.time()
                record = {"row": row, "setting": setting, "unit": unit, "seed": seed, "recipe": recipe}
                first = SEEDS[self.split] + seed + 1000 * (*SETTINGS, *COMPANY).index(setting) + 10_000 * number
                record |= self.measured(row, setting, concepts, seed, first)
                with self.records.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(f"{row}, {setting}, {unit}, seed {seed}: {time.time() - began:.0f} s", flush=True)

    def units(self, setting: str) -> list[tuple[str, tuple[ConceptSpec, ...]]]:
        count = {"two concepts": 2, "two concepts and an object": 2, "three concepts": 3}.get(setting, 1)
        return [(" and ".join(c.name for c in some), some) for some in itertools.combinations(self.concepts, count)]

    def measured(
        self, row: str, setting: str, concepts: tuple[ConceptSpec, ...], seed: int, first: int
    ) -> dict[str, Any]:
        """Of a prompt each: what the judge says; `first` is the seed of sampling."""
        words, bench = self.words_of(row), self.bench
        clip, how = bench.clip, None
        things: list[Thing] = []
        for concept in concepts:
            written = concept.word
            if words is not None:
                clip, how = with_concept(clip, self.learnt(words, concept, seed)), words.layout
                written = f"embedding:{concept.name}{f' {concept.word}' if words.noun else ''}"
            things.append(Thing(concept.word, written, concept))
        prompts = self.prompts(setting, things)
        each = {"alone": 2 * self.each, **dict.fromkeys(COMPANY, self.each // 2)}.get(setting, self.each)
        how = None if setting == "alone" else how
        if how is not None and how.layout == "predicted":
            bench.learn_layouts()
        with counted(bench.model) as calls:
            images = bench.paint(clip, [(p.text, p.subjects) for p in prompts], each, first, how)
        readings = bench.read(images, prompts, {c.name: bench.owner(c) for c in concepts})
        if seed == 0:
            folder = KEPT / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            sheet(
                images[::each],
                len(prompts),
                folder / f"{self.split}, {row}, {setting}, {' and '.join(c.name for c in concepts)}.png",
            )
        parts = [readings[i : i + each] for i in range(0, len(readings), each)]
        return {
            "samples": words.recipe.steps * words.recipe.batch if words else 0,
            "forwards": sum(calls) / len(images),
            "prompts": [
                p.room or " and ".join((t.concept.name if t.concept else t.word) for t in p.things) for p in prompts
            ],
            "diversity": [round(bench.diversity(part), 4) for part in images.split(each)],
            **{key: [[compact(r[key]) for r in part] for part in parts] for key in readings[0]},
        }

    def prompts(self, setting: str, things: list[Thing]) -> list[Prompt]:
        match setting:
            case "alone":
                return [Prompt((things[0],))]
            case "two concepts" | "three concepts":
                return [Prompt(tuple(order)) for order in itertools.permutations(things)]
            case "in a scene":
                return self.bench.scenes(things[0])
            case _:
                named = [thing.word for thing in things]
                return [Prompt((*things, Thing(w, w))) for w in self.bench.world.classes if w not in named]

    def learnt(self, words: Words, concept: ConceptSpec, seed: int) -> Concept:
        """The word, from the cache when it was learnt before."""
        file = word_file(words, concept, seed)
        if not file.exists():
            write_concept(self.bench.learn(words, concept, seed)[0], file)
        return read_concept(file)


SETTINGS = ("alone", "pretrained word", "two concepts", "in a scene")
COMPANY = ("two concepts and an object", "three concepts")
IN_COMPANY = (CLASS_WORD, "three vectors", "ours, no layout", "ours, whole prompt", "ours")
"""The rows of which three things are asked for, too."""
SECOND = (CLASS_WORD, "one vector", "three vectors", "ours, no layout", "ours, whole prompt", "ours")
"""The rows of a world on which no setting was chosen."""


def named(words: Any) -> str:
    """A name of a recipe that changes with it, and not when a record of settings gets another name, or a new one with a default."""
    told = json.dumps(None if words is None else settled(words), sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def settled(settings: Any) -> dict[str, Any]:
    """Those of a record's settings that are not its defaults."""
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) != f.default}
    return {name: settled(value) if is_dataclass(value) else value for name, value in values.items()}


def word_file(words: Words, concept: ConceptSpec, seed: int) -> Path:
    """Where a word is kept that was learnt so, in a folder that exists."""
    file = KEPT / "words" / f"{named(replace(words, layout=None))}-{seed}" / f"{concept.name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def compact(value: float | None) -> float | int | None:
    return value if value is None else round(value, 3) if value % 1 else int(value)


def load_bench(spec: Path = DEFAULT_WORLD) -> Bench:
    world = load_world(spec)
    nodes.folder_paths.models_dir = str(KEPT / "models")  # where a layout predictor goes
    return Bench(world, load_judge(world), *load_checkpoint(world.checkpoint))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD, help="a spec like microworld/world.toml")
    parser.add_argument("--rows", nargs="+", help="else all, of another world SECOND")
    parser.add_argument("--candidates", action="store_true", help="learn and judge those on the validation concepts")
    parser.add_argument("--frontier", action="store_true", help="every way of sampling on the validation concepts")
    parser.add_argument("--split", choices=list(SEEDS), default="test")
    parser.add_argument("--seeds", type=int, default=3, help="of training")
    args = parser.parse_args()
    with torch.inference_mode():
        if args.candidates:
            comparison = Comparison(load_bench(), "validation", FOLDER / "candidates.jsonl", 2)
            for row in CANDIDATES:
                comparison.run(row, 0, ("pretrained word",))
            return
        if args.frontier:
            comparison = Comparison(load_bench(), "validation", FOLDER / "frontier.jsonl")
            for row in FRONTIER:
                comparison.run(row, 0, ("pretrained word",))
            return
        bench = load_bench(args.world)
        first = bench.world.name == FIRST
        comparison = Comparison(bench, args.split, FOLDER / f"{'composition' if first else bench.world.name}.jsonl")
        for seed in range(args.seeds):
            for row in args.rows or ([CLASS_WORD, *RECIPES] if first else SECOND):
                comparison.run(row, seed, settings_of(row, company=first))


def settings_of(row: str, company: bool) -> tuple[str, ...]:
    """A row that differs from another in sampling alone gives the same pictures of the thing alone."""
    held = row != CLASS_WORD and RECIPES[row].layout is not None
    return (*(SETTINGS[1:] if held else SETTINGS), *(COMPANY if company and row in IN_COMPANY else ()))


if __name__ == "__main__":
    main()
