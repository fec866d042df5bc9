""".safetensors files whose headers lie. The format is that of the safetensors README."""

import json
import struct
from collections.abc import Iterator
from typing import Any

from forged_zip import Chunk, Hole


def entry(shape: Any = (2,), span: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


def raw(header: bytes, data: Chunk = bytes(8)) -> list[Chunk]:
    return [struct.pack("<Q", len(header)), header, data]


def file(entries: Any, data: Chunk = bytes(8)) -> list[Chunk]:
    return raw(json.dumps(entries).encode(), data)


def _headers() -> Iterator[tuple[str, list[Chunk]]]:
    good = json.dumps({"a": entry()}).encode()
    for label, size in (
        ("2-63", 2**63),
        ("2-64", 2**64 - 1),
        ("past-the-end", 1000),
        ("zero", 0),
        ("too-short", len(good) - 5),
    ):
        yield f"header-length-{label}", [struct.pack("<Q", size), good, bytes(8)]
    yield "header-of-99-megabytes", [struct.pack("<Q", 99_000_000), b"{", Hole(99_000_000)]
    yield "header-full-of-dicts", raw(b'{"a":[' + b"{}," * 10_000_000 + b"{}]}")
    yield "header-full-of-dicts-allowed-size", raw(b'{"a":[' + b"{}," * 1_300_000 + b"{}]}")
    yield "header-not-json", raw(b"{this is not JSON}")
    yield "header-not-utf-8", raw(b'{"\xff\xfe": 1}')
    yield "header-a-list", raw(json.dumps([entry()]).encode())
    yield "header-empty", raw(b"")
    yield "header-deep-lists", raw(b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}")
    yield "header-deep-dicts", raw(b'{"a":' * 400_000 + b"1" + b"}" * 400_000)
    yield "header-deep-enough-to-print", raw(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}")
    yield "duplicate-tensor-name", raw(good[:-1] + b"," + good[1:])
    twice = b'{"a":{"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,8]}}'
    yield "duplicate-field", raw(twice)
    yield "duplicate-metadata", raw(b'{"__metadata__":{},"__metadata__":{},' + good[1:])
    yield "no-tensors", file({"__metadata__": {}}, b"")
    yield "field-missing", file({"a": {"dtype": "F32", "shape": [2]}})
    yield "field-unknown", file({"a": entry() | {"code": "import os"}})
    yield "entry-not-a-dict", file({"a": 5})
    yield "trailing-brace", raw(good + b"}")
    yield "only-a-length", [struct.pack("<Q", 8)]


def _entries() -> Iterator[tuple[str, list[Chunk]]]:
    nan = float("nan")
    for name, fields in (
        ("offsets-past-the-end", entry((200,), (0, 800))),
        ("offsets-2-63", entry((2,), (2**63, 2**63 + 8))),
        ("offsets-negative", entry((2,), (-8, 0))),
        ("offsets-reversed", entry((2,), (8, 0))),
        ("offsets-nan", entry((2,), (nan, nan))),
        ("offsets-infinite", entry((2,), (0, float("inf")))),
        ("offsets-fractions", entry((2,), (0.0, 8.0))),
        ("offsets-three", entry((2,), (0, 8, 8))),
        ("offsets-text", entry((2,), ("0", "8"))),
        ("offsets-a-million", entry((2,), list(range(500_000)))),
        ("gap-before-the-first", entry((1,), (4, 8))),
        ("gap-after-the-last", entry((1,), (0, 4))),
        ("shape-of-2-62", entry((2**62,), (0, 8))),
        ("shape-that-overflows", entry((2**32, 2**32, 2**32), (0, 0))),
        ("shape-negative", entry((-1, -2), (0, 8))),
        ("shape-of-booleans", entry((True, 2), (0, 8))),
        ("shape-nan", entry((nan,), (0, 8))),
        ("shape-of-a-million", entry([2] * 1_000_000)),
        ("shape-of-endless-numbers", entry([10**4000] * 1000)),
        ("shape-number-too-long", entry([0])),
        ("dtype-unknown", entry(dtype="F128")),
        ("dtype-a-list", entry(dtype=["F32"])),
        ("dtype-a-megabyte", entry(dtype="F" * (1 << 20))),
    ):
        chunks = file({"a": fields})
        if name == "shape-number-too-long":
            chunks = raw(json.dumps({"a": fields}).replace("[0]", f"[{'9' * 5000}]").encode())
        yield name, chunks
    two = {"a": entry((2,), (0, 8)), "b": entry((2,), (4, 12))}
    yield "overlapping-spans", file(two, bytes(12))
    same = {"a": entry((2,), (0, 8)), "b": entry((2,), (0, 8))}
    yield "same-span-twice", file(same)
    apart = {"a": entry((1,), (0, 4)), "b": entry((1,), (8, 12))}
    yield "hole-between", file(apart, bytes(12))
    yield "data-cut", file({"a": entry()}, bytes(7))
    yield "data-left-over", file({"a": entry()}, bytes(9))


def _names() -> Iterator[tuple[str, list[Chunk]]]:
    """Names are only ever keys; these are refused all the same, see conversion/checkpoint.py."""
    for label, name in (
        ("parent-path", "../../x"),
        ("absolute-path", "/etc/passwd"),
        ("windows-path", "..\\..\\x"),
        ("drive", "C:\\x"),
        ("null", "a\0b"),
        ("empty", ""),
        ("dots", ".."),
        ("terminal-codes", "\x1b[2J"),
        ("right-to-left", "\u202egnp.x"),
        ("lone-surrogate", "\ud800"),
        ("two-lines", "a\nb"),
        ("megabyte", "a" * (1 << 20)),
    ):
        yield f"name-{label}", file({name: entry()})


def attacks() -> Iterator[tuple[str, list[Chunk]]]:
    """File names and contents."""
    for group in (_headers(), _entries(), _names()):
        for name, chunks in group:
            yield f"safetensors-{name}.safetensors", chunks
    # The content decides, whatever the name says.
    yield "safetensors-named-pt.pt", file({"a": entry((200,), (0, 800))})
