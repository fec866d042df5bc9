"""Zip files that lie about what is in them, or are bombs."""

import io
import struct
import zipfile
from collections.abc import Iterator

from forged_zip import Chunk, Entry, Hole, forge, torch_file
from pickle_attacks import whole

_GOOD = whole()


def _packed(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _joined(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))


def _bombs() -> Iterator[tuple[str, list[Chunk]]]:
    zeros = bytes(20_000_000)
    names = {f"archive/data/{i}": zeros for i in range(3)}
    yield "deflated-bomb", [_packed({"archive/data.pkl": _GOOD, **names})]
    inner = _packed({"archive/data.pkl": zeros})
    yield "nested-bomb", forge(torch_file(inner))
    yield "deflated-pickle", [_packed({"archive/data.pkl": _GOOD + zeros})]
    yield "pickle-of-three-gigabytes", forge(torch_file(Hole(3_000_000_000)))
    entries = torch_file(_GOOD)
    entries[-1].data = Hole(3_000_000_000)
    yield "version-of-three-gigabytes", forge(entries)
    many = [Entry(f"archive/data/{i}") for i in range(60_000)]
    yield "sixty-thousand-entries", forge([*torch_file(_GOOD), *many])


def _names() -> Iterator[tuple[str, list[Chunk]]]:
    for label, name in (
        ("parent", "archive/../../evil"),
        ("absolute", "/etc/cron.d/evil"),
        ("backslash", "archive\\..\\evil"),
        ("null", b"archive/a\0b"),
        ("terminal-codes", "archive/\x1b[2J"),
        ("not-utf-8", b"archive/\xff\xfe"),
        ("empty", b""),
        ("folder", "archive/data/"),
        ("drive", "C:\\evil"),
        ("other-folder", "elsewhere/data/1"),
        ("no-folder", "evil"),
    ):
        yield f"name-{label}", forge([*torch_file(_GOOD), Entry(name, b"x")])
    evil = whole(b"cos\nsystem\n" + b"N\x85R")
    doubles = [Entry("archive/data.pkl", evil)]
    yield "duplicate-name", forge(torch_file(_GOOD) + doubles)
    yield "duplicate-name-first", forge(doubles + torch_file(_GOOD))
    upper = [Entry("archive/DATA.PKL", evil)]
    yield "duplicate-name-by-case", forge(upper + torch_file(_GOOD))
    hidden = torch_file(_GOOD)
    hidden[0].local_name = b"archive/code.pkl"
    yield "name-differs-in-local-header", forge(hidden)


def _with(index: int = 0, **changes) -> list[Chunk]:
    entries = torch_file(_GOOD)
    for name, value in changes.items():
        setattr(entries[index], name, value)
    return forge(entries)


def _headers() -> Iterator[tuple[str, list[Chunk]]]:
    yield "local-size-lies", _with(2, local={"size": 4, "packed": 4})
    yield "central-size-lies", _with(2, central={"size": 4, "packed": 4})
    yield (
        "both-sizes-huge",
        _with(2, local={"size": 2**31, "packed": 2**31}, central={"size": 2**31, "packed": 2**31}),
    )
    yield "packed-size-lies", _with(2, central={"size": 2**31})
    yield "local-method-lies", _with(2, local={"method": 8})
    yield "central-method-lies", _with(2, central={"method": 8})
    yield "unknown-method", _with(2, local={"method": 99}, central={"method": 99})
    yield "encrypted", _with(0, local={"flags": 1}, central={"flags": 1})
    yield "flags-differ", _with(0, local={"flags": 8})
    yield "entry-on-another-disk", _with(1, central={"disk": 1})
    yield "entries-overlap", _with(2, central={"offset": 0})
    yield "entry-inside-another", _with(2, local={"extra": 0xFFFF})
    yield "entry-in-the-directory", _with(3, central={"offset": 400})
    yield "entry-beyond-the-end", _with(3, central={"offset": 2**32 - 2})
    yield "central-name-too-long", _with(3, central={"name": 0xFFFF})
    yield "central-comment-too-long", _with(3, central={"comment": 0xFFFF})
    quoted = torch_file(_GOOD)
    quoted[2].central = {"size": 60, "packed": 60}
    quoted[2].local = {"size": 60, "packed": 60}
    yield "entry-quotes-the-next-header", forge(quoted)
    for label, value in (("size", 2**63), ("minus-one", 2**64 - 1)):
        extra = struct.pack("<2H2Q", 1, 16, value, value)
        wide = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": len(extra)}
        yield f"zip64-{label}-lies", _with(2, central=wide, central_extra=extra)
    extra = struct.pack("<2HQ", 1, 8, 2**63 - 1)
    far = {"offset": 0xFFFFFFFF, "extra": len(extra)}
    yield "zip64-offset-lies", _with(2, central=far, central_extra=extra)
    wide = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}
    yield "zip64-field-missing", _with(2, central=wide)
    yield "zip64-field-cut", _with(2, central=wide | {"extra": 4}, central_extra=b"\1\0\xff\xff")


def _ends() -> Iterator[tuple[str, list[Chunk]]]:
    good = torch_file(_GOOD)
    whole_file = _joined(forge(good))
    yield "directory-cut", [whole_file[:-60]]
    yield "end-record-cut", [whole_file[:-1]]
    yield "end-record-missing", [whole_file[:-22]]
    yield "local-header-only", [whole_file[:40]]
    yield "count-too-small", forge(good, end={"count": 1, "here": 1})
    yield "count-too-large", forge(good, end={"count": 65535, "here": 65535})
    yield "counts-differ", forge(good, end={"here": 1})
    yield "directory-length-lies", forge(good, end={"length": 2**31})
    yield "directory-offset-lies", forge(good, end={"offset": 0})
    yield "several-disks", forge(good, end={"disk": 1})
    yield "comment-with-a-second-end", [*forge(good, end={"comment": 22}), whole_file[-22:]]
    yield "trailing-bytes", [whole_file, b"more"]
    yield "two-files-in-one", [whole_file, whole_file]
    yield "prefix-before-the-zip", [b"PK\x03\x04", bytes(96), whole_file]
    yield "zip64-count-lies", forge(good, end64={"count": 2**40, "here": 2**40})
    large = {"count": 0xFFFF, "here": 0xFFFF, "length": 0xFFFFFFFF, "offset": 0xFFFFFFFF}
    yield "zip64-count-huge", forge(good, large, {"count": 2**63, "here": 2**63})
    yield "zip64-offset-huge", forge(good, large, {"offset": 2**63})
    yield "zip64-length-huge", forge(good, large, {"length": 2**63, "offset": 2**63})
    yield "zip64-elsewhere", forge(good, large, {}, locator=4)
    yield "zip64-far-away", forge(good, large, {}, locator=2**63)
    yield "zip64-record-length-lies", forge(good, large, {"record": 2**63})
    yield "zip64-absent", forge(good, large)
    yield "no-entries", [forge([])[-1]]
    yield "no-pickle", forge(good[1:])
    yield "another-zip", [_packed({"word/document.xml": b"<xml/>"})]
    yield "byteorder-unknown", _with(1, data=b"middle")
    yield "byteorder-big", _with(1, data=b"big")


def attacks() -> Iterator[tuple[str, list[Chunk]]]:
    """File names and contents."""
    for group in (_bombs(), _names(), _headers(), _ends()):
        for name, chunks in group:
            yield f"zip-{name}.pt", chunks
