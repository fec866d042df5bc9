"""Builds zip files whose every field can lie, with holes for entries that are huge.

The fields are those of PKWARE's APPNOTE.TXT, 4.3.7 (local header), 4.3.12 (central directory),
4.3.14 to 4.3.16 (end records).
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LOCAL = ("version", "flags", "method", "time", "date", "crc", "packed", "size", "name", "extra")
_CENTRAL = (
    *("made_by", "version", "flags", "method", "time", "date", "crc", "packed", "size"),
    *("name", "extra", "comment", "disk", "internal", "external", "offset"),
)
_END = ("disk", "directory_disk", "here", "count", "length", "offset", "comment")
_END64 = ("record", "made_by", "version", "disk", "directory_disk")
_END64 += ("here", "count", "length", "offset")


@dataclass(frozen=True)
class Hole:
    """Bytes of zero that take no room on disk."""

    size: int


Chunk = bytes | Hole


def length(chunk: Chunk) -> int:
    return chunk.size if isinstance(chunk, Hole) else len(chunk)


@dataclass
class Entry:
    """One stored file. `local` and `central` replace fields of its two headers."""

    name: str | bytes
    data: Chunk = b""
    local: dict = field(default_factory=dict)
    central: dict = field(default_factory=dict)
    central_extra: bytes = b""
    local_name: bytes | None = None

    @property
    def raw_name(self) -> bytes:
        return self.name.encode() if isinstance(self.name, str) else self.name


def _crc(data: Chunk) -> int:
    # torch takes no notice of the sum of what it maps, and holes are never read.
    return 0 if isinstance(data, Hole) else zlib.crc32(data)


def _pack(form: str, signature: bytes, names: Sequence[str], values: dict) -> bytes:
    return struct.pack(form, signature, *(values.get(name, 0) for name in names))


def _local(entry: Entry) -> bytes:
    name = entry.raw_name if entry.local_name is None else entry.local_name
    size = length(entry.data)
    values = {"crc": _crc(entry.data), "packed": size, "size": size, "name": len(name)}
    values |= entry.local
    return _pack("<4s5H3L2H", b"PK\x03\x04", _LOCAL, values) + name


def _central(entry: Entry, offset: int) -> bytes:
    name, size = entry.raw_name, length(entry.data)
    values = {"packed": size, "size": size, "name": len(name), "offset": offset}
    values |= {"crc": _crc(entry.data), "extra": len(entry.central_extra)} | entry.central
    head = _pack("<4s6H3L5H2L", b"PK\x01\x02", _CENTRAL, values)
    return head + name + entry.central_extra


def forge(
    entries: Sequence[Entry],
    end: dict | None = None,
    end64: dict | None = None,
    locator: int | None = None,
) -> list[Chunk]:
    """The chunks of a zip file.

    Args:
        entries: in the order of the file and of the directory.
        end: replaces fields of the end record.
        end64: adds zip64 records, with these fields replaced.
        locator: replaces the offset of the zip64 record.
    """
    chunks: list[Chunk] = []
    directory, position = b"", 0
    for entry in entries:
        header = _local(entry)
        directory += _central(entry, position)
        chunks += [header, entry.data]
        position += len(header) + length(entry.data)
    values = {"count": len(entries), "here": len(entries)}
    values |= {"length": len(directory), "offset": position}
    chunks.append(directory)
    if end64 is not None:
        wide = {"record": 44} | values | end64
        chunks.append(_pack("<4sQ2H2L4Q", b"PK\x06\x06", _END64, wide))
        place = position + len(directory) if locator is None else locator
        chunks.append(struct.pack("<4sLQL", b"PK\x06\x07", 0, place, 1))
    chunks.append(_pack("<4s4H2LH", b"PK\x05\x06", _END, values | (end or {})))
    return chunks


def write(path: Path, chunks: Sequence[Chunk]) -> None:
    with path.open("wb") as file:
        for chunk in chunks:
            if isinstance(chunk, Hole):
                file.seek(chunk.size, 1)
            else:
                file.write(chunk)
        file.truncate()


def torch_file(pickled: Chunk, data: dict[str, Chunk] | None = None) -> list[Entry]:
    """The entries of a file as torch.save writes it, around the given pickle."""
    data = {"0": bytes(16)} if data is None else data
    return [
        Entry("archive/data.pkl", pickled),
        Entry("archive/byteorder", b"little"),
        *(Entry(f"archive/data/{key}", content) for key, content in data.items()),
        Entry("archive/version", b"3\n"),
    ]
