"""The micro world's words as a CLIP tokenizer: bytes, merges, and every word of its captions as one token."""

import argparse
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from .spec import DEFAULT_WORLD, World, load_world


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "comfyui_microworld" / "tokenizer")
    args = parser.parse_args()
    write_tokenizer(load_world(args.world), args.out)


if __name__ == "__main__":
    main()
