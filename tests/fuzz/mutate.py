"""Bytes that nobody meant: flips, cuts, odd numbers, and JSON and CSV of the wrong shape."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from histoxai.store.records import with_checksum

NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**12)
ODD_NUMBERS = (
    *map(str, NUMBERS),
    "1e308",
    "1e999",
    "-0.0",
    "0.1",
    "NaN",
    "Infinity",
    "-Infinity",
    "9" * 400,
    "0x1",
    "१",
)
WORDS = (
    *("", " ", "\0", "\n", "\r", "\ufeff", "\u202e", "\ud800", "é", "e\u0301", "𝔛", "a" * 70_000, "../../etc/passwd"),
    *("/etc/passwd", "..", ".", "~", "a/b", "C:\\x", "<script>alert(1)</script>", "'; rm -rf ~ #", "$(touch x)", "`x`"),
    *(
        "\\input{x}",
        "%s%n",
        "{0}",
        "[red]",
        "\x1b[31m",
        "NaN",
        "null",
        "true",
        "float64",
        "<U9",
        "object",
        "|O",
        "s3://b/c",
    ),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [None], {"": 0}, 0.5, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**12, 10**400),
    *(1e308, float("nan"), float("inf"), -0.0, [1] * 40, [10**6, 10**6, 10**6, 3]),
    *WORDS,
)


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One to four mutations of a file; of JSON and text more often by their structure than by their bytes."""
    if rng.random() < 0.01:
        return b""
    if rng.random() < 0.6:
        try:
            return _json(data, rng)
        except (ValueError, RecursionError):
            pass
        if _is_text(data):
            for _ in range(rng.randint(1, 3)):
                data = rng.choice(_TEXT)(data, rng)
            return data
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = _splice(data, rng, others) if others and rng.random() < 0.05 else rng.choice(_BYTES)(data, rng)
    return data


def _is_text(data: bytes) -> bool:
    return bool(data) and b"\0" not in data[:4096] and sum(b < 9 for b in data[:4096]) == 0


def resealed(data: bytes) -> bytes:
    """JSON with its checksum renewed, as somebody does who means harm; anything else as it is."""
    try:
        value = json.loads(data)
        return json.dumps(with_checksum({k: v for k, v in value.items() if k != "checksum"})).encode()
    except (ValueError, RecursionError, AttributeError):
        return data


# ---- bytes


def _place(data: bytes, rng: random.Random) -> int:
    # headers are where parsers go wrong: half of all mutations fall into the first or last 256 bytes
    if len(data) > 512 and rng.random() < 0.5:
        return rng.randrange(256) if rng.random() < 0.7 else len(data) - 1 - rng.randrange(256)
    return rng.randrange(len(data)) if data else 0


def _put(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at + len(piece) :]


def flip(data: bytes, rng: random.Random) -> bytes:
    """One bit."""
    at = _place(data, rng)
    return _put(data, at, bytes([data[at] ^ 1 << rng.randrange(8)])) if data else data


def _byte(data: bytes, rng: random.Random) -> bytes:
    return _put(data, _place(data, rng), bytes([rng.choice((0, 1, 10, 32, 127, 128, 254, 255, rng.randrange(256)))]))


def _number(data: bytes, rng: random.Random) -> bytes:
    size, order = rng.choice("BHIQ"), rng.choice("<>")
    value = rng.choice(NUMBERS) % 2 ** (8 * struct.calcsize(size))
    return _put(data, _place(data, rng), struct.pack(order + size, value))


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _drop(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 4, 16, 200)) :]


def _double(data: bytes, rng: random.Random) -> bytes:
    at, length = _place(data, rng), rng.choice((1, 2, 4, 16, 200))
    return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 16, 200))) + data[at:]


def _zero(data: bytes, rng: random.Random) -> bytes:
    # what a file system that lost its journal leaves
    return _put(data, _place(data, rng), bytes(rng.choice((16, 200, 4096))))[: len(data)]


def _digits(data: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return flip(data, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(ODD_NUMBERS).encode() + data[match.end() :]


def _word(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    word = rng.choice(WORDS).encode("utf-8", "surrogatepass")
    return _put(data, at, word) if rng.random() < 0.5 else data[:at] + word + data[at:]


def _splice(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: _place(data, rng)] + other[_place(other, rng) :]


_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(flip, flip, _byte, _byte, _number, _number, _cut, _drop, _double, _insert, _zero, _digits, _word),
)


# ---- text


def _line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines[at:at] = [lines[at]] * rng.choice((1, 2, 500))
        case 2:
            lines[at] = rng.choice(lines)
        case _:
            rng.shuffle(lines)
    return b"\n".join(lines)


def _cell(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    cells = lines[at].split(b",")
    value = rng.choice((*WORDS, *ODD_NUMBERS)).encode("utf-8", "surrogatepass")
    cells[rng.randrange(len(cells))] = rng.choice((value, b'"', b'"a,b"', b",", b"'" + value))
    lines[at] = b",".join(cells)
    return b"\n".join(lines)


def _encoding(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32", "cp500")), "replace")


_TEXT: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _line,
    _cell,
    _cell,
    _digits,
    _digits,
    _word,
    _cut,
    _encoding,
)


# ---- JSON


def _json(data: bytes, rng: random.Random) -> bytes:
    value = json.loads(data)
    if rng.random() < 0.03:
        depth = rng.choice((500, 5_000, 100_000))
        return rng.choice((b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(value, rng)
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []
    _places(value, places)
    if not places:
        return rng.choice(ODD_VALUES)
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(WORDS)] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder[key : key + 1] = [holder[key]] * rng.choice((2, 3, 1000))
        case 3:
            holder[key] = [holder[key]]
        case 4:
            other, name = rng.choice(places)
            try:
                holder[key] = json.loads(json.dumps(other[name]))
            except (KeyError, IndexError):
                holder[key] = None
        case _:
            holder[key] = rng.choice(ODD_VALUES)
    return value


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inner in pairs[:200]:
        found.append((value, key))
        _places(inner, found)
