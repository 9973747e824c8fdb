"""What we know of ComfyUI's CLIP: its tokenizers, embeddings on the wire, columns of words."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy.sd1_clip import SDClipModel, expand_directory_list
from torch import Tensor

from ..concept import Concept, check_family, check_name, is_ours, mixed, read_concept
from ..prompts.vocabulary import Vocabulary
from ..sentences import quoted
from .model import non_dynamic

KEYS = ("clip_l", "clip_g", "clip_h")
SUFFIXES = (".safetensors", ".pt", ".bin")
ENDING = r"(?:\.(?:safetensors|pt|bin)(?![\w.-]))?"  # which ComfyUI takes behind an embedding's name
SUPPORTED = "the text encoders of SD 1.x, SD 2.x and SDXL are supported"
_vocabularies: WeakKeyDictionary[Any, Vocabulary] = WeakKeyDictionary()


def text_encoders(clip: Any) -> dict[str, Any]:
    """Text-encoder key -> ComfyUI's model of it, in the order in which their outputs are joined.

    Raises:
        ValueError: a CLIP that is not one of SD 1.x, SD 2.x or SDXL.
    """
    model = clip.cond_stage_model
    parts = {name: part for name, part in model.named_children() if isinstance(part, SDClipModel)}
    foreign = any(
        name not in KEYS or not hasattr(part.transformer, "text_model") or part.enable_attention_masks
        for name, part in parts.items()
    )
    if not parts or foreign or hasattr(clip.tokenizer, "t5xxl"):  # SD3 may come without its T5, and joins them its way
        raise ValueError(f'The input "clip" is a {type(model).__name__}; {SUPPORTED}.')
    return {key: parts[key] for key in KEYS if key in parts}


def vocabulary(clip: Any, key: str) -> Vocabulary:
    """The whole words of one text encoder."""
    encoder = text_encoders(clip)[key]
    if encoder not in _vocabularies:
        with torch.inference_mode(False), torch.no_grad():
            inverse = getattr(clip.tokenizer, key).inv_vocab
            pairs = [(t[:-4], i) for i, t in inverse.items() if re.fullmatch(r"[a-z]{2,}</w>", t)]
            pairs.sort(key=lambda pair: pair[1])
            ids = torch.tensor([i for _, i in pairs])
            table = encoder.transformer.get_input_embeddings().weight
            vectors = table.detach().cpu()[ids].float().clone()
            _vocabularies[encoder] = Vocabulary(tuple(word for word, _ in pairs), ids, vectors)
    return _vocabularies[encoder]


def known_concepts(clip: Any) -> Mapping[str, Concept]:
    """The concepts that were applied to this CLIP, by name."""
    return getattr(clip.tokenizer, "compinv_concepts", {})  # stock nodes clone the CLIP; its tokenizer stays


def check_width(clip: Any, concept: Concept) -> None:
    """Raises ValueError when a concept's vectors are not of these text encoders; see `check_family`."""
    encoders = text_encoders(clip).items()
    check_family(
        concept, {key: encoder.transformer.get_input_embeddings().weight.shape[1] for key, encoder in encoders}
    )


def with_concept(clip: Any, concept: Concept) -> Any:
    """A clone of a CLIP that also understands `embedding:<name>`; the CLIP itself is not changed.

    Raises:
        ValueError: the concept's vectors do not fit the text encoders.
    """
    check_width(clip, concept)
    clone = clip.clone()
    clone.tokenizer = copy.copy(clip.tokenizer)
    for key in text_encoders(clip):
        words = copy.copy(getattr(clone.tokenizer, key))
        words._try_get_embedding = _finder(words._try_get_embedding, concept.name, concept.vectors[key])
        if words.embedding_directory is None:
            words.embedding_directory = []
        setattr(clone.tokenizer, key, words)
    clone.tokenizer.compinv_concepts = {**known_concepts(clip), concept.name: concept}
    return clone


def non_dynamic_clip(clip: Any) -> Any:
    """The same CLIP with weights that stay where they are loaded; see `non_dynamic`."""
    patcher = non_dynamic(clip.patcher)
    if patcher is clip.patcher:
        return clip
    clone = clip.clone()
    clone.patcher, clone.cond_stage_model = patcher, patcher.model
    return clone


def towards_class_word(clip: Any, concept: Concept, mix: float) -> Concept:
    """The concept part of the way to its class word: at 0 as learnt, at 1 the class word in place of each vector.

    Raises:
        ValueError: it has no class word, one that is not a single token of a text encoder, or is for other models.
    """
    check_width(clip, concept)
    if not concept.class_word:
        raise ValueError(
            f'The concept "{quoted(concept.name)}" has no class word, which "anchor_mix" mixes in; give it one at Load Concept, '
            "or leave anchor_mix at 0."
        )
    own = f'the class word of "{concept.name}", at Load Concept'
    vectors = {
        key: mixed(concept.vectors[key].float(), vocabulary(clip, key).vector(concept.class_word, own), mix)
        for key in text_encoders(clip)
    }
    return replace(concept, vectors=vectors)


