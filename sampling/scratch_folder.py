"""A folder for what only one run needs, gone with it, however it ends.

The embeddings of thousands of prompts are gigabytes, and workers that are killed leave videos that
were not whole yet: what a killed run left is removed by the next.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "cogvideox-sample-"
# Locked for as long as its run lives; the kernel frees the lock of a killed one.
_LOCK = ".in-use"


@contextmanager
def scratch_folder(place: Path | None = None) -> Iterator[Path]:
    """A new folder in `place`, else in the temporary directory, removed at the end.

    It is for files, and has one more: that of its lock.
    """
    place = Path(tempfile.gettempdir()) if place is None else place
    _sweep(place)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # Under another name until it is locked: what has no lock is not swept.
        new = folder / f"{_LOCK}.new"
        with new.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            new.rename(folder / _LOCK)
            try:
                yield folder
            finally:
                with suppress(OSError):
                    _remove(folder)


def _sweep(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        # Gone meanwhile, in use, or not ours.
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with (folder / _LOCK).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the lock last: what a removal leaves that is cut short is then removed by the next."""
    for path in folder.iterdir():
        if path.name != _LOCK:
            path.unlink()
    (folder / _LOCK).unlink()
    folder.rmdir()
