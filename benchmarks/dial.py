"""What can be turned at a learnt word without training it again, and what that does to its pictures.

python benchmarks/dial.py --words causes_output

Each kind of dial at each of its values, for the words of RECIPES on the validation concepts. Words lie in the folder as
those of causes.py do. A line a measurement is appended to records/dial.jsonl; what it holds already is not done again.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from causes import learnt
from composition import load_bench
from recorded import FOLDER, records
from torch import Tensor
from torch.nn import functional

from compinv_core.concept import Concept, mixed
from compinv_core.host.text_encoder import vocabulary, with_concept

RECORDS = FOLDER / "dial.jsonl"
SEED = 40_000  # of sampling
EACH = 2  # pictures of each pair, and twice as many of the word alone
RECIPES = ("three vectors", "one vector", "three, anchored .2", "with anchors")
COLUMNS = ("both by class", "both", "alone", "class", "other")


def turned(vectors: Tensor, word: Tensor, mix: float) -> Tensor:
    """To the class word's direction, each vector as long as it was."""
    new = mixed(vectors, word, mix)
    return new * vectors.norm(dim=1, keepdim=True) / new.norm(dim=1, keepdim=True)


def scaled(vectors: Tensor, word: Tensor, factor: float) -> Tensor:
    return factor * vectors


def slerped(vectors: Tensor, word: Tensor, share: float) -> Tensor:
    """Along the sphere to the class word's direction, each vector as long as it was."""
    own, its = functional.normalize(vectors, dim=-1), functional.normalize(word, dim=-1)
    angle = (own * its).sum(-1, keepdim=True).acos()
    direction = (((1 - share) * angle).sin() * own + (share * angle).sin() * its) / angle.sin()
    return vectors.norm(dim=1, keepdim=True) * direction


def tea(vectors: Tensor, word: Tensor, share: float) -> Tensor:
    """Slerp at half of the class word's length, as in arXiv 2506.22685."""
    return 0.5 * word.norm() * functional.normalize(slerped(vectors, word, share), dim=-1)


KINDS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "length": scaled, "mix": mixed, "turn": turned, "slerp": slerped, "TEA": tea,
}  # fmt: skip
WEIGHT = "weight in the prompt"  # ComfyUI's own, (embedding:name:0.8)
SCALE = "cfg"  # of sampling, which is at another value elsewhere
POINTS: tuple[tuple[str, float], ...] = (
    ("length", 1.0), ("mix", -0.25), ("mix", 0.125), ("mix", 0.25), ("mix", 0.5), ("mix", 0.75), ("turn", 0.25),
    ("slerp", 0.1), ("slerp", 0.2), ("slerp", 0.3), ("TEA", 0.1), ("TEA", 0.2), ("TEA", 0.3),
    ("length", 0.25), ("length", 0.5), ("length", 0.75), ("length", 1.5), ("length", 2.0), (WEIGHT, 0.75),
    (SCALE, 2.0), (SCALE, 3.0), (SCALE, 8.0),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=Path, default=Path("causes_output"), help="where learnt words are kept")
    args = parser.parse_args()
    args.words.mkdir(parents=True, exist_ok=True)
    done = {(r["recipe"], r["concept"], r["dial"], r["value"]) for r in records(RECORDS)}
    with torch.inference_mode():
        bench = load_bench()
        known = vocabulary(bench.clip, "clip_l")
        for kind, value in POINTS:
            for recipe in RECIPES:
                for concept in (c for c in bench.world.concepts.values() if c.split == "validation"):
                    if (recipe, concept.name, kind, value) in done:
                        continue
                    vectors, word, sampling = learnt(bench, recipe, concept, args.words), "embedding:mine", bench
                    if kind == WEIGHT:
                        word = f"({word}:{value})"
                    elif kind == SCALE:
                        sampling = replace(bench, cfg=value)
                    else:
                        vectors = KINDS[kind](vectors, known.vector(concept.word), value)
                    clip = with_concept(bench.clip, Concept("mine", {"clip_l": vectors}, concept.word))
                    figures, _ = sampling.measure(clip, word, concept.name, concept, None, SEED, EACH)
                    record = {"recipe": recipe, "concept": concept.name, "dial": kind, "value": value, **figures}
                    with RECORDS.open("a") as file:
                        file.write(
                            json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()})
                            + "\n"
                        )
    print(table(records(RECORDS)))


def table(found: list[dict[str, Any]]) -> str:
    """Means over concepts, a line for each recipe and value of a dial."""
    lines = [f"{'recipe':20}{'dial':22}{'value':>6}" + "".join(f"{column:>15}" for column in COLUMNS)]
    for recipe in RECIPES:
        points = sorted({(r["dial"], r["value"]) for r in found if r["recipe"] == recipe})
        for point in points:
            mine = [r for r in found if (r["recipe"], r["dial"], r["value"]) == (recipe, *point)]
            means = [sum(r[column] for r in mine) / len(mine) for column in COLUMNS]
            lines.append(f"{recipe:20}{point[0]:22}{point[1]:6}" + "".join(f"{mean:15.3f}" for mean in means))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
