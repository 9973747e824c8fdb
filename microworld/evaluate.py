"""What the finished world can do, measured through ComfyUI's own loader and sampler: figures and contact sheets.

Prompts and seeds are not those that anything was chosen on: `--split validation` is for choosing.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .comfyui import use_host
from .judge import Verdict, load_judge, verdicts
from .spec import DEFAULT_WORLD, World, load_world

CHECKPOINT = load_world(DEFAULT_WORLD).checkpoint
SEEDS = {"validation": 1_000, "test": 9_000}
BATCH = 48


def templates(world: World, split: str) -> list[str]:
    """For testing, half of them with one of the spec's first two rooms."""
    if split == "validation":
        return ["a photo of {}"]
    first, second = [room["phrase"] for room in world.rooms.values()][:2]
    return ["a picture of {}", "a nice photo of {}", f"{{}} {first}", f"a photo of {{}} {second}"]


def load_checkpoint(file: Path) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) from ComfyUI's stock loader."""
    use_host()
    import folder_paths

    import nodes  # the host's

    from . import comfyui_microworld  # noqa: F401  # pyright: ignore[reportUnusedImport]

    folder_paths.add_model_folder_path("checkpoints", str(file.parent.absolute()), is_default=True)
    with torch.inference_mode():
        return nodes.CheckpointLoaderSimple().load_checkpoint(file.name)


@torch.inference_mode()
def paint(model: Any, clip: Any, vae: Any, prompts: list[str], seed: int, steps: int = 20, cfg: float = 5.0) -> Tensor:
    """Pictures (B, H, W, 3) in 0..1, one of each prompt; a conditioning with a batch serves many in one call."""
    import nodes  # the host's

    images: list[Tensor] = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        conds = [clip.encode_from_tokens(clip.tokenize(text)) for text in part]
        negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        latent = {"samples": torch.zeros(len(part), 4, 8, 8)}
        (sampled,) = nodes.common_ksampler(
            model, seed + start, steps, cfg, "euler", "normal", [[torch.cat(conds), {}]], negative, latent
        )
        images.append(vae.decode(sampled["samples"]))
    return torch.cat(images).clamp(0, 1)


def phrase(words: tuple[str, ...]) -> str:
    return " and ".join(f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in words)


def sheet(images: Tensor, columns: int, file: Path) -> None:
    rows = [torch.cat(list(row), dim=1) for row in images.split(columns)]
    pixels = (torch.cat(rows).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(file, quality=88)


def shares(found: list[Verdict], asked: list[tuple[str, ...]]) -> dict[str, float]:
    """The share of pictures that show all that was asked for, by what was asked for."""
    hits: dict[str, list[bool]] = {}
    for verdict, words in zip(found, asked, strict=True):
        hits.setdefault(" and ".join(words), []).append(set(words) <= verdict.present)
    return {name: sum(good) / len(good) for name, good in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--checkpoint", type=Path, help="else the world's own, as the next two")
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--split", choices=list(SEEDS), default="test")
    parser.add_argument("--singles", type=int, default=48, help="pictures of each class")
    parser.add_argument("--pairs", type=int, default=16, help="pictures of each pair")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--out", type=Path, help="for evaluation.json and the contact sheets")
    args = parser.parse_args()
    world = load_world(args.world)
    loaded, judge = load_checkpoint(args.checkpoint or world.checkpoint), load_judge(world, args.judge)
    out, seed, asks = args.out or world.folder, SEEDS[args.split], templates(world, args.split)
    figures: dict[str, Any] = {"split": args.split, "steps": args.steps, "cfg": args.cfg, "templates": asks}
    for name, many, count in (("singles", 1, args.singles), ("pairs", 2, args.pairs)):
        asked = [words for words in itertools.combinations(world.classes, many) for _ in range(count)]
        prompts = [asks[i % len(asks)].format(phrase(words)) for i, words in enumerate(asked)]
        images = paint(*loaded, prompts, seed + many * 100_000, args.steps, args.cfg)
        by_words = shares(verdicts(judge, world, images), asked)
        present = sum(by_words.values()) / len(by_words)
        figures[name] = {"present": present, "images": len(asked), "by words": by_words}
        print(f"{name}: all there in {present:.1%} of {len(asked)}; {json.dumps(by_words)}", flush=True)
        columns = min(16, count)
        rows = torch.cat([part[:columns] for part in images.split(count)])
        sheet(rows, columns, out / f"{name}.jpg")
    (out / "evaluation.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
