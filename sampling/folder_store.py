"""OUT as a folder, which processes of several machines may share over a network.

Who writes a file has its temporary sibling locked. The kernel frees the lock of a process that was
killed, and its file is removed when OUT is opened next. Process ids would not do: other machines
and containers have the same.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from sampling.append_file import AppendFile
from sampling.output_store import (
    MANIFEST,
    checked_name,
    disk_errors,
    is_output,
    is_temporary,
    temporary_name,
)
from weights.atomic import sync_folder
from weights.errors import OperationError, UserError

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class FolderStore:
    """An OutputStore in `folder`, an absolute path."""

    folder: Path

    @property
    def url(self) -> str:
        return str(self.folder)

    def put(self, name: str, file: Path) -> None:
        place = self.folder / checked_name(name)
        with file.open("rb") as source, disk_errors(place), _replacing(place) as target:
            shutil.copyfileobj(source, target)

    def names(self) -> set[str]:
        with disk_errors(self.folder), os.scandir(self.folder) as entries:
            return {entry.name for entry in entries if is_output(entry.name) and entry.is_file()}

    def record_log(self) -> AppendFile:
        return AppendFile(self.folder / MANIFEST)


def open_folder(out: str) -> FolderStore:
    """Make the folder if need be, check that it can be written, remove what was left half written.

    Raises:
        UserError: it is a file, or may not be written.
        OperationError: the disk is full, or can't lock files.
    """
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary(folder / "writable") as (file, _):
            file.write(b"\0")
            file.flush()
        _sweep(folder)
    except OSError as error:
        raise _opening_error(folder, error) from None
    return FolderStore(folder)


@contextmanager
def _replacing(place: Path) -> Iterator[BinaryIO]:
    with _temporary(place) as (file, temporary):
        yield file
        file.flush()
        os.fsync(file.fileno())
        temporary.replace(place)
        sync_folder(place.parent)


@contextmanager
def _temporary(place: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside `place`, locked; at the end it is removed, where it still is."""
    file, temporary = _new_locked(place)
    try:
        yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)
        file.close()


def _new_locked(place: Path) -> tuple[BinaryIO, Path]:
    while True:
        temporary = place.with_name(temporary_name(place.name, token_hex(4)))
        file = temporary.open("xb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except BaseException:
            temporary.unlink(missing_ok=True)
            file.close()
            raise
        # One who opened OUT may have removed it between these two.
        if temporary.exists():
            return file, temporary
        file.close()


def _sweep(folder: Path) -> None:
    """Remove the temporary files of processes that were killed: those that nobody has locked."""
    for name in filter(is_temporary, os.listdir(folder)):  # noqa: PTH208
        # Gone meanwhile, or locked, or another user's. Over NFS a lock needs the right to write.
        with suppress(OSError), (folder / name).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / name).unlink()


def _opening_error(folder: Path, error: OSError) -> UserError:
    if error.errno in _NO_LOCKS:
        return OperationError(
            f"{folder} is on a disk that can't lock files.",
            "Locks keep processes that write there from spoiling each other's work.",
            "Choose a folder on another disk, or a bucket.",
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return UserError(
            f"{folder} is a file, or would be in one.",
            "A folder is expected, new or there already.",
            "Choose another one.",
        )
    kind = UserError if error.errno in _REFUSED else OperationError
    return kind(
        f"{folder} can't be written ({error.strerror}).",
        "A folder is expected, new or there already.",
        "Choose another one, or mend that.",
    )
