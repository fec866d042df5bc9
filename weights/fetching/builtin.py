"""Fetches the files of a pinned lock over HTTP: ranges in parallel, straight to their places.

The lock says where in the tarball each file's bytes are, so that no tar is parsed and nothing but
the lock's files is ever written, whatever the tarball holds besides.
"""

import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from weights.errors import OperationError
from weights.fetching.landing_folder import LandingFolder, Progress
from weights.fetching.object_urls import file_url, tarball_url
from weights.fetching.pieces import Piece
from weights.fetching.settings import FetchSettings
from weights.fetching.web_reader import StoppedError, WebFile, WebReader
from weights.lock import Lock, LockedFile
from weights.side_by_side import run_side_by_side
from weights.urls import shown_url

_Item = TypeVar("_Item")


class _Origins:
    """Where each file of the lock comes from; asked for when it is first needed, once."""

    def __init__(self, lock: Lock, reader: WebReader) -> None:
        self._lock = lock
        self._reader = reader
        self._known: dict[str, WebFile] = {}
        self._guards = {self._key(file): threading.Lock() for file in lock.files}

    def _key(self, file: LockedFile) -> str:
        return file.path if self._lock.split else ""

    def of(self, file: LockedFile) -> WebFile:
        key = self._key(file)
        with self._guards[key]:
            if key not in self._known:
                self._known[key] = self._probe(file)
            return self._known[key]

    def _probe(self, file: LockedFile) -> WebFile:
        split = self._lock.split
        url = file_url(self._lock, file) if split else tarball_url(self._lock)
        expected = file.size if split else self._lock.size
        found = self._reader.probe(url)
        if found.size not in (None, expected):
            raise OperationError(
                f"{shown_url(url)} has {found.size} bytes.",
                f"By the lock it has {expected}.",
                "Nothing was installed. Get the lock that belongs to it, or upload it again.",
            )
        return found


class _Fetch:
    """The threads of one fetch and the pieces they still have to bring."""

    def __init__(self, landing: LandingFolder, origins: _Origins, reader: WebReader) -> None:
        self._landing = landing
        self._origins = origins
        self._reader = reader
        self._missing = deque(landing.missing)
        self._left_from_before = deque(range(len(landing.files)))

    def run(self, connections: int) -> None:
        """Bring everything; the first error of any thread ends all of them."""
        tasks = [self._work] * connections
        run_side_by_side(tasks, connections, self._reader.stop, StoppedError)

    def _work(self) -> None:
        for index in _taken(self._left_from_before):
            self._missing.extend(self._landing.check_landed(index))
        for piece in _taken(self._missing):
            self._missing.extend(self._landing.land(piece, self._chunks(piece)))

    def _chunks(self, piece: Piece) -> Iterator[bytes]:
        locked = self._landing.lock.files[piece.file]
        base = locked.offset or 0
        return self._reader.read(self._origins.of(locked), base + piece.start, base + piece.end)


def _taken(queue: "deque[_Item]") -> Iterator[_Item]:
    """Take from the queue until it is empty; several threads may."""
    while True:
        try:
            yield queue.popleft()
        except IndexError:
            return


def _cut(chunks: Iterator[bytes], files: list[LockedFile]) -> Iterator[Iterator[bytes]]:
    """One iterator of bytes a file, out of the stream of a whole tarball."""
    position, rest = 0, b""

    def take(count: int) -> Iterator[bytes]:
        nonlocal position, rest
        while count:
            rest = rest or next(chunks)
            data, rest = rest[:count], rest[count:]
            position += len(data)
            count -= len(data)
            yield data

    for file in files:
        for _ in take((file.offset or 0) - position):
            pass
        yield take(file.size)


def _fetch_stream(landing: LandingFolder, origin: WebFile, reader: WebReader) -> None:
    """The way with a server that does not do ranges: the tarball from its start to its end."""
    files = sorted(enumerate(landing.lock.files), key=lambda entry: entry[1].offset or 0)
    for index, _ in files:
        landing.check_landed(index)
    while missing := {piece.file for piece in landing.missing}:
        stream = reader.read(origin, 0, landing.lock.size)
        streams = _cut(stream, [file for _, file in files])
        for (index, file), chunks in zip(files, streams, strict=True):
            if index in missing:
                landing.land(Piece(index, 0, 0, file.size), chunks)
            else:
                for _ in chunks:
                    pass


def fetch(
    lock: Lock, folder: Path, journal: Path, settings: FetchSettings, progress: Progress
) -> None:
    """Bring the files of a pinned lock into `folder`; go on with what `journal` says is there.

    Raises:
        UserError: the lock names no place, or a bucket without credentials.
        OperationError: the download failed or is not what the lock says.
        OSError: the disk refuses it.
    """
    reader = WebReader(settings)
    origins = _Origins(lock, reader)
    first = origins.of(max(lock.files, key=lambda file: file.size))
    # Without ranges, each file has to come as one piece.
    piece_bytes = settings.piece_bytes if first.ranges else max(file.size for file in lock.files)
    with LandingFolder(lock, folder, journal, max(piece_bytes, 1), progress) as landing:
        if first.ranges or lock.split:
            _Fetch(landing, origins, reader).run(settings.connections)
        else:
            _fetch_stream(landing, first, reader)
