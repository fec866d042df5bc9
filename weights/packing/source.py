"""What both ways of packing begin with: the files as they are, and proof that they stay so."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weights.errors import OperationError, UserError
from weights.folder import WeightsFolder, check_weights_folder, list_files
from weights.lock import NAME
from weights.urls import PLACES, url_problem

# Small enough to stay in the processor's cache from the read to the last digest.
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileState:
    """Size in bytes and time of the last change in ns since 1970: what every write changes."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class PackSource:
    """A weights folder that is packed, and the files it had at the start, sorted by path."""

    folder: WeightsFolder
    files: dict[str, FileState]

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def _file_states(folder: Path) -> dict[str, FileState]:
    states = {}
    for path in list_files(folder):
        if os.fsencode(path) != path.encode():
            raise UserError(
                f"The locale's encoding is not UTF-8, so {path!r} is not the file's real name.",
                "Names in UTF-8 are expected: the tarball must be the same on every machine.",
                "Set the environment variable PYTHONUTF8=1 and pack again.",
            )
        status = (folder / path).lstat()
        states[path] = FileState(status.st_size, status.st_mtime_ns)
    return states


def read_source(folder: Path) -> PackSource:
    """The files of the weights folder `folder`, checked by name, kind and structure; none is read.

    Raises:
        UserError: it is no weights folder, or has something that can't be packed.
        OSError: a directory can't be read.
    """
    return PackSource(check_weights_folder(folder), _file_states(folder))


def _changed(path: Path) -> OperationError:
    return OperationError(
        f"{path} changed while it was packed.",
        "The folder is expected to stay as it is until the end.",
        "Nothing was left behind; wait until nobody writes there and pack again.",
    )


def check_unchanged(source: PackSource) -> None:
    """Check that the folder has the same files, sizes and times as when `source` was read.

    Raises:
        OperationError: something changed.
        OSError: a directory can't be read.
    """
    now = _file_states(source.path)
    for path in sorted(now.keys() | source.files.keys()):
        if now.get(path) != source.files.get(path):
            raise _changed(source.path / path)


def read_blocks(file: Path, size: int) -> Iterator[bytes]:
    """The first `size` bytes of `file` in blocks of at most 1 MiB.

    Raises:
        OperationError: it has fewer.
        OSError: it can't be read.
    """
    with file.open("rb", buffering=0) as stream:
        while size:
            block = stream.read(min(size, BLOCK_BYTES))
            if not block:
                raise _changed(file)
            size -= len(block)
            yield block


def check_lock_fields(name: str | None, url: str | None) -> None:
    """Check what the user wants to stand in the lock; None is for the defaults.

    Raises:
        UserError: a lock can't hold it.
    """
    if name is not None and not NAME.fullmatch(name):
        raise UserError(
            f"The name {name!r} can't be a lock's.",
            "Letters, digits, dots, dashes and underscores are expected.",
            "Change it, or leave it out to use the variant's.",
        )
    problem = url_problem(url) if url is not None else None
    if problem:
        raise UserError(
            f"The url {problem}.",
            f"{PLACES} is expected.",
            "Correct it, or leave it out to use what is packed beside the lock.",
        )


def default_name(source: PackSource, stem: str) -> str:
    """The lock's name when the user gives none: the variant's, else that of what is written."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")
    return source.folder.variant or plain[:100] or "weights"
