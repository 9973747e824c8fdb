"""Custom Diffusion and DreamBooth on the micro world, with anchors and without, beside the words of composition.py.

python benchmarks/fine_tuning.py --rows "Custom Diffusion" "+ anchors" --split test --seeds 3     appends what is missing
python benchmarks/fine_tuning.py --candidates                                      what the rows' settings were chosen from

Each row learns each concept of the split once a seed: its word and its adapter. Settings are composition.py's, and one more that a
word alone has no need of, "ordinary words": what the class word and the other classes give with the adapter on, against the same
noise without it (drift). Two concepts are learnt apart and merged, or both loaded, or learnt together.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from composition import (
    EACH,
    KEPT,
    OURS,
    SEEDS,
    SETTINGS,
    STEERED,
    Comparison,
    Held,
    Prompt,
    Thing,
    compact,
    load_bench,
    named,
)
from measures import mean
from recorded import FOLDER, records
from safetensors.torch import load_file, save_file

from compinv_core.anchors import AnchorSet
from compinv_core.concept import Concept, read_concept, write_concept
from compinv_core.host.backbone import ComfyBackbone
from compinv_core.host.text_encoder import with_concept
from compinv_core.host.weights import adapter_of
from compinv_core.merging import merged_adapter
from compinv_core.training.concept_training import ConceptTraining
from compinv_core.training.recipe import PAPER_DREAMBOOTH, PAPER_KEYS_AND_VALUES, Recipe
from compinv_core.training.request import FineTuneRequest, Request
from microworld.spec import ConceptSpec

DRIFT = "ordinary words"
FILE = FOLDER / "fine_tuning.jsonl"


@dataclass(frozen=True)
class Tuned:
    """A recipe of fine-tuning, with its anchors and how it is sampled.

    Attributes:
        anchored: whether the class word is the word's anchor.
        layout: how sampling is guided, or None.
        everything: whether the images' background is learnt as well.
        pair: how two concepts come together: learnt apart and "merged" in closed form, both "loaded", or learnt "together".
    """

    recipe: Recipe
    fine_tune: FineTuneRequest
    anchored: bool = False
    layout: Held | None = None
    everything: bool = True
    vectors: int = 3
    noun: bool = False
    pair: Literal["merged", "loaded", "together"] = "merged"

    @property
    def of_training(self) -> str:
        """A name of all that training depends on."""
        return named(replace(self, layout=None, pair="merged"))


KV = FineTuneRequest(what="keys and values", prior="DCO")
LORA = FineTuneRequest(what="attention", rank=8, prior="DCO")
PAPERS_PRIOR = {"prior": "class images", "prior_count": 200}
CD = Tuned(Recipe(), KV)
DB = Tuned(Recipe(), LORA, pair="loaded")
PAPER_CD = Tuned(PAPER_KEYS_AND_VALUES, replace(KV, **PAPERS_PRIOR), vectors=1, noun=True)
PAPER_DB = Tuned(PAPER_DREAMBOOTH, replace(LORA, **PAPERS_PRIOR), vectors=1, noun=True, pair="loaded")


def rows_of(name: str, base: Tuned) -> dict[str, Tuned]:
    anchored = replace(base, anchored=True)
    return {name: base, f"{name} + anchors": anchored, f"{name} + both": replace(anchored, layout=STEERED)}


def ours(name: str, base: Tuned) -> dict[str, Tuned]:
    masked = replace(base, anchored=True, everything=False)
    return {f"{name}, whole prompt": replace(masked, layout=STEERED), name: replace(masked, layout=OURS)}


ROWS = {
    **rows_of("Custom Diffusion, paper", PAPER_CD),
    **rows_of("Custom Diffusion", CD),
    **ours("Custom Diffusion, ours", CD),
    **ours("Custom Diffusion, ours, together", replace(CD, pair="together")),
    **rows_of("DreamBooth (LoRA), paper", PAPER_DB),
    **rows_of("DreamBooth (LoRA)", DB),
    **ours("DreamBooth (LoRA), ours", DB),
}
CANDIDATE_CONCEPTS = 2  # of the validation concepts; a fine-tune takes a minute or two


def candidate(base: Tuned, prior: str, rate: float, weight: float = 1.0, **more: Any) -> Tuned:
    recipe, fine_tune = (
        replace(base.recipe, weights_learning_rate=rate),
        replace(base.fine_tune, prior=prior, prior_weight=weight),
    )
    return replace(base, recipe=recipe, fine_tune=fine_tune, anchored=True, everything=False, **more)


CD_STYLE = {"vectors": 1, "noun": True}
PAPERS_BETA = 10.0
CANDIDATES = {
    **{
        f"{name}, DCO with the paper's beta, rate {rate}, 1 vector": candidate(
            base, "DCO", rate, PAPERS_BETA, **CD_STYLE
        )
        for name, base, rate in (
            ("keys and values", CD, 0.003),
            ("keys and values", CD, 0.01),
            ("keys and values", CD, 0.03),
            ("attention", DB, 0.01),
        )
    },
    "keys and values, no prior, rate 0.01, 1 vector": candidate(CD, "none", 0.01, **CD_STYLE),
    "attention, no prior, rate 0.01, 1 vector": candidate(DB, "none", 0.01, **CD_STYLE),
    "keys and values, no prior, rate 0.003": candidate(CD, "none", 0.003),
    "keys and values, DCO, rate 0.003": candidate(CD, "DCO", 0.003),
    "keys and values, DCO, rate 0.01": candidate(CD, "DCO", 0.01),
    "attention, DCO, rate 0.003": candidate(DB, "DCO", 0.003),
}
"""What the settings were chosen from, on the validation concepts."""


class FineTunes:
    """One split of the concepts, its records and its cache."""

    def __init__(self, comparison: Comparison, rows: dict[str, Tuned], file: Path, most: int | None = None):
        self.comparison, self.bench, self.rows, self.file, self.most = comparison, comparison.bench, rows, file, most
        file.parent.mkdir(parents=True, exist_ok=True)
        self.backbone = ComfyBackbone(self.bench.model, self.bench.clip, self.bench.vae)

    def run(self, row: str, seed: int, settings: tuple[str, ...]) -> None:
        """Append what is missing of a row and a seed of training to the records."""
        tuned = self.rows[row]
        recipe = named(tuned)
        done = {(r["row"], r["setting"], r["unit"], r["seed"], r["recipe"]) for r in records(self.file)}
        for setting in settings:
            of_comparison = "alone" if setting == DRIFT else setting
            for number, (unit, concepts) in enumerate(self.comparison.units(of_comparison)[: self.most]):
                if (row, setting, unit, seed, recipe) in done:
                    continue
                began = time.time()
                first = SEEDS[self.comparison.split] + seed + 1000 * SETTINGS.index(of_comparison) + 10_000 * number
                record = {"row": row, "setting": setting, "unit": unit, "seed": seed, "recipe": recipe}
                if setting == DRIFT:
                    record |= self.drift(tuned, concepts[0], seed, first)
                else:
                    record |= self.measured(tuned, setting, concepts, seed=seed, first=first)
                with self.file.open("a") as out:
                    out.write(json.dumps(record) + "\n")
                print(f"{row}, {setting}, {unit}, seed {seed}: {time.time() - began:.0f} s", flush=True)

    def measured(
        self, tuned: Tuned, setting: str, concepts: tuple[ConceptSpec, ...], *, seed: int, first: int
    ) -> dict[str, Any]:
        """Of a prompt each: what the judge says; `first` is the seed of sampling."""
        words, lora = self.learnt(tuned, concepts, seed)
        clip, things = self.bench.clip, list[Thing]()
        for concept, word in zip(concepts, words, strict=True):
            clip = with_concept(clip, word)
            written = f"embedding:{concept.name}{f' {concept.word}' if tuned.noun else ''}"
            things.append(Thing(concept.word, written, concept))
        prompts = self.comparison.prompts(setting, things)
        each = 2 * EACH if setting == "alone" else EACH
        how = None if setting == "alone" else tuned.layout
        bench = replace(self.bench, model=patched(self.bench.model, lora))
        images = bench.paint(clip, [(p.text, p.subjects) for p in prompts], each, first, how)
        readings = bench.read(images, prompts, {c.name: bench.owner(c) for c in concepts})
        if seed == 0:
            folder = KEPT / "fine-tuned pictures"
            folder.mkdir(parents=True, exist_ok=True)
            from microworld.evaluate import sheet

            name = next(name for name, one in self.rows.items() if one == tuned)
            unit = " and ".join(c.name for c in concepts)
            sheet(images[::each], len(prompts), folder / f"{self.comparison.split}, {name}, {setting}, {unit}.png")
        parts = [readings[i : i + each] for i in range(0, len(readings), each)]
        return {
            "samples": tuned.recipe.steps * tuned.recipe.batch,
            "parameters": sum(v.numel() for k, v in lora.items() if not k.endswith(".alpha")),
            "prompts": [
                p.room or " and ".join((t.concept.name if t.concept else t.word) for t in p.things) for p in prompts
            ],
            "diversity": [round(bench.diversity(part), 4) for part in images.split(each)],
            **{key: [[compact(r[key]) for r in part] for part in parts] for key in readings[0]},
        }

    def drift(self, tuned: Tuned, concept: ConceptSpec, seed: int, first: int) -> dict[str, Any]:
        """What ordinary words give with the adapter on: the class word, and the other classes.

        class: the class asked for is there. look: it is in the concept's own appearance, which nobody asked for. same: the
        judge's features with the adapter and without, as a cosine.
        """
        _, lora = self.learnt(tuned, (concept,), seed)
        words = [concept.word, *(word for word in self.bench.world.classes if word != concept.word)]
        prompts = [Prompt((Thing(word, word),)) for word in words]
        asked = [(p.text, p.subjects) for p in prompts]
        images, before = (
            replace(self.bench, model=model).paint(self.bench.clip, asked, EACH, first, None)
            for model in (patched(self.bench.model, lora), self.bench.model)
        )
        readings = self.bench.read(images, prompts, {concept.name: self.bench.owner(concept)})
        own = Prompt((Thing(concept.word, concept.word, concept),))
        looks = self.bench.read(images[:EACH], [own], {concept.name: self.bench.owner(concept)})
        features = [self.bench.features(part).flatten(1) for part in (images, before)]
        same = torch.cosine_similarity(*features, dim=1).view(len(prompts), EACH)
        present = [[compact(r["class"]) for r in readings[i : i + EACH]] for i in range(0, len(readings), EACH)]
        return {
            "prompts": words,
            "class word": [present[0]],
            "class word, own": [[compact(r["look"]) for r in looks]],
            "class word, same": [[round(v, 4) for v in same[0].tolist()]],
            "others": [[mean(v for part in present[1:] for v in part)]],
            "others, same": [[round(same[1:].mean().item(), 4)]],
        }

    def learnt(
        self, tuned: Tuned, concepts: tuple[ConceptSpec, ...], seed: int
    ) -> tuple[list[Concept], dict[str, Any]]:
        """The words and one adapter, from the cache when they were learnt before."""
        if len(concepts) == 1 or tuned.pair == "together":
            return self._trained(tuned, concepts, seed)
        apart = [self._trained(tuned, (concept,), seed) for concept in concepts]
        words, loras = [word for (word,), _ in apart], [lora for _, lora in apart]
        if tuned.pair == "loaded":
            names = dict.fromkeys(name for lora in loras for name in lora)
            assert all(name.endswith(".diff") for name in names) or len(loras) == 2
            return words, added_up(loras)
        adapters = [adapter_of(self.backbone.model, lora) for lora in loras]
        merged = merged_adapter(self.backbone, list(zip(words, adapters, strict=True)))
        return words, merged.to_lora(self.backbone.lora_names)

    def _trained(
        self, tuned: Tuned, concepts: tuple[ConceptSpec, ...], seed: int
    ) -> tuple[list[Concept], dict[str, Any]]:
        folder = KEPT / "fine-tunes" / f"{tuned.of_training}-{seed}" / "+".join(c.name for c in concepts)
        files = [folder / f"{concept.name}.safetensors" for concept in concepts]
        if not (folder / "adapter.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            training = self._training(tuned, concepts, seed)
            with tempfile.TemporaryDirectory() as runs:
                end = training.run(Path(runs), lambda: False, lambda _: None)
            for concept, file in zip(training.concepts(end), files, strict=True):
                write_concept(concept, file, replace=True)
            adapter = training.adapter(end)
            assert adapter is not None
            save_file(adapter.to_lora(self.backbone.lora_names), folder / "adapter.safetensors")
        return [read_concept(file) for file in files], load_file(folder / "adapter.safetensors")

    def _training(self, tuned: Tuned, concepts: tuple[ConceptSpec, ...], seed: int) -> ConceptTraining:
        requests = [
            Request(
                name=concept.name,
                class_word=concept.word,
                vectors=tuned.vectors,
                images=self.bench.owners_pictures(concept),
                resolution=64,
                ignore_background=not tuned.everything,
                class_word_too=tuned.noun,
                anchors=AnchorSet(concept.word, (concept.word,), (1.0,)) if tuned.anchored else None,
            )
            for concept in concepts
        ]
        recipe = replace(tuned.recipe, seed=seed)
        if not tuned.anchored:
            recipe = replace(recipe, reconstruction_weight=1.0, anchor_weight=0.0)
        return ConceptTraining(self.backbone, requests, recipe, tuned.fine_tune)


def patched(model: Any, lora: dict[str, Any]) -> Any:
    """As Load LoRA gives it."""
    import comfy.sd  # found since host.py of this folder was imported

    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]


def added_up(loras: list[dict[str, Any]]) -> dict[str, Any]:
    """Two LoRAs of low rank in one, side by side: what loading both does."""
    one, two = loras
    found: dict[str, Any] = {}
    for name in one:
        if name.endswith(".alpha"):
            found[name] = one[name] + two[name]
        else:
            found[name] = torch.cat([one[name], two[name]], dim=1 if name.endswith("lora_up.weight") else 0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--candidates", action="store_true", help="learn and judge those on the validation concepts")
    parser.add_argument("--split", choices=list(SEEDS), default="test")
    parser.add_argument("--seeds", type=int, default=3, help="of training")
    args = parser.parse_args()
    with torch.inference_mode():
        bench = load_bench()
        if args.candidates:
            comparison = Comparison(bench, "validation", FOLDER / "unused.jsonl")
            tunes = FineTunes(comparison, CANDIDATES, FOLDER / "fine_tuning_candidates.jsonl", CANDIDATE_CONCEPTS)
            for row in args.rows if args.rows != list(ROWS) else CANDIDATES:
                tunes.run(row, 0, ("alone", "pretrained word", DRIFT))
            return
        tunes = FineTunes(Comparison(bench, args.split, FOLDER / "unused.jsonl"), ROWS, FILE)
        for seed in range(args.seeds):
            for row in args.rows:
                tunes.run(row, seed, (*SETTINGS, DRIFT))


if __name__ == "__main__":
    main()
