"""Scenes through the encoder, once: shards of latents with the captions' tokens, drawn from the shard's number alone."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from . import runs
from .autoencoder import Autoencoder
from .captions import caption
from .scenes import class_map, draw, random_scene
from .spec import DEFAULT_WORLD, World, load_world

SHARD = 4096
CAPTIONS = 3  # for each scene
LENGTH = 77


def load_autoencoder(folder: Path) -> Autoencoder:
    model = Autoencoder()
    model.load_state_dict(torch.load(folder / "autoencoder.ckpt", weights_only=True)["model"])
    return model.to(memory_format=torch.channels_last).eval()


def make_shard(world: World, autoencoder: Autoencoder, tokenizer: Any, number: int) -> dict[str, Tensor]:
    """`latents` (SHARD, 4, h, w) float16 as the encoder gives them, `tokens` (SHARD, CAPTIONS, LENGTH) int16.

    `classes` (SHARD, h, w) int8 says which class stands where.
    """
    random = np.random.default_rng([world.seed, 3, number])
    latents, tokens, classes = [], [], []
    for _ in range(SHARD // 64):
        images = []
        for _ in range(64):
            scene = random_scene(world, random)
            images.append(draw(world, scene, world.size, world.size))
            classes.append(class_map(world, scene, world.size // 8))
            texts = [caption(world, scene, random) for _ in range(CAPTIONS)]
            tokens.append(tokenizer(texts, padding="max_length", max_length=LENGTH)["input_ids"])
        with torch.no_grad():
            latents.append(autoencoder.encode(rearrange(torch.from_numpy(np.stack(images)), "b h w c -> b c h w")))
    return {
        "latents": torch.cat(latents).half().contiguous(),
        "tokens": torch.tensor(tokens, dtype=torch.int16),
        "classes": torch.from_numpy(np.stack(classes)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=12)
    args = parser.parse_args()
    from transformers import CLIPTokenizer

    rank, count = runs.join_processes()
    world, autoencoder = load_world(args.world), load_autoencoder(args.out)
    tokenizer = CLIPTokenizer.from_pretrained(world.host_folder / "tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    for number in range(rank, args.shards, count):
        path = args.out / f"latents_{number:03}.pt"
        if not path.exists():
            runs.save_atomically(make_shard(world, autoencoder, tokenizer, number), path)
            print(f"latents: shard {number + 1}/{args.shards}", flush=True)


if __name__ == "__main__":
    main()
