"""The files of a dataset's folder that count, in the order of their numbers."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath

_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")


def is_hidden(path: PurePath) -> bool:
    """Whether a relative path is hidden, or the file system's or a zip program's own."""
    return any(part.startswith(".") or part in _JUNK for part in path.parts)


def natural_order(path: PurePath) -> list[tuple[int, str]]:
    """A sort key that puts 2.mp4 before 10.mp4."""
    parts = re.split(r"([0-9]+)", path.as_posix())
    return [(int(part) if part.isdecimal() else -1, part) for part in parts]


def visible_entries(folder: Path) -> list[Path]:
    """What is directly in `folder`.

    Raises:
        OSError: it can't be read.
    """
    entries = [path for path in folder.iterdir() if not is_hidden(path.relative_to(folder))]
    return sorted(entries, key=natural_order)


def visible_below(folder: Path) -> Iterator[Path]:
    """All that is in `folder` and in the folders below it, folders too, by number and name.

    Files may be links, as in the Hugging Face cache; linked folders are not entered.

    Raises:
        OSError: a folder can't be read.
    """
    paths = [path.relative_to(folder) for path in folder.rglob("*")]
    for path in sorted(filter(lambda path: not is_hidden(path), paths), key=natural_order):
        yield folder / path
