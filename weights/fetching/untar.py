"""Unpacks a tarball of which nobody knows the digests, while it streams past.

`tarfile` parses the headers and nothing else. Left to itself it accepts duplicates, links, junk
after the end and an archive cut between two members; every such tarball is refused here.
"""

import hashlib
import tarfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from weights.errors import OperationError
from weights.lock import LockedFile
from weights.paths import path_problem

CHUNK_BYTES = 1 << 20

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a tarball turned out to be: its size in bytes, its digest, its files."""

    size: int
    digest: str
    files: tuple[LockedFile, ...]


class _MismatchError(Exception):
    """The tarball is not a tar, or holds what a weights folder has not."""

    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(found)


class _Stream:
    """The tarball as a file that only moves forward; counts and hashes every byte."""

    def __init__(self, chunks: Iterator[bytes], progress: Progress) -> None:
        self._chunks = chunks
        self._progress = progress
        self._rest = memoryview(b"")
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.last_header = b""

    def take(self, count: int) -> bytes | memoryview:
        """The next `count` bytes, fewer only at the end."""
        if len(self._rest) >= count:
            data: bytes | memoryview = self._rest[:count]
            self._rest = self._rest[count:]
        else:
            data = self._joined(count)
        self.sha256.update(data)
        self.size += len(data)
        self._progress(len(data))
        return data

    def _joined(self, count: int) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < count and (more := next(self._chunks, b"")):
            parts.append(memoryview(more))
            have += len(more)
        data = b"".join(parts)
        self._rest = memoryview(data)[count:]
        return data[:count]

    # The three methods that tarfile calls, for headers and for the padding between members.

    def read(self, count: int) -> bytes:
        if not 0 <= count <= CHUNK_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        self.last_header = bytes(self.take(count))
        return self.last_header

    def seek(self, position: int) -> None:
        if not 0 <= position - self.size < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("a header in a wrong place")
        self.take(position - self.size)

    def tell(self) -> int:
        return self.size


def _members(stream: _Stream) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as tar:
            yield from tar
    except (tarfile.TarError, ValueError) as error:
        raise _MismatchError(
            f"can't be unpacked at byte {stream.size} ({error})",
            "A whole, uncompressed tar is expected",
        ) from None


def _shown(path: str) -> str:
    text = repr(path)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _check_new(path: str, files: Container[str], folders: set[str]) -> None:
    """No file twice, and none in the place of a folder; `folders` learns those of `path`."""
    if path in files:
        raise _MismatchError(f"holds {path!r} twice", "Each file is expected once")
    parents = {str(parent) for parent in list(Path(path).parents)[:-1]}
    both = [parent for parent in sorted(parents) if parent in files]
    both += [path] if path in folders else []
    if both:
        raise _MismatchError(
            f"holds {both[0]!r} as a file and as a folder", "One of them is expected"
        )
    folders |= parents


def _check_member(member: tarfile.TarInfo, path: str) -> None:
    problem = path_problem(path)
    if problem is None and not (member.isfile() or member.isdir()):
        problem = "is a link or a device"
    if problem is None and (member.issparse() or member.size < 0):
        problem = "is stored in an odd way"
    if problem:
        raise _MismatchError(
            f"holds {_shown(path)}, which {problem}",
            "Regular files and directories with plain names are expected",
        )


def _write(stream: _Stream, size: int, path: str, folder: Path) -> LockedFile:
    sha256 = hashlib.sha256()
    offset = stream.size
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    left = size
    with target.open("xb") as file:
        while left:
            data = stream.take(min(left, CHUNK_BYTES))
            if not data:
                raise _MismatchError(f"ends within {path!r}", f"The file has {size} bytes")
            sha256.update(data)
            file.write(data)
            left -= len(data)
    return LockedFile(path, size, f"sha256:{sha256.hexdigest()}", offset)


def _read_end(stream: _Stream) -> None:
    """The end of a tar: two blocks of zeros or more, of which tarfile has read one."""
    block = bytes(tarfile.BLOCKSIZE)
    expected = "An end mark is expected after the last file, and nothing after it"
    if stream.last_header != block or stream.take(tarfile.BLOCKSIZE) != block:
        raise _MismatchError("ends without an end mark", expected)
    while data := stream.take(CHUNK_BYTES):
        if bytes(data).strip(b"\0"):
            raise _MismatchError("goes on after its end", expected)


def _unpack(stream: _Stream, folder: Path) -> Contents:
    files: dict[str, LockedFile] = {}
    folders: set[str] = set()
    for member in _members(stream):
        path = member.name.removeprefix("./")
        if path == "." and member.isdir():
            continue
        _check_member(member, path)
        if member.isfile():
            _check_new(path, files, folders)
            files[path] = _write(stream, member.size, path, folder)
    _read_end(stream)
    digest = f"sha256:{stream.sha256.hexdigest()}"
    return Contents(stream.size, digest, tuple(files[path] for path in sorted(files)))


def unpack(chunks: Iterator[bytes], url: str, folder: Path, progress: Progress) -> Contents:
    """Unpack the tarball that `chunks` are into the directory `folder`; return what it held.

    `url` is for messages. `progress` is called with numbers of the tarball's bytes. After an error,
    `folder` holds a part of the files.

    Raises:
        OperationError: it is no whole tar of regular files and directories with plain names.
        OSError: a file can't be written.
    """
    try:
        return _unpack(_Stream(chunks, progress), folder)
    except _MismatchError as error:
        raise OperationError(
            f"The tarball at {url} {error.found}.",
            f"{error.expected}.",
            "Nothing was installed. Fetch again, or ask whoever made the tarball.",
        ) from None
