"""What a file is made into: odd values in what it holds, and damaged bytes. All of it follows from a random generator."""

import collections
import io
import json
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import nn

DTYPES = [
    torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.bool, torch.int64,
    torch.uint8, torch.int32,
]  # fmt: skip
NAMES = ["F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "F8_E8M0", "BOOL", "C64", "I64", "U8", "X"]
HUGE = [2**31 - 1, 2**31, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**30, -1, -(2**31), 0, 1]
LARGEST = 50_000_000  # letters of JSON; what is changed twice may name one list a million times
TEXTS = ["", "x" * 10_000, "half \ud800", "a\nb\n" * 200, "1e999", "NaN", "embedding:", "../../etc", "\0", "猫" * 400]
CELLS = [
    "colour: fine in 1-2", "colour: fine in 1-99999999999", "colour: fine in " + "9" * 5000, "stages: nan", "stages: 1, 2, 3",
    "stages: " + "5, " * 3000, "colour" * 2000, "colour: input " + "9" * 5000, "colour: all in 1-9", "a: b: c", "object: coarse\n" * 90,
]  # fmt: skip


class Called:
    """A value that calls something where it is read."""

    def __init__(self, function: Any, *values: Any):
        self.function, self.values = function, values

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.values


def odd_tensor(random: Random) -> Any:
    """Sparse, quantised, without numbers, of numbers that are not there, of another type or shape, not finite."""
    width = random.choice([768, 768, 1280, 1024, 8, 0, 1])
    base = torch.full(
        (random.choice([0, 1, 2, 75]), width), random.choice([0.5, 0.0, float("nan"), float("inf"), 3e38])
    )
    count = 10 ** random.randint(3, 9)
    return random.choice([
        lambda: base,
        lambda: base[:0],
        lambda: base.to_sparse(),
        lambda: base.to_sparse_csr(),
        lambda: torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (count, width or 1)),
        lambda: torch.quantize_per_tensor(base.nan_to_num(0, 0, 0), 0.1, 0, torch.qint8),
        lambda: torch.empty(count, width, device="meta"),
        lambda: torch.zeros(1, max(width, 1)).expand(count, max(width, 1)),
        lambda: torch.zeros(1, max(width, 1), dtype=torch.float16).expand(random.randint(2, 3000), max(width, 1)),
        lambda: torch.as_strided(torch.zeros(2000), (900, 768), (1, 1)),
        lambda: base.to(random.choice(DTYPES)),
        lambda: base.to(random.choice(DTYPES)),
        lambda: base.T,
        lambda: base[None],
        lambda: base.reshape(-1),
        lambda: torch.tensor(random.choice([1.0, float("nan")])),
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        lambda: nn.Parameter(base),
        lambda: torch.zeros([1] * random.randint(3, 70)),
    ])()  # fmt: skip


def odd(random: Random) -> Any:
    """Any value that a file can hold where something else belongs."""

    def shared() -> Any:
        value = odd_tensor(random)
        for _ in range(random.randint(1, 12)):
            value = [value] * random.choice([2, 10, 30]) if random.random() < 0.7 else {"a": value, "b": value}
        return value

    def circle() -> Any:
        value: list[Any] = []
        value.append(value)
        return value

    def deep() -> Any:
        value: Any = odd_tensor(random)
        for _ in range(random.randint(2, 150)):
            value = [value] if random.random() < 0.5 else {"string_to_param": value}
        return value

    return random.choice([
        lambda: odd_tensor(random),
        lambda: odd_tensor(random),
        lambda: random.choice(HUGE),
        lambda: random.choice([None, True, 1.5, float("nan"), float("inf"), b"bytes", (1, 2), [], {}, set(), 1j]),
        lambda: random.choice(TEXTS),
        lambda: nn.ParameterDict({"*": nn.Parameter(torch.ones(2, random.choice([768, 3])))}),
        lambda: {"*": odd_tensor(random)},
        lambda: [odd_tensor(random)] * random.choice([2, 50, 5000]),
        lambda: {str(i): value for value in [odd_tensor(random)] for i in range(random.choice([2, 300]))},
        lambda: [{f"w{i}": value} for value in [torch.ones(random.choice([2, 500]), 768)] for i in range(random.choice([2, 3000]))],
        shared,
        circle,
        deep,
        lambda: random.choice([torch.Size([1, 2]), torch.float32, torch.device("cpu")]),
        lambda: collections.OrderedDict(a=odd_tensor(random)),
        lambda: Called(random.choice([bytearray, torch.Tensor, torch.Size]), random.choice([10, 2 * 10**9])),
        lambda: Called(random.choice([print, eval, exec, open]), "x"),
    ])()  # fmt: skip