def _finder(stock: Any, name: str, vectors: Tensor) -> Any:
    """The tokenizer's look-up of `embedding:...`, which knows one name more.

    What of the prompt belongs to the name, and what is given back to the text, stays for the stock look-up to say: a prompt
    must mean the same whether the concept comes by wire or by file.
    """

    def find(embedding_name: str) -> tuple[Any, ...]:
        embed, *cleaned, leftover = stock(embedding_name)  # ComfyUI 0.3.75 does not tell the name as it understood it
        called = (cleaned or embedding_name.split() or [""])[0].strip(",")
        return (vectors if re.fullmatch(re.escape(name) + ENDING, called) else embed, *cleaned, leftover)

    return find


def check_new_placeholder(clip: Any, name: str) -> None:
    """Raises ValueError unless `name` may become a new word: typed easily, no ordinary word, no one else's embedding."""
    check_name(name)
    for key in text_encoders(clip):
        if name in vocabulary(clip, key):
            raise ValueError(
                f'The placeholder "{name}" is an ordinary word of this text encoder; choose a made-up name.'
            )
    if name in known_concepts(clip):
        raise ValueError(f'The placeholder "{name}" is already an embedding of this CLIP; choose another name.')
    for directory in _embedding_folders(clip):
        for suffix in SUFFIXES:
            path = directory / f"{name}{suffix}"
            if path.exists() and not is_ours(path):
                raise ValueError(
                    f'The placeholder "{name}" is already an embedding ("{path.name}"); choose another name.'
                )


def _embedding_folders(clip: Any) -> list[Path]:
    """Where ComfyUI looks for the embeddings of a CLIP."""
    found = next((getattr(clip.tokenizer, key).embedding_directory for key in text_encoders(clip)), None) or []
    return [Path(folder) for folder in ([found] if isinstance(found, str) else found)]


def find_concept(clip: Any, name: str) -> Concept | None:
    """What a prompt means by embedding:name: a concept that was applied, or that of a file where ComfyUI looks for it, which is
    also in the folders within.

    Raises:
        ValueError: the file holds no embedding that we know.
    """
    name = re.sub(rf"{ENDING}$", "", name)
    if name in known_concepts(clip):
        return known_concepts(clip)[name]
    if ".." in Path(name).parts:
        return None
    for folder in expand_directory_list([str(folder) for folder in _embedding_folders(clip)]):
        for suffix in SUFFIXES:
            if (file := Path(folder) / f"{name}{suffix}").is_file():
                return read_concept(file)
    return None


