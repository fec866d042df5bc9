"""Checks the zip structure of a file written by torch.save, before anything else reads it.

The format is that of PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3 (zip64). torch.save writes a
plain subset of it (`caffe2/serialize/inline_container.h`): all entries stored, below one top
folder, no comments. Whatever lies outside that subset is refused, so that the reader inside torch
(miniz) cannot understand the file in another way than this check did.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_STORED = 0
_KNOWN_FLAGS = 0x0808  # sizes follow the data (bit 3); names are UTF-8 (bit 11)
_ZIP64_FIELD = 0x0001
_IN_ZIP64 = 0xFFFFFFFF

# A 5B model has some 1,200 entries: one per tensor.
_MAX_ENTRIES = 50_000
_MAX_DIRECTORY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """The bytes of one entry: where they start in the file, and how many there are."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the central directory."""

    name: bytes
    flags: int
    size: int
    header: int


def read_bytes(file: int, offset: int, size: int) -> bytes:
    """Read exactly `size` bytes from the file descriptor `file`.

    Raises:
        ValueError: they are not all there.
    """
    found = os.pread(file, size, offset)
    if len(found) != size:
        raise ValueError("the file is cut short")
    return found


def _fields(form: struct.Struct, signature: bytes, file: int, offset: int) -> tuple[Any, ...]:
    if offset < 0:
        raise ValueError("the file is cut short")
    found, *fields = form.unpack(read_bytes(file, offset, form.size))
    if found != signature:
        raise ValueError("the file is cut short, or its zip directory is damaged")
    return tuple(fields)


def _directory_span(file: int, size: int) -> tuple[int, int, int]:
    """Offset, length and entry count of the central directory."""
    position = size - _END.size
    end = _fields(_END, b"PK\x05\x06", file, position)
    disk, directory_disk, count_here, count, length, offset, comment = end
    locator = position - _END64_LOCATOR.size
    if locator > 0 and read_bytes(file, locator, 4) == b"PK\x06\x07":
        position = locator - _END64.size
        disk64, offset64, disks = _fields(_END64_LOCATOR, b"PK\x06\x07", file, locator)
        end64 = _fields(_END64, b"PK\x06\x06", file, position)
        if offset64 != position or end64[0] != _END64.size - 12 or disk64 or disks != 1:
            raise ValueError("its zip64 records contradict one another")
        for small, large in zip(end[:6], end64[3:], strict=True):
            if small != large and small not in (0xFFFF, _IN_ZIP64):
                raise ValueError("its zip and zip64 records contradict one another")
        disk, directory_disk, count_here, count, length, offset = end64[3:]
    if disk or directory_disk or count_here != count or comment:
        raise ValueError("it is a zip file of several parts or with a comment")
    if count > _MAX_ENTRIES or length > _MAX_DIRECTORY_BYTES:
        raise ValueError(f"it claims {count} entries in a directory of {length} bytes")
    if offset + length != position:
        raise ValueError("its zip directory is not where the file says")
    return offset, length, count


def _zip64_values(extra: bytes) -> tuple[int, ...]:
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        value = extra[position + 4 : position + 4 + length]
        if kind == _ZIP64_FIELD:
            return struct.unpack(f"<{len(value) // 8}Q", value[: len(value) // 8 * 8])
        position += 4 + length
    return ()


def _entries(directory: bytes, count: int) -> Iterator[_Entry]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise ValueError("its zip directory has fewer entries than it claims")
        found = _CENTRAL.unpack_from(directory, position)
        signature, _, _, flags, method, _, _, _, packed, size = found[:10]
        name_length, extra_length, comment_length, disk, _, _, header = found[10:]
        start = position + _CENTRAL.size
        name = directory[start : start + name_length]
        extra = directory[start + name_length : start + name_length + extra_length]
        position = start + name_length + extra_length + comment_length
        if signature != b"PK\x01\x02" or disk or comment_length or position > len(directory):
            raise ValueError("its zip directory is damaged")
        wide = iter(_zip64_values(extra))
        size, packed, header = (
            next(wide, _IN_ZIP64) if value == _IN_ZIP64 else value
            for value in (size, packed, header)
        )
        if method != _STORED or packed != size:
            raise ValueError("it is a compressed zip file, which torch.save never writes")
        if flags & ~_KNOWN_FLAGS:
            raise ValueError("it is an encrypted or patched zip file")
        yield _Entry(name, flags, size, header)
    if position != len(directory):
        raise ValueError("its zip directory has more entries than it claims")


def _record(file: int, entry: _Entry) -> Record:
    """The span of an entry's bytes, by its local header, which must say what the directory says."""
    header = read_bytes(file, entry.header, _LOCAL.size + len(entry.name))
    found = _LOCAL.unpack_from(header)
    signature, _, flags, method, _, _, _, packed, size, name_length, extra_length = found
    sizes_follow = flags & 0x0008 and packed == size == 0
    sizes_agree = {packed, size} <= {entry.size, _IN_ZIP64}
    if (
        signature != b"PK\x03\x04"
        or (flags, method, name_length) != (entry.flags, _STORED, len(entry.name))
        or header[_LOCAL.size :] != entry.name
        or not (sizes_follow or sizes_agree)
    ):
        raise ValueError("its zip directory and the headers of its entries contradict one another")
    return Record(entry.header + len(header) + extra_length, entry.size)


def _parts(name: bytes) -> list[str]:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise ValueError(f"an entry has the name {name!a}") from None
    parts = text.split("/")
    if not text.isprintable() or "\\" in text or {"", ".", ".."} & set(parts) or len(parts) < 2:
        raise ValueError(f"an entry has the name {text[:80]!a}")
    return parts


def read_records(file: int) -> dict[str, Record]:
    """Check the zip structure of an open file; give its entries, without their top folder.

    Takes a descriptor and one read per entry: nothing is mapped, and the data is not touched.

    Raises:
        ValueError: why it is not a zip file such as torch.save writes.
    """
    offset, length, count = _directory_span(file, os.fstat(file).st_size)
    entries = sorted(
        _entries(read_bytes(file, offset, length), count), key=lambda entry: entry.header
    )
    # miniz takes the first entry whose name is equal up to the case of ASCII letters.
    if len({entry.name.lower() for entry in entries}) != len(entries):
        raise ValueError("two of its entries have the same name")
    if not entries or entries[0].header != 0 or entries[-1].header >= offset:
        raise ValueError("its entries are not where its zip directory says")
    names = [_parts(entry.name) for entry in entries]
    if len({parts[0] for parts in names}) != 1:
        raise ValueError("its entries lie in several folders")
    records = [_record(file, entry) for entry in entries]
    limits = [following.header for _, following in pairwise(entries)] + [offset]
    if any(r.offset + r.size > limit for r, limit in zip(records, limits, strict=True)):
        raise ValueError("its entries overlap, or reach beyond the end of the file")
    return {"/".join(parts[1:]): r for parts, r in zip(names, records, strict=True)}
