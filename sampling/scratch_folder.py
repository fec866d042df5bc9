"""A folder for what only one run needs, gone with it, however it ends.

The embeddings of thousands of prompts are gigabytes: what a killed run left is removed by the next.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "cogvideox-prompts-"
# Locked for as long as its run lives; the kernel frees the lock of a killed one.
_LOCK = ".in-use"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in the temporary directory, removed at the end."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # Under another name until it is locked: what has no lock is not swept.
        new = folder / f"{_LOCK}.new"
        with new.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            new.rename(folder / _LOCK)
            yield folder


def _sweep(directory: Path) -> None:
    for folder in directory.glob(f"{_PREFIX}*"):
        # Gone meanwhile, in use, or not ours.
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with (folder / _LOCK).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
