"""Unpacks a tarball while it streams past, and lets nothing through that its lock doesn't name.

`tarfile` parses the headers and nothing else. Left to itself it accepts duplicates, links, junk
after the end and an archive cut between two members; every such tarball is refused here.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from weights.download import Source
from weights.errors import OperationError
from weights.lock import Lock, LockedFile
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
    """The tarball is not as its lock, or the tar format, says."""

    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(found)


class _Stream:
    """The tarball as a file that only moves forward; counts and hashes every byte."""

    def __init__(self, source: Source, lock: Lock, progress: Progress | None) -> None:
        self._source = source
        self._limit = lock.size if lock.pinned else None
        self._progress = progress
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.last_header = b""

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end."""
        data = self._source.read(count)
        while len(data) < count and (more := self._source.read(count - len(data))):
            data += more
        self.sha256.update(data)
        self.size += len(data)
        if self._limit is not None and self.size > self._limit:
            raise _MismatchError("goes on after its end", f"It has {self._limit} bytes by the lock")
        if self._progress:
            self._progress(len(data))
        return data

    # The three methods that tarfile calls, for headers and for the padding between members.

    def read(self, count: int) -> bytes:
        if not 0 <= count <= CHUNK_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        self.last_header = self.take(count)
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


def _check_member(member: tarfile.TarInfo, path: str) -> None:
    problem = path_problem(path)
    if problem is None and not (member.isfile() or member.isdir()):
        problem = "is a link or a device"
    if problem is None and (member.issparse() or member.size < 0):
        problem = "is stored in an odd way"
    if problem:
        raise _MismatchError(
            f"holds {path!r}, which {problem}",
            "Regular files and directories with plain names are expected",
        )


def _check_known(path: str, size: int, seen: dict[str, LockedFile], lock: Lock) -> None:
    if path in seen:
        raise _MismatchError(f"holds {path!r} twice", "Each file is expected once")
    if not lock.pinned:
        return
    known = next((file for file in lock.files if file.path == path), None)
    if known is None:
        raise _MismatchError(f"holds {path!r}", "The lock names no such file")
    if known.size != size:
        raise _MismatchError(
            f"holds {path!r} with {size} bytes", f"It has {known.size} bytes by the lock"
        )


def _write(stream: _Stream, size: int, path: str, folder: Path) -> LockedFile:
    sha256 = hashlib.sha256()
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
    return LockedFile(path, size, f"sha256:{sha256.hexdigest()}")


def _read_end(stream: _Stream) -> None:
    """The end of a tar: two blocks of zeros or more, of which tarfile has read one."""
    block = bytes(tarfile.BLOCKSIZE)
    expected = "An end mark is expected after the last file, and nothing after it"
    if stream.last_header != block or stream.take(tarfile.BLOCKSIZE) != block:
        raise _MismatchError("ends without an end mark", expected)
    while data := stream.take(CHUNK_BYTES):
        if data.strip(b"\0"):
            raise _MismatchError("goes on after its end", expected)


def _compare(contents: Contents, lock: Lock) -> None:
    digests = {file.path: file.digest for file in contents.files}
    for file in lock.files:
        if file.path not in digests:
            raise _MismatchError(f"does not hold {file.path!r}", "The lock names it")
        if digests[file.path] != file.digest:
            raise _MismatchError(
                f"holds {file.path!r} with the digest {digests[file.path]}",
                f"The lock says {file.digest}",
            )
    if (contents.size, contents.digest) != (lock.size, lock.digest):
        raise _MismatchError(
            f"has {contents.size} bytes with the digest {contents.digest}",
            f"The lock says {lock.size} bytes with the digest {lock.digest}",
        )


def _unpack(stream: _Stream, folder: Path, lock: Lock) -> Contents:
    files: dict[str, LockedFile] = {}
    for member in _members(stream):
        path = member.name.removeprefix("./")
        if path == "." and member.isdir():
            continue
        _check_member(member, path)
        if member.isfile():
            _check_known(path, member.size, files, lock)
            files[path] = _write(stream, member.size, path, folder)
    _read_end(stream)
    digest = f"sha256:{stream.sha256.hexdigest()}"
    return Contents(stream.size, digest, tuple(files[path] for path in sorted(files)))


def unpack(
    source: Source, folder: Path, lock: Lock, *, progress: Progress | None = None
) -> Contents:
    """Unpack the tarball from `source` into the new directory `folder`; return what it held.

    Of a pinned lock every size and digest is checked, and that there is exactly what it names. Of
    an unpinned one nothing is known; the rules of names and kinds hold all the same. `progress` is
    called with numbers of the tarball's bytes. After an error, `folder` holds a part of the files.

    Raises:
        OperationError: the tarball is not what the lock says, or the download broke.
        OSError: a file can't be written.
    """
    try:
        contents = _unpack(_Stream(source, lock, progress), folder, lock)
        if lock.pinned:
            _compare(contents, lock)
        return contents
    except _MismatchError as error:
        raise OperationError(
            f"The tarball at {source.url} {error.found}.",
            f"{error.expected}.",
            "Nothing was installed. Fetch again, or get the lock that belongs to this tarball.",
        ) from None