def encode(clip: Any, text: str) -> list[Any]:
    """CONDITIONING exactly as the stock CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def check_embeddings(clip: Any, text: str) -> None:
    """Raises ValueError when a prompt has an `embedding:...` that ComfyUI would drop with nothing but a line in its log."""
    key = next(iter(text_encoders(clip)))
    words = copy.copy(getattr(clip.tokenizer, key))
    find = words._try_get_embedding

    def checked(embedding_name: str) -> tuple[Any, ...]:
        if not embedding_name.split():
            raise ValueError(
                f'The prompt "{quoted(text)}" has "embedding:" without a name; write the name right behind it.'
            )
        found = find(embedding_name)
        if found[0] is None:
            applied, name = quoted(", ".join(known_concepts(clip))), embedding_name.split()[0].strip(",")
            of_whom, dot, _ = name.strip(".").rpartition(".")
            if dot and (whole := find_concept(clip, of_whom)) is not None and whole.attributes:
                raise ValueError(
                    f"The prompt's embedding:{quoted(name, 60)} is an attribute of a concept, which Attribute Prompt alone reads; use that node, or "
                    f"write embedding:{quoted(of_whom, 60)} for all of it."
                )
            raise ValueError(
                f"The prompt's embedding:{quoted(name)} is neither applied nor in the embeddings folder; "
                f"{f'applied: {applied}' if applied else 'no concept is applied'}."
            )
        return found

    words._try_get_embedding = checked
    words.tokenize_with_weights(text)


# ---- columns


def _rows(clip: Any, text: str) -> list[list[tuple[Any, int]]]:
    """Chunks of (token or vector, word id) of the first text encoder; all of them are in step."""
    name = next(iter(text_encoders(clip))).removeprefix("clip_")
    chunks = clip.tokenize(text, return_word_ids=True)[name]
    return [[(entry[0], entry[2]) for entry in chunk] for chunk in chunks]


def _whole(phrase: str) -> str:
    """The pattern of a phrase as whole words."""
    return rf"(?<![\w-]){re.escape(phrase)}(?![\w-])"


WEIGHT = r"(?<!\\)[()]|(?<=\w):\d+(\.\d+)?(?=\))"
"""The pattern of what gives words a weight in a prompt: brackets that are not text, and the number before one that closes."""
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Japanese and Chinese, whose words no spaces part


def without_weights(text: str) -> str:
    """The words of a part of a prompt, a space between each."""
    return " ".join(re.sub(WEIGHT, "", text).split())


def _as_read(phrase: str) -> str:
    """The pattern of a phrase as CLIP reads it: in any case, however spaced and weighted, of a concept its bare name, too."""
    words = without_weights(phrase).split()
    if not words:
        return r"(?!)"
    spaced = rf"[^\W{UNSPACED}]|-"  # a letter that belongs to the word beside it
    begin = "" if re.match(f"[{UNSPACED}]", words[0]) else rf"(?<!{spaced})"
    end = "" if re.search(f"[{UNSPACED}]$", words[-1]) else rf"(?!{spaced})"
    between = rf"(?:\s|{WEIGHT})+".join(re.escape(word) for word in words)
    return rf"(?i){begin}(?-i:embedding:)?{between}{end}"


def find_phrase(text: str, phrase: str) -> tuple[int, int]:
    """Where a phrase begins and ends in a prompt, in characters: its first occurrence as whole words, or else as CLIP reads it.

    The name of an embedding is no word of the prompt: found in one, it stands for all of `embedding:name`.

    Raises:
        ValueError: the prompt does not have the phrase.
    """
    span = _first(_whole(phrase), text)
    if span is None or text.endswith("embedding:", 0, span[0]):
        span = _first(_as_read(phrase), text)
    if span is not None:
        return span
    name = phrase.removeprefix("embedding:")
    if re.search(_as_read(name), text):
        raise ValueError(
            f'The prompt "{quoted(text)}" has "{quoted(name, 50)}" as an ordinary word; for the concept, write embedding:{quoted(name, 50)} there.'
        )
    raise ValueError(
        f'The subject "{quoted(phrase)}" is not in the prompt "{quoted(text)}" as words of its own; name words that it has.'
    )


def _first(pattern: str, text: str) -> tuple[int, int] | None:
    """Where a pattern is first found. An embedding has its file's ending, and no other's name begins as its own."""
    for match in re.finditer(pattern, text):
        if "embedding:" not in match[0]:
            return match.span()
        ending = re.compile(ENDING).match(text, match.end())
        end = ending.end() if ending else match.end()
        if not re.compile(r"\.\w").match(text, end):
            return match.start(), end
    return None


def columns_in_turn(clip: Any, text: str, phrases: Sequence[str]) -> list[tuple[int, ...]]:
    """Where phrases sit that a prompt has in this order, each in its last place before the next: of "a photo of a photo" the second."""
    found: list[tuple[int, ...]] = []
    end = len(text)
    for phrase in reversed(phrases):
        *_, last = re.finditer(_whole(phrase), text[:end])
        found.insert(0, columns_between(clip, text, *last.span()))
        end = last.start()
    return found


def columns_between(clip: Any, text: str, start: int, end: int) -> tuple[int, ...]:
    """Where the characters `start` to `end` of a prompt sit on the token axis of the encoded prompt.

    Raises:
        ValueError: they are no tokens of their own, or the end of a chunk of 77 tokens cuts them in two.
    """
    phrase = text[start:end]
    if re.search(r"embedding:\s*$", text[:start]):
        raise ValueError(
            f'The subject "{quoted(phrase, 60)}" is within the name of an embedding in the prompt "{quoted(text)}"; name all of it, '
            '"embedding:" and the name, without a space between.'
        )
    rows = _rows(clip, text)
    length = len(rows[0])
    whole = [(c * length + p, token) for c, row in enumerate(rows) for p, (token, word) in enumerate(row) if word]
    before, through = _content(clip, text[:start]), _content(clip, text[:end])
    found = whole[len(before) : len(through)]
    columns = tuple(column for column, _ in found)
    alike = all(_same(token, alone) for (_, token), alone in zip(found, through[len(before) :], strict=False))
    spelt = phrase.startswith("embedding:") and bool(found) and not isinstance(found[0][1], Tensor)  # as plain text
    if spelt or not alike:
        raise ValueError(
            f'The subject "{quoted(phrase)}" is not read as such in the prompt "{quoted(text)}"; put a space before and after it.'
        )
    if len(columns) > length - 2:  # a chunk has a start and an end
        raise ValueError(
            f'The subject "{quoted(phrase)}" has {len(columns)} tokens, and a chunk of the prompt holds {length - 2}, so it is cut in two '
            "wherever it stands; name fewer words, or use a concept of fewer vectors."
        )
    if columns and columns[0] // length != columns[-1] // length:
        raise ValueError(
            f'The subject "{quoted(phrase)}" is cut in two by the end of a chunk of {length} tokens; move it in the prompt.'
        )
    if not columns:
        raise ValueError(f'The subject "{quoted(phrase)}" has no tokens of its own; name a word of the prompt.')
    return columns


def _content(clip: Any, text: str) -> list[Any]:
    """The tokens of a text, without start, end and padding. An open bracket of a weight is left out."""
    text = re.sub(WEIGHT, "", text).rstrip()
    return [token for row in _rows(clip, text) for token, word in row if word] if text else []


def _same(token: Any, other: Any) -> bool:
    if isinstance(token, Tensor) and isinstance(other, Tensor):
        return torch.equal(token, other)
    return type(token) is type(other) and token == other