def changed(value: Any, random: Random, other: Callable[[Random], Any] = odd) -> Any:
    """The same tree of lists and dictionaries but for one place of it, which is another value, gone, or there again."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        tree = dict(value)
        key = random.choice(list(tree))
        what = random.random()
        if what < 0.65:
            tree[key] = changed(tree[key], random, other)
        elif what < 0.75:
            del tree[key]
        elif what < 0.9:
            name: Any = random.choice(
                [*TEXTS, "clip_g", "clip_l.colour", "IN01", "bundle_emb.a.clip_l", 5, None, (1, 2), b"k"]
            )
            tree[name] = tree[key] if random.random() < 0.5 else other(random)
        else:
            tree[random.choice(list(tree))] = tree[key]
        return tree
    if isinstance(value, (list, tuple)) and value and random.random() < 0.8:
        items = list(value)
        at = random.randrange(len(items))
        if random.random() < 0.7:
            items[at] = changed(items[at], random, other)
        elif random.random() < 0.5:
            del items[at]
        else:
            items *= random.choice([2, 3, 500])
        return type(value)(items) if type(value) in (list, tuple) else items
    return other(random)


# ---- files


def pickled(tree: Any, random: Random) -> bytes:
    """By torch, in its zip or in its older form; nothing where it cannot."""
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(tree, file, _use_new_zipfile_serialization=random.random() < 0.75)
    except Exception:  # what cannot be pickled is no file
        return b""
    return file.getvalue()


def safetensors(entries: dict[str, Any], metadata: dict[str, Any], random: Random, change: bool = True) -> bytes:
    """Written by hand, so that its header may say anything."""
    data, header = bytearray(), dict[str, Any]()
    for name, tensor in entries.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        kind = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}.get(tensor.dtype, "F32")
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header["__metadata__"] = metadata

    def other(random: Random) -> Any:
        return random.choice([
            lambda: random.choice(NAMES),
            lambda: random.choice(HUGE),
            lambda: [random.choice(HUGE) for _ in range(random.randint(0, 70))],
            lambda: random.choice(TEXTS),
            lambda: random.choice(CELLS),
            lambda: random.choice([None, 1.5, True, {}, []]),
            lambda: [0, len(data)],
        ])()  # fmt: skip

    for _ in range(random.randint(1, 3) if change else 0):
        header = changed(header, random, other)
    text = written(header, random).encode(errors="surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def written(tree: Any, random: Random) -> str:
    """JSON, as far as that can hold the tree, and up to LARGEST."""

    def plain(value: Any) -> Any:
        return f"a {type(value).__name__}"

    try:
        parts, size = list[str](), 0
        for part in json.JSONEncoder(default=plain, ensure_ascii=random.random() < 0.5).iterencode(tree):
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                break
        return "".join(parts)
    except (ValueError, TypeError, RecursionError):  # names that are no text, numbers of too many digits
        return "[" * random.choice([10, 2000, 200_000]) + "]" * random.choice([0, 10, 2000])


def odd_json(random: Random) -> Any:
    return random.choice([
        lambda: random.choice(HUGE),
        lambda: 10 ** random.choice([400, 4000]),
        lambda: random.choice([None, True, 0.5, float("nan"), float("inf"), -0.1, 1e-320, [], {}, [[]]]),
        lambda: random.choice(TEXTS),
        lambda: [random.choice([0, 0.25, 0.5, 1, 2]) for _ in range(random.randint(0, 6))],
        lambda: [[0, 0, 1, 1]] * random.choice([1, 2, 3000]),
    ])()  # fmt: skip


# ---- bytes


def cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def flipped(data: bytes, random: Random) -> bytes:
    found = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8, 64])):
        end = len(found) if random.random() < 0.5 else min(len(found), 400)  # where headers are
        found[random.randrange(end)] ^= 1 << random.randrange(8)
    return bytes(found)


def swapped(data: bytes, random: Random) -> bytes:
    """Two pieces in each other's place, one twice, one gone, or one of zeros."""
    a, b = sorted(random.randrange(len(data)) for _ in range(2))
    c = min(len(data), b + random.choice([1, 8, 64, 1000]))
    return random.choice([
        data[:a] + data[b:c] + data[a:b] + data[c:],
        data[:b] + data[a:b] + data[b:],
        data[:a] + data[b:],
        data[:a] + bytes(b - a) + data[b:],
    ])  # fmt: skip


