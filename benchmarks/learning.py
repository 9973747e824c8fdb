"""T7: how many pictures a word needs, and what it is worth then: the reference's recipe and ours on the micro world.

python benchmarks/learning.py

Along a run of the reference, whose learning rate never falls, the word is measured at MILESTONES; ours ends with the last of
its steps, so each length is a run of its own. The word of a whole run is asked for in scenes, too. A measurement a line is
appended to records/learning.jsonl; what it holds already is not done again, and a run that was stopped goes on. Words of whole
runs are kept where composition.py looks for them. `make results` draws the curves; with `--draw FILE.png`, so does this.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from composition import RECIPES, Bench, Words, load_bench, reference, word_file
from curves import LARGER, OURS, REFERENCE, SCENES, draw, learning, table
from recorded import FOLDER, records
from torch import Tensor

from compinv_core.concept import Concept, write_concept
from compinv_core.host.text_encoder import with_concept
from compinv_core.training.checkpoint import Progress
from microworld.evaluate import sheet
from microworld.spec import ConceptSpec

RECORDS = FOLDER / "learning.jsonl"
MILESTONES = (20, 50, 100, 200, 400, 800, 1600, 3000, 5000)  # steps of the reference
LENGTHS = (20, 50, 100, 200, 400, 1000)  # whole runs of ours, in steps
CONCEPTS = ["sippy", "glazed", "throne", "dinghy", "canopy", "flyer"]  # all but those that the reference was tuned on
EACH = 4  # pictures of each pair
SEED = 70_000  # of sampling


def runs_of(name: str) -> list[tuple[Words, tuple[int, ...]]]:
    """The runs a recipe takes, each with the steps at which its word is measured."""
    kind, *numbers = name.split()
    if kind == "reference":
        return [(reference(*map(float, numbers)), MILESTONES)]
    ours = RECIPES["ours, no layout"]
    if numbers:
        return [(replace(ours, recipe=replace(ours.recipe, batch=int(numbers[0]))), (ours.recipe.steps,))]
    return [(replace(ours, recipe=replace(ours.recipe, steps=steps)), (steps,)) for steps in LENGTHS]


def kept(
    bench: Bench, words: Words, steps: tuple[int, ...], concept: ConceptSpec, seed: int, folder: Path
) -> dict[int, Tensor]:
    """The word's vectors (n, E) after each of these steps; a run that was stopped before its last goes on from its folder."""
    file = folder / "kept.pt"
    found: dict[int, Tensor] = torch.load(file) if file.exists() else {}

    def keep(progress: Progress) -> None:
        if progress.step in steps:
            found[progress.step] = progress.checkpoint.parameters["mine/clip_l"]
            torch.save(found, file)

    if steps[-1] not in found:
        training = bench.training(words, concept, seed)
        end = training.run(folder, lambda: steps[-1] in found, keep)
        if end.step == words.recipe.steps:
            write_concept(training.concepts(end)[0], word_file(words, concept, seed))
    return found


def measure(bench: Bench, name: str, concept: ConceptSpec, seed: int, until: int, folder: Path) -> None:
    """Append what is missing of one recipe, concept and seed to the records."""
    done = {(r["recipe"], r["concept"], r["seed"], r["steps"]) for r in records(RECORDS)}
    for words, milestones in runs_of(name):
        steps = tuple(step for step in milestones if step <= until)
        if not steps or all((name, concept.name, seed, step) in done for step in steps):
            continue
        runs = folder / f"{name} {milestones[-1]}-{concept.name}-{seed}"
        runs.mkdir(parents=True, exist_ok=True)
        for step, vectors in kept(bench, words, steps, concept, seed, runs).items():
            if (name, concept.name, seed, step) in done or step not in steps:
                continue
            clip = with_concept(bench.clip, Concept("mine", {"clip_l": vectors}, concept.word))
            word = f"embedding:mine{f' {concept.word}' if words.noun else ''}"
            figures, images = bench.measure(clip, word, concept.name, concept, None, SEED + seed, EACH)
            sheet(images, 3 * EACH, runs / f"{step}.jpg")
            record = {
                "recipe": name,
                "concept": concept.name,
                "seed": seed,
                "steps": step,
                "samples": step * words.recipe.batch,
                **{key: round(value, 4) for key, value in figures.items()},
                "length": round(bench.length(vectors), 3),
            }
            if step == milestones[-1]:
                record[SCENES] = round(bench.in_scenes(clip, word, concept, SEED + seed, EACH), 4)
            with RECORDS.open("a") as file:
                file.write(json.dumps(record) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=[REFERENCE, OURS, LARGER],
        help="ours, of so many pictures a step if that is said, or reference and its learning rate and anchor's weight",
    )
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS)
    parser.add_argument("--seeds", type=int, default=3, help="of training")
    parser.add_argument("--until", type=int, default=MILESTONES[-1], help="the last step")
    parser.add_argument("--runs", type=Path, default=Path("learning_output"), help="where runs and pictures are kept")
    parser.add_argument("--draw", type=Path, help="only draw the curves of what the records hold")
    args = parser.parse_args()
    if args.draw:
        said = learning(records(RECORDS))
        draw(said, args.draw)
        print(table(said))
        return
    with torch.inference_mode():
        bench = load_bench()
        for seed in range(args.seeds):
            for concept in args.concepts:
                for name in args.recipes:
                    measure(bench, name, bench.world.concepts[concept], seed, args.until, args.runs)


if __name__ == "__main__":
    main()
