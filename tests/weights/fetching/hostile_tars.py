"""The attack corpus: tarballs that a careless reader unpacks outside, partly or wrongly.

Each holds a weights folder's files and something hostile among them, or is a right one spoiled.
The destination of the tests is named `w`; `outside` is a folder beside it, with a file `kept`.
"""

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 512
END_MARK = bytes(2 * _BLOCK)
Files = dict[str, bytes]


class Writer:
    """Writes members as they are given, however odd; `offsets` has where the files' bytes begin."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.offsets: dict[str, int] = {}

    def add(
        self,
        name: str,
        data: bytes = b"",
        *,
        format: int = tarfile.PAX_FORMAT,
        size: int | None = None,
        **fields: object,
    ) -> None:
        """A member; `size` is what its header says where that is not the truth."""
        member = tarfile.TarInfo(name)
        member.size = len(data) if size is None else size
        for field, value in fields.items():
            setattr(member, field, value)
        self.data += member.tobuf(format) + data + bytes(-len(data) % _BLOCK)

    def header(self, name: bytes, kind: bytes, size: bytes, data: bytes = b"") -> None:
        """A raw header with fields that tarfile would not write."""
        member = tarfile.TarInfo("x")
        member.type = kind
        block = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
        block[:100] = name.ljust(100, b"\0")
        block[124:136] = size.ljust(12, b"\0")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        self.data += block + data + bytes(-len(data) % _BLOCK)

    def add_files(self, files: Files) -> None:
        for path, data in files.items():
            self.add(path, data)
            self.offsets[path] = len(self.data) - len(data) - (-len(data) % _BLOCK)


@dataclass(frozen=True, slots=True)
class HostileTar:
    """The tarball, and where the bytes of each file begin, as far as they are there."""

    data: bytes
    offsets: dict[str, int]


# What adds the hostile members to a half-written tarball.
Add = Callable[[Writer, Path], object]


def _link(kind: bytes, name: str, target: str) -> Add:
    return lambda tar, outside: tar.add(
        name, type=kind, linkname=target.replace("OUTSIDE", str(outside))
    )


def _all(*adds: Add) -> Add:
    return lambda tar, outside: [add(tar, outside) for add in adds]


def _member(name: str, data: bytes = b"evil", **fields: object) -> Add:
    return lambda tar, outside: tar.add(name.replace("OUTSIDE", str(outside)), data, **fields)  # type: ignore[arg-type]


def _raw(name: bytes, kind: bytes, size: bytes = b"00000000000") -> Add:
    return lambda tar, outside: tar.header(name, kind, size)


_NEGATIVE = b"\xff" * 10 + (-2048 % (1 << 16)).to_bytes(2, "big")
_SPARSE = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}
_HUGE_SPARSE = {
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.realsize": str(1 << 44),
}

# Members that a reader must refuse, each with the reason that is told where nothing else is known.
MEMBERS: dict[str, tuple[Add, str]] = {
    "parent": (_member("../outside/evil"), r"has the part '\.\.'"),
    "parent further down": (_member("vae/../../outside/evil"), r"has the part '\.\.'"),
    "sibling prefix": (_member("../w-evil/x"), r"has the part '\.\.'"),
    "sibling prefix of the temporary folder": (
        _member("../w.partial-evil/x"),
        r"has the part '\.\.'",
    ),
    "absolute": (_member("OUTSIDE/evil"), "is absolute"),
    "folder outside": (_member("../evil/", type=tarfile.DIRTYPE, data=b""), "has the part"),
    "long name outside": (
        _member(f"{'d/' * 80}{'../' * 81}outside/evil", format=tarfile.GNU_FORMAT),
        "has the part",
    ),
    "header for all outside": (
        lambda tar, outside: tar.data.extend(
            tarfile.TarInfo.create_pax_global_header({"path": "../outside/evil"})
        ),
        "has the part|twice",
    ),
    "symlink and a file through it": (
        _all(_link(tarfile.SYMTYPE, "sub", "OUTSIDE"), _member("sub/evil")),
        "is a link",
    ),
    "symlink upwards and a file through it": (
        _all(_link(tarfile.SYMTYPE, "sub", ".."), _member("sub/outside/evil")),
        "is a link",
    ),
    "symlink to a file and the file again": (
        _all(_link(tarfile.SYMTYPE, "x", "OUTSIDE/kept"), _member("x")),
        "is a link",
    ),
    "hard link and the file again": (
        _all(_link(tarfile.LNKTYPE, "x", "OUTSIDE/kept"), _member("x")),
        "is a link",
    ),
    "hard link upwards": (_link(tarfile.LNKTYPE, "x", "../outside/kept"), "is a link"),
    "hard link inside": (_link(tarfile.LNKTYPE, "x", "model_index.json"), "is a link"),
    "character device": (
        _member("x", data=b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        "is a link or a device",
    ),
    "block device": (_member("x", data=b"", type=tarfile.BLKTYPE), "is a link or a device"),
    "pipe": (_member("x", data=b"", type=tarfile.FIFOTYPE), "is a link or a device"),
    "unknown kind": (_member("x", type=b"V"), "is a link or a device"),
    "duplicate": (_all(_member("twice", b"{}"), _member("twice")), "twice"),
    "duplicate with a dot": (_all(_member("twice", b"{}"), _member("./twice")), "twice"),
    "file and folder": (_all(_member("x"), _member("x/evil")), "holds 'x"),
    "folder and file": (
        _all(_member("x", data=b"", type=tarfile.DIRTYPE), _member("x/y"), _member("x")),
        "holds 'x'",
    ),
    "marker": (_member(".install.json", b"{}"), "kept for installs"),
    "marker with a dot": (_member("./.install.json", b"{}"), "kept for installs|'.'"),
    "marker as a folder": (_member(".install.json/x", b"{}"), "kept for installs"),
    "newline": (_member("a\nb"), "control character"),
    "terminal escape": (_member("a\x1b[31mb"), "control character"),
    "text direction": (_member("a\u202eb"), "control character"),
    "nul": (_member("x", pax_headers={"path": "a\0b"}), "control character|can't be unpacked"),
    "not utf-8": (_member("a\udcff"), "not UTF-8"),
    "backslash": (_member("..\\outside\\evil"), "backslash"),
    "long part": (_member("n" * 300), "more than 255 bytes"),
    "too deep": (_member("d/" * 3000 + "x"), "holds 'd/d"),
    "sparse": (_member("x", pax_headers=_SPARSE), "odd way"),
    "sparse of 16 TB": (_member("x", pax_headers=_HUGE_SPARSE), "odd way|can't be unpacked"),
    "old sparse": (_raw(b"x", b"S"), "odd way|can't be unpacked"),
    "bad sparse map": (
        _member("x", pax_headers=_SPARSE | {"GNU.sparse.map": "a,b"}),
        "can't be unpacked",
    ),
    "huge header": (_member("x", pax_headers={"comment": "x" * (2 << 20)}), "a header of 2"),
    "header that says it is huge": (_raw(b"x", b"x", b"77777777777"), "a header of 858993459"),
    "long name that says it is huge": (_raw(b"x", b"L", b"77777777777"), "a header of 858993459"),
    "size of words": (
        _member("x", pax_headers={"size": "many"}),
        "can't be unpacked|without an end mark",
    ),
    "negative size": (_raw(b"x", b"0", _NEGATIVE), "odd way|can't be unpacked"),
    "negative size of a folder": (_raw(b"x", b"5", _NEGATIVE), "odd way|can't be unpacked"),
    "size beyond the end": (_raw(b"x", b"0", b"00077777777"), "ends within 'x'|can't be unpacked"),
}


def _with_members(files: Files, add: Add, outside: Path, place: int) -> HostileTar:
    """The hostile members after the first `place` files."""
    tar = Writer()
    items = list(files.items())
    tar.add_files(dict(items[:place]))
    add(tar, outside)
    tar.add_files(dict(items[place:]))
    return HostileTar(bytes(tar.data) + END_MARK, tar.offsets)


def honest_tar(files: Files) -> HostileTar:
    tar = Writer()
    tar.add_files(files)
    return HostileTar(bytes(tar.data) + END_MARK, tar.offsets)


def tar_with(name: str, files: Files, outside: Path) -> HostileTar:
    """The tarball with the members that MEMBERS has under `name` in its middle."""
    return _with_members(files, MEMBERS[name][0], outside, len(files) // 2)


def tar_through_a_link(files: Files, outside: Path) -> HostileTar:
    """A link in the place of a folder, so that the right files below it are written through it."""
    return _with_members(files, _link(tarfile.SYMTYPE, "vae", "OUTSIDE"), outside, 0)


# Each spoils a right tarball: of some every file is whole, of others files are missing.
SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "trailing junk": lambda data: data + b"x",
    "trailing blocks of junk": lambda data: data + b"x" * 4096,
    "a second archive": lambda data: data + data,
    "junk instead of an end mark": lambda data: data[:-1024] + b"x" * 1024,
    "one block of junk, then zeros": lambda data: data[:-1024] + b"x" * 512 + bytes(2048),
    "no end mark": lambda data: data[:-1024],
    "half an end mark": lambda data: data[:-512],
    "an end mark cut within a block": lambda data: data[:-300],
    "cut before a member": lambda data: data[: _start_of_last_member(data)],
    "cut before a member, with an end mark": (
        lambda data: data[: _start_of_last_member(data)] + END_MARK
    ),
    "cut within a header": lambda data: data[: _start_of_last_member(data) + 100],
    "cut within a file": lambda data: data[: len(data) // 3],
    "an end mark in the middle": lambda data: (
        data[: _start_of_last_member(data)] + END_MARK + data[_start_of_last_member(data) :]
    ),
    "only an end mark": lambda data: END_MARK,
    "no byte": lambda data: b"",
    "no tar": lambda data: b"<html>Sign in</html>".ljust(len(data), b" "),
}


def _start_of_last_member(data: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()[-1].offset