def sized(data: bytes, random: Random) -> bytes:
    """A huge number where a size may stand."""
    form, number = random.choice(["<Q", "<I", ">Q", ">I", "<H"]), random.choice(HUGE)
    raw = struct.pack(form, number % 2 ** (8 * struct.calcsize(form)))
    at = random.choice(
        [
            0,
            random.randrange(len(data)),
            random.randrange(min(len(data), 200)),
            max(0, len(data) - random.randint(1, 90)),
        ]
    )
    return data[:at] + raw + data[at + len(raw) :]


def counted(data: bytes, random: Random) -> bytes:
    """Other numbers in the text of a header."""
    places = list(re.finditer(rb"\d+", data[:20_000]))
    if not places:
        return flipped(data, random)
    at = random.choice(places)
    return data[: at.start()] + str(random.choice([*HUGE, 10**400])).encode() + data[at.end() :]


def spliced(data: bytes, random: Random, other: bytes) -> bytes:
    """Begins as one file and goes on as another."""
    return data[: random.randrange(len(data))] + other[random.randrange(len(other) or 1) :]


def renumbered(raw: bytes, random: Random) -> bytes:
    """A pickle, or several, with some of its numbers huge."""
    places: list[tuple[int, int]] = []
    stream = io.BytesIO(raw)
    try:
        while len(places) < 5000:
            for operation, _, at in pickletools.genops(stream):
                if at is not None and operation.name in ("BININT", "BININT1", "BININT2"):
                    places.append((at, 1 + {"BININT": 4, "BININT1": 1, "BININT2": 2}[operation.name]))
    except Exception:  # after the last pickle comes what is none
        pass
    for at, size in sorted(random.sample(places, min(len(places), random.choice([1, 2, 5]))), reverse=True):
        number = random.choice(HUGE)
        new = pickle.dumps(number, 2)[2:-1]
        raw = raw[:at] + new + raw[at + size :]
    return raw


def rezipped(data: bytes, random: Random) -> bytes:
    """A zip whose parts are damaged, and whose checksums say that they are right."""
    try:
        parts = {
            entry: zipfile.ZipFile(io.BytesIO(data)).read(entry)
            for entry in zipfile.ZipFile(io.BytesIO(data)).namelist()
        }
    except Exception:
        return renumbered(data, random)
    names = list(parts)
    name = (
        next((one for one in names if one.endswith("data.pkl")), names[0])
        if random.random() < 0.8
        else random.choice(names)
    )
    damage = random.choice([renumbered, renumbered, flipped, cut, swapped, sized])
    if parts[name]:
        parts[name] = damage(parts[name], random)
    packed = random.random() < 0.2
    if packed and random.random() < 0.3:
        parts[name] += bytes(10 ** random.choice([3, 5, 7, 8]))
    if random.random() < 0.1:
        del parts[random.choice(names)]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, raw in parts.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), raw, archive.compression)
    return file.getvalue()


DAMAGES = [cut, flipped, swapped, sized, counted]
