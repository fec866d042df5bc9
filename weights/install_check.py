"""Tells whether a folder is an install, and still is as it was installed."""

import hashlib
from collections.abc import Callable
from functools import partial
from os import cpu_count
from pathlib import Path
from threading import Event
from typing import NoReturn

from weights.errors import UserError
from weights.folder import list_files
from weights.lock import Lock, LockedFile, read_lock
from weights.paths import MARKER
from weights.safetensors_header import header_digest, read_header
from weights.side_by_side import run_side_by_side

_READ_BYTES = 256 << 10


class _StoppedError(Exception):
    """Another file's thread failed, or the user interrupted."""


def _refuse(found: str, expected: str) -> NoReturn:
    raise UserError(found, expected, "Install the weights again.")


def _check_file(path: Path, locked: LockedFile) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != locked.size:
        found = "is missing" if size is None else f"has {size} bytes"
        _refuse(f"{path} {found}.", f"It had {locked.size} bytes when it was installed.")
    if path.suffix != ".safetensors":
        return
    if locked.header_digest is None:
        read_header(path)
    elif header_digest(path) != locked.header_digest:
        _refuse(f"{path} has another header.", "It is expected as it was installed.")


def check_install(path: Path) -> Lock:
    """Check that `path` is an install, quickly: its marker, all sizes, all safetensors headers.

    Returns the marker: a pinned lock of the files that are there, of an unpinned lock too. Takes a
    few milliseconds at any size; a flipped bit in a tensor goes unseen.

    Raises:
        UserError: it is not an install, or one that was changed or damaged.
    """
    if not (path / MARKER).is_file():
        what = "is not an install" if path.is_dir() else "is not a folder"
        raise UserError(
            f"{path} {what}.",
            f"A folder with a {MARKER} is expected, as `cogvideox fetch` makes it.",
            "Give the folder of an install, or install the weights there.",
        )
    marker = read_lock(path / MARKER)
    if not marker.pinned:
        _refuse(f"{path / MARKER} has no digests.", "An install's marker has them.")
    for locked in marker.files:
        try:
            _check_file(path / locked.path, locked)
        except OSError as error:
            _refuse(f"{path / locked.path} can't be read ({error.strerror}).", "It is expected.")
    return marker


def _digest(path: Path, progress: Callable[[int], object]) -> str | None:
    """The digest of a file; None if the disk can't read it any more."""
    sha256 = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                sha256.update(data)
                progress(len(data))
    except OSError:
        return None
    return f"sha256:{sha256.hexdigest()}"


def _changed(path: Path, marker: Lock, progress: Callable[[int], object]) -> list[str]:
    """The files whose bytes are not those of the marker."""
    stopped = Event()

    def report(count: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        progress(count)

    tasks = [partial(_digest, path / file.path, report) for file in marker.files]
    digests = run_side_by_side(tasks, cpu_count() or 1, stopped.set, _StoppedError)
    return [
        file.path
        for file, digest in zip(marker.files, digests, strict=True)
        if digest != file.digest
    ]


def verify_install(path: Path, *, progress: Callable[[int], object] | None = None) -> Lock:
    """Check an install wholly: as `check_install`, and every byte of every file, and no other file.

    Returns the marker. `progress` is called with numbers of bytes, by several threads.

    Raises:
        UserError: it is not an install, or one that was changed or damaged; names all such files.
        OSError: a folder can't be read.
    """
    marker = check_install(path)
    changed = _changed(path, marker, progress or (lambda count: None))
    if changed:
        _refuse(
            f"Of {path} these files have other bytes or can't be read: {', '.join(changed)}.",
            "They are expected as they were installed.",
        )
    added = sorted(set(list_files(path)) - {locked.path for locked in marker.files})
    if added:
        raise UserError(
            f"{path} holds files that were not installed: {', '.join(added)}.",
            "Exactly the files of its marker are expected.",
            "Move them away, or install the weights again.",
        )
    return marker
