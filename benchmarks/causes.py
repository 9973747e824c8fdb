"""Why words fail to compose, checked: do the causes that the paper names go along with lost objects, over many learnt words?

python benchmarks/causes.py --words causes_output

Each recipe learns each concept once; the figures are those of the node Concept Report, the outcomes what the
judge finds in the same pictures. Words lie in the folder as recipe-concept.pt and are not learnt again. A line a word is appended
to records/causes.jsonl; what it holds already is not done again. In the end come the rank correlations, over all words, class
words too, and over those of equally many vectors.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from composition import ANCHORED, PLAIN, Bench, Words, load_bench
from correlation import spearman
from measures import share
from recorded import FOLDER, records
from torch import Tensor

from compinv_core.concept import Concept
from compinv_core.host.text_encoder import vocabulary, with_concept
from compinv_core.host.watching import observe
from compinv_core.report.figures import Attention, dominance, kept, standing
from compinv_core.report.measuring import attend
from microworld.judge import Verdict, verdicts
from microworld.spec import ConceptSpec

RECORDS = FOLDER / "causes.jsonl"
SEED = 30_000  # of sampling
EACH = 2  # pictures of each pair
CLASS = "the class word"
CAUSES = ("percentile", "distance", "length", "share", "entropy", "dominance", "kept")
OUTCOMES = ("other", "class", "both by class", "both")


def anchored(weight: float, vectors: int) -> Words:
    return Words(replace(ANCHORED, reconstruction_weight=1 - weight, anchor_weight=weight), vectors, anchors=1)


WORDS = {
    "one vector": Words(PLAIN),
    "one, anchored .3": anchored(0.3, 1),
    "two vectors": Words(PLAIN, 2),
    "three vectors": Words(PLAIN, 3),
    "three, anchored .1": anchored(0.1, 3),
    "three, anchored .2": anchored(0.2, 3),
    "with anchors": Words(ANCHORED, 3, anchors=1, everything=False),
}


REPEATED = {f"{CLASS} {n} times": n for n in (2, 3, 5, 8)}
"""What attention does when nothing but the number of vectors grows."""


def learnt(bench: Bench, name: str, concept: ConceptSpec, folder: Path) -> Tensor:
    """A recipe's word (n, E), from the folder or learnt now."""
    file = folder / f"{name}-{concept.name}.pt"
    if not file.exists():
        word, _ = bench.learn(WORDS[name], concept, 0)
        torch.save(word.vectors["clip_l"], file)
    return torch.load(file)


Seen = tuple[list[Attention], list[Verdict]]


def seen(bench: Bench, clip: Any, word: str, concept: ConceptSpec) -> Seen:
    """What a word gets of the attention beside every other class, EACH times, and what the judge finds in those pictures."""
    others = [other for other in bench.world.classes if other != concept.word]
    watched = partial(observe, bench.model, clip, latent=torch.zeros(1, 4, 8, 8), steps=20, cfg=5.0)
    looks = [
        attend(
            lambda prompts, seed: watched(prompts, seed=seed), word, concept.word, others=others, seed=SEED + 100 * i
        )
        for i in range(EACH)
    ]
    pictures = bench.vae.decode(torch.cat([beside for _, _, beside in looks])).clamp(0, 1)
    return [attention for attention, *_ in looks], verdicts(bench.judge, bench.world, pictures)


def figures(
    bench: Bench, concept: ConceptSpec, name: str, vectors: Tensor, own: Seen, ordinary: Seen
) -> dict[str, float]:
    """Causes and outcomes for a word (n, E), beside its class word's.

    Args:
        name: what the judge must find.
    """
    where = standing(vectors, vocabulary(bench.clip, "clip_l"))
    pairs = list(zip(own[0], ordinary[0], strict=True))
    asked = [other for _ in range(EACH) for other in bench.world.classes if other != concept.word]
    present = [(other, verdict.present) for other, verdict in zip(asked, own[1], strict=True)]
    return {
        "vectors": len(vectors),
        "percentile": where.percentile,
        "distance": where.distance,
        "length": where.length,
        "share": mean(one.share / its.share for one, its in pairs),
        "entropy": mean(one.entropy / its.entropy for one, its in pairs),
        "dominance": mean(dominance(*pair) for pair in pairs),
        "kept": mean(kept(*pair) for pair in pairs),
        "other": share(other in there for other, there in present),
        "class": share(concept.word in there for _, there in present),
        "both by class": share({concept.word, other} <= there for other, there in present),
        "both": share({name, other} <= there for other, there in present),
    }


def table(found: list[dict[str, Any]]) -> str:
    """Rank correlations of causes with outcomes, a line each, for all words and for those of equally many vectors."""
    lines: list[str] = []
    learnt_ones = [r for r in found if not r["recipe"].startswith(CLASS)]
    groups = {"all words": found, "learnt words": learnt_ones}
    for count in sorted({r["vectors"] for r in learnt_ones}):
        groups[f"of {count} vector{'s'[: count > 1]}"] = [r for r in learnt_ones if r["vectors"] == count]
    for group, rows in groups.items():
        lines.append(f"{group + f' ({len(rows)})':24}" + "".join(f"{outcome:>16}" for outcome in OUTCOMES))
        for cause in CAUSES:
            values = [spearman([r[cause] for r in rows], [r[outcome] for r in rows]) for outcome in OUTCOMES]
            lines.append(f"  {cause:22}" + "".join(f"{value:+16.2f}" for value in values))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=Path, default=Path("causes_output"), help="where learnt words are kept")
    args = parser.parse_args()
    args.words.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        bench = load_bench()
        for concept in bench.world.concepts.values():
            done = {r["recipe"] for r in records(RECORDS) if r["concept"] == concept.name}
            missing = [name for name in (CLASS, *REPEATED, *WORDS) if name not in done]
            if not missing:
                continue
            ordinary = seen(bench, bench.clip, concept.word, concept)
            for name in missing:
                if name == CLASS:
                    vectors = vocabulary(bench.clip, "clip_l").vector(concept.word)[None]
                    found = figures(bench, concept, concept.word, vectors, ordinary, ordinary)
                else:
                    if name in REPEATED:
                        word = vocabulary(bench.clip, "clip_l").vector(concept.word)
                        vectors, wanted = word.repeat(REPEATED[name], 1), concept.word
                    else:
                        vectors, wanted = learnt(bench, name, concept, args.words), concept.name
                    clip = with_concept(bench.clip, Concept("mine", {"clip_l": vectors}, concept.word))
                    own = seen(bench, clip, "embedding:mine", concept)
                    found = figures(bench, concept, wanted, vectors, own, ordinary)
                record = {"recipe": name, "concept": concept.name} | {key: round(v, 4) for key, v in found.items()}
                with RECORDS.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    print(table(records(RECORDS)))


if __name__ == "__main__":
    main()
