"""The micro world's words as a CLIP tokenizer: bytes, merges, and every word of its captions as one token."""

import argparse
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from .spec import DEFAULT_WORLD, TEXT_HEADS, World, load_world


def words_of(world: World) -> list[str]:
    """Every word a caption can hold, and each punctuation mark."""
    texts = [w for word, spec in world.words.items() for w in (word, *spec.synonyms)] + list(world.colors)
    texts += [p["word"] for p in world.patterns.values()] + [r["phrase"] for r in world.rooms.values()]
    texts += [text for forms in world.captions.values() for text in forms] + ["an", ","]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+|,", text)})


def merges_of(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until every word is one token: the most frequent pair first, of equals the first in the alphabet.

    The trainer of `tokenizers` breaks ties by chance, and a resumed run must find its words under the same numbers.
    """
    spelt = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for parts in spelt for pair in pairwise(parts)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in spelt:
            for at in reversed(range(len(parts) - 1)):
                if (*parts[at : at + 2],) == best:
                    parts[at : at + 2] = ["".join(best)]
    return merges


def write_tokenizer(world: World, folder: Path) -> None:
    merges = merges_of(words_of(world))
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [f"{letter}</w>" for letter in letters]
    tokens += ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


def text_encoder(width: int) -> dict[str, Any]:
    """The text encoder's configuration, as ComfyUI's CLIP classes want it."""
    return {
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": TEXT_HEADS,
        "intermediate_size": 4 * width,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
    }


def write_text_encoder(world: World, folder: Path) -> None:
    """`tokenizer/` and `text_encoder.json`."""
    write_tokenizer(world, folder / "tokenizer")
    (folder / "text_encoder.json").write_text(json.dumps(text_encoder(world.model.width), indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    args = parser.parse_args()
    world = load_world(args.world)
    write_text_encoder(world, world.host_folder)


if __name__ == "__main__":
    main()
