"""A folder that appears under its name when it is complete, or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from weights.errors import UserError


def check_destination(destination: Path) -> None:
    """Raises UserError when `destination` cannot become a new folder."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(
            f"{destination} is there already.",
            "A path that does not exist yet, or an empty folder, is expected.",
            "Remove it or choose another.",
        )


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """Gives a folder beside `destination` to write to; renames it when the block ends well.

    Whatever else ends the block, Ctrl-C included, removes it and leaves nothing at `destination`.

    Raises:
        UserError: `destination` is taken.
    """
    check_destination(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-", dir=destination.parent))
    try:
        # mkdtemp keeps others out; a finished folder has the permissions of any other.
        partial.chmod(0o755)
        yield partial
        with suppress(FileNotFoundError):
            destination.rmdir()
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
