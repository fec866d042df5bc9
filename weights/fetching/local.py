"""Copies the files of a pinned lock out of a tarball or a folder on this machine, all verified."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from threading import Lock as Mutex
from urllib.parse import urlsplit
from urllib.request import url2pathname

from weights.errors import OperationError
from weights.fetching.landing_folder import LandingFolder, Progress
from weights.fetching.object_urls import file_url, tarball_url
from weights.fetching.settings import FetchSettings
from weights.fetching.web_reader import StoppedError
from weights.lock import Lock, LockedFile
from weights.side_by_side import run_side_by_side

# Each thread copies and hashes a file; more than the cores would only wait for each other.
THREADS = min(8, os.cpu_count() or 1)
_READ_BYTES = 256 << 10


def local_path(url: str) -> Path:
    """The path that a file:// URL means."""
    return Path(url2pathname(urlsplit(url).path))


def _unreadable(path: Path, found: str) -> OperationError:
    return OperationError(
        f"{path} can't be read ({found}).",
        "The weights that the lock names are expected there.",
        "Check the lock's url, then try again.",
    )


def file_chunks(path: Path) -> Iterator[bytes]:
    """All bytes of a file, in chunks.

    Raises:
        OperationError: it can't be read.
    """
    if not path.is_file():
        raise _unreadable(path, "there is no such file")
    yield from _bytes_of(path, 0, path.stat().st_size, Event())


def _bytes_of(path: Path, start: int, size: int, stopped: Event) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            left = size
            while left:
                if stopped.is_set():
                    raise StoppedError
                data = file.read(min(_READ_BYTES, left))
                if not data:
                    raise _unreadable(path, "it ends too early")
                left -= len(data)
                yield data
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from None


def _check_size(path: Path, expected: int | None) -> None:
    if not path.is_file():
        raise _unreadable(path, "there is no such file")
    if path.stat().st_size != expected:
        raise OperationError(
            f"{path} has {path.stat().st_size} bytes.",
            f"By the lock it has {expected}.",
            "Nothing was installed. Get the lock that belongs to it, or copy it again.",
        )


class _Shrinking:
    """A tarball that gives its disk space back from its end, as the files at its end are out."""

    def __init__(self, tarball: Path, lock: Lock) -> None:
        self._tarball = tarball
        self._ends = {file.path: (file.offset or 0) + file.size for file in lock.files}
        self._mutex = Mutex()

    def done(self, file: LockedFile) -> None:
        with self._mutex:
            del self._ends[file.path]
            os.truncate(self._tarball, max(self._ends.values(), default=0))


def extract(
    lock: Lock,
    folder: Path,
    journal: Path,
    settings: FetchSettings,
    progress: Progress,
    *,
    tarball: Path | None = None,
) -> None:
    """Bring the files of a pinned lock with a file:// url into `folder`.

    Reads the bytes at the lock's offsets and nothing else, so that a tarball can't bring anything
    that the lock doesn't name. With `tarball`, that file is taken instead of the lock's and is
    consumed: at no moment does the disk hold more than it and the files being copied.

    Raises:
        UserError: the lock names no place.
        OperationError: something can't be read or is not what the lock says.
        OSError: the disk refuses it.
    """
    whole = None if lock.split else tarball or local_path(tarball_url(lock))
    if whole is not None:
        _check_size(whole, lock.size)
    shrinking = _Shrinking(whole, lock) if whole and tarball else None
    stopped = Event()

    def copy(entry: tuple[int, LockedFile]) -> None:
        index, file = entry
        path = whole or local_path(file_url(lock, file))
        if not whole:
            _check_size(path, file.size)
        landing.check_landed(index)
        while missing := landing.missing_of(index):
            for piece in missing:
                start = (file.offset or 0) + piece.start
                landing.land(piece, _bytes_of(path, start, piece.end - piece.start, stopped))
        if shrinking:
            shrinking.done(file)

    # From the tarball's end to its beginning, so that it can shrink.
    files = sorted(enumerate(lock.files), key=lambda entry: -(entry[1].offset or 0))
    with LandingFolder(lock, folder, journal, settings.piece_bytes, progress) as landing:
        tasks = [partial(copy, entry) for entry in files]
        run_side_by_side(tasks, THREADS, stopped.set, StoppedError)
