"""Pictures that carry an embedding, made without the pack: PNGs chunk by chunk, and A1111's two forms as their readers describe them."""

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def text(key: str, value: bytes, kind: bytes = b"tEXt") -> bytes:
    """A chunk of text: tEXt as it is, zTXt and iTXt compressed."""
    name = key.encode()
    body = {
        b"tEXt": name + b"\0" + value,
        b"zTXt": name + b"\0\0" + zlib.compress(value),
        b"iTXt": name + b"\0\1\0\0\0" + zlib.compress(value),
    }
    return chunk(kind, body[kind])


def png(rows: Sequence[bytes], *texts: bytes, behind: bytes = b"") -> bytes:
    """Rows of RGB, with chunks before the pixels or behind them."""
    head = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return SIGNATURE + chunk(b"IHDR", head) + b"".join(texts) + chunk(b"IDAT", pixels) + behind + chunk(b"IEND", b"")


def plain(*texts: bytes, side: int = 8, behind: bytes = b"") -> bytes:
    return png([bytes([200, 120, 40] * side)] * side, *texts, behind=behind)


def a1111_json(content: dict[str, Any], tensors: Any) -> bytes:
    """Its `.pt` file's content as JSON, nested lists marked as tensors; `tensors` is a name's lists or all names'."""
    marked = {name: {"TORCHTENSOR": lists} for name, lists in tensors.items()}
    return json.dumps({**content, "string_to_param": marked} if content else marked).encode()


def hidden(packed: bytes, height: int = 32) -> bytes:
    """A PNG with bytes in the low bits of two strips, left and right of a picture."""
    columns = -(-len(packed) // (3 * height))
    filled = packed.ljust(columns * 3 * height, b"\0")
    seed, noise = 0, bytearray()
    for _ in filled:
        seed = (1664525 * seed + 1013904223) % 2**32
        noise.append(seed % 255 & 15)
    left = bytes(0x50 | (one & 15) ^ of for one, of in zip(filled, noise, strict=True))
    right = bytes(0xA0 | (one >> 4) ^ of for one, of in zip(filled, noise, strict=True))
    wide, line, picture = 3 * columns, b"\0\0\0", bytes([200, 120, 41] * 40)
    rows = [
        left[i * wide : (i + 1) * wide] + line + picture + line + right[i * wide : (i + 1) * wide]
        for i in range(height)
    ]
    return png(rows)
