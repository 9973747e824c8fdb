"""Whether plainly trained words compose once they are repaired, which takes no pictures: before, after, and trained with anchors.

python benchmarks/repair.py --split test --words repair_output

A word a line is appended to records/repair.jsonl, which is not done again. The words are kept in a folder, so that a run that
was stopped goes on.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from composition import ANCHORED, RECIPES, SEEDS, Bench, Words, load_bench
from einops import rearrange
from measures import share
from recorded import FOLDER, records
from torch import Tensor

from compinv_core.concept import Concept, read_concept, write_concept
from compinv_core.host.backbone import ComfyBackbone
from compinv_core.host.text_encoder import with_concept
from compinv_core.training.images import training_images
from compinv_core.training.repair import RECIPE, Repair, RepairRequest
from microworld.evaluate import sheet
from microworld.judge import labels_of, verdicts
from microworld.spec import ConceptSpec

RECORDS = FOLDER / "repair.jsonl"
PLAIN, GOAL = ("one vector", "three vectors"), "with anchors"
LEARNT = {**{row: RECIPES[row] for row in PLAIN}, GOAL: Words(ANCHORED, 3, anchors=1, everything=False)}
ROWS = {GOAL: GOAL, **{row: plain for plain in PLAIN for row in (plain, f"{plain}, repaired")}}
FIGURES = ("alone", "alike", "class", "other", "both", "both by class")
ALONE = 32  # pictures of a word alone


def word_of(bench: Bench, row: str, concept: ConceptSpec, seed: int, folder: Path) -> Concept:
    """The word of a row, from the folder or learnt and kept there."""
    file = folder / f"{row}-{concept.name}-{seed}.safetensors"
    if not file.exists():
        if row in LEARNT:
            word, _ = bench.learn(LEARNT[row], concept, seed)
        else:
            old = word_of(bench, ROWS[row], concept, seed, folder)
            request = RepairRequest("mine", concept.word, resolution=64)
            repair = Repair(ComfyBackbone(bench.model, bench.clip), old, request, RECIPE)
            (word,) = repair.concepts(repair.run(folder / "runs", lambda: False, lambda _: None))
        write_concept(word, file)
    return Concept("mine", read_concept(file).vectors, concept.word)


@torch.no_grad()
def things(bench: Bench, images: Tensor, concept: ConceptSpec) -> Tensor:
    """(B, F): what the judge sees where it sees the thing, or where it is likeliest, as directions."""
    names = labels_of(bench.world).names
    features = bench.judge.features(rearrange(images, "b h w c -> b c h w") - 0.5)
    seen = bench.judge.names(features)[:, [names.index(concept.word), names.index(concept.name)]]
    at = seen.amax(dim=1).flatten(1).argmax(dim=1)
    return F.normalize(features.flatten(2)[torch.arange(len(images)), :, at], dim=1)


def alikeness(bench: Bench, images: Tensor, concept: ConceptSpec) -> float:
    """Image alignment: the mean cosine similarity to the thing of the owner's pictures, these through the autoencoder, too."""
    own = bench.vae.decode(bench.vae.encode(training_images(bench.owners_pictures(concept), bench.world.size))).clamp(
        0, 1
    )
    return (things(bench, images, concept) @ things(bench, own, concept).T).mean().item()


def measure(bench: Bench, word: Concept, concept: ConceptSpec, seed: int, each: int) -> tuple[dict[str, float], Tensor]:
    clip, name = with_concept(bench.clip, word), f"embedding:{word.name}"
    figures, images = bench.measure(clip, name, concept.name, concept, None, seed, each)
    alone = bench.paint(clip, [(f"a photo of a {name}", [name])], ALONE, seed + 2000, None)
    figures["alone"] = share(concept.name in v.present for v in verdicts(bench.judge, bench.world, alone))
    figures["alike"] = alikeness(bench, alone, concept)
    return {key: round(figures[key], 4) for key in FIGURES}, torch.cat([alone[: 2 * each], images[2 * each :]])


def table(split: str) -> str:
    """A line a row, means over concepts and seeds; what repair recovers of what anchors would have given."""
    found = [r for r in records(RECORDS) if r["split"] == split]
    means = {
        row: {key: sum(r[key] for r in mine) / len(mine) for key in FIGURES}
        for row in ROWS
        if (mine := [r for r in found if r["row"] == row])
    }
    lines = [f"{split:24}" + "".join(f"{key:>14}" for key in FIGURES)]
    lines += [f"{row:24}" + "".join(f"{mean[key]:14.3f}" for key in FIGURES) for row, mean in means.items()]
    for plain in PLAIN:
        before, after, goal = (means.get(row) for row in (plain, f"{plain}, repaired", GOAL))
        if before and after and goal:
            for key in ("both", "both by class"):
                share_of_gain = (after[key] - before[key]) / (goal[key] - before[key])
                lines.append(f"{plain}, {key}: {share_of_gain:.0%} of the gain that anchors give")
            losses = ", ".join(f"{key} {1 - after[key] / before[key]:+.1%}" for key in ("alone", "alike"))
            lines.append(f"{plain}, lost: {losses}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=list(SEEDS), default="validation")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=1, help="of training")
    parser.add_argument("--each", type=int, default=4, help="pictures of each pair")
    parser.add_argument("--words", type=Path, default=Path("repair_output"), help="where words and pictures are kept")
    args = parser.parse_args()
    (args.words / "runs").mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        bench = load_bench()
        for seed in range(args.seeds):
            for concept in (c for c in bench.world.concepts.values() if c.split == args.split):
                done = {(r["row"], r["concept"], r["seed"]) for r in records(RECORDS)}
                for row in args.rows:
                    if (row, concept.name, seed) in done:
                        continue
                    word = word_of(bench, row, concept, seed, args.words)
                    figures, images = measure(bench, word, concept, SEEDS[args.split] + seed, args.each)
                    sheet(images, 3 * args.each, args.words / f"{row}-{concept.name}-{seed}.jpg")
                    record = {"split": args.split, "row": row, "concept": concept.name, "seed": seed, "each": args.each}
                    with RECORDS.open("a") as file:
                        file.write(json.dumps({**record, **figures}) + "\n")
    print(table(args.split))


if __name__ == "__main__":
    main()
