"""Whether something fits on a disk, said before the work begins."""

import shutil
from pathlib import Path

from weights.byte_sizes import shown_size
from weights.errors import OperationError


def check_space(folder: Path, needed: int) -> None:
    """Check that `needed` bytes fit on the disk of `folder`, which need not be there yet.

    Raises:
        OperationError: they don't.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OperationError(
            f"The disk of {folder.absolute()} has {shown_size(free)} free.",
            f"{shown_size(needed)} are needed.",
            "Free some space, or choose a place on another disk.",
        )
