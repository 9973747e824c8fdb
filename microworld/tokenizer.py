"""The micro world's words as a CLIP tokenizer: bytes, merges, and every word of its captions as one token."""

import argparse
import json
import re
from pathlib import Path

from .spec import DEFAULT_WORLD, World, load_world


def words_of(world: World) -> list[str]:
    """Every word a caption can hold, and each punctuation mark."""
    texts = [w for synonyms in world.words.values() for w in synonyms] + list(world.colors)
    texts += [p["word"] for p in world.patterns.values()] + [r["phrase"] for r in world.rooms.values()]
    texts += [text for forms in world.captions.values() for text in forms] + ["an", ","]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+|,", text)})


def write_tokenizer(world: World, folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = words_of(world)
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=100_000, min_frequency=0, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [f"{letter}</w>" for letter in letters]
    tokens += list(dict.fromkeys("".join(merge) for merge in merges if "".join(merge) not in set(tokens)))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    missing = [word for word in words if f"{word}</w>" not in tokens]
    assert not missing, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, default=DEFAULT_WORLD)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "comfyui_microworld" / "tokenizer")
    args = parser.parse_args()
    write_tokenizer(load_world(args.world), args.out)


if __name__ == "__main__":
    main()
