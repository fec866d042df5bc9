"""Where finished files wait until Cog has sent them."""

import os
import stat
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from weights.errors import OperationError

# Cog never deletes what a prediction returns; an hour is far more than any upload takes.
KEEP_SECONDS = 3600


def output_directory() -> Path:
    """The one directory that this user's outputs lie in, below the temporary directory."""
    return Path(tempfile.gettempdir()) / f"cogvideox-outputs-{os.geteuid()}"


def new_output(suffix: str, kind: str = "video") -> Path:
    """A path for one output that no other has, its directory made and rid of old files.

    The name is unique everywhere, because Cog uploads a file under its own name. Whatever is old
    goes, also what a process that was killed left half-written.

    Args:
        suffix: with its dot: ".mp4".
        kind: what the name begins with.

    Raises:
        OperationError: another user of this machine has put something in the directory's place.
    """
    directory = output_directory()
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    _require_ours(directory)
    _remove_older_than(directory, time.time() - KEEP_SECONDS)
    return directory / f"{kind}-{uuid.uuid4().hex}{suffix}"


def _require_ours(directory: Path) -> None:
    """Others may write to /tmp: what they prepared there would lead writing and sweeping astray."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OperationError(
            f"{directory} is not a directory of this server's own.",
            "Another user of this machine must not be able to choose where outputs go.",
            "Remove it, or set TMPDIR to a directory that only this user can write to.",
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        directory.chmod(0o700)


def _remove_older_than(directory: Path, moment: float) -> None:
    for path in directory.iterdir():
        # Another server of this user may sweep the same directory at the same time.
        try:
            found = path.lstat()
            if found.st_mtime < moment and not stat.S_ISDIR(found.st_mode):
                path.unlink()
        except FileNotFoundError:
            continue
