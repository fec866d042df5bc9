"""A folder under construction that survives an interruption and can be taken up again.

It stands beside the destination as `.NAME.partial` and holds a journal of the files that are
complete. The journal is bound to a fingerprint of the work, so that files of another source or
other options are never taken for ours.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from conversion.file_digest import WrittenFile, file_digest
from conversion.new_folder import check_destination
from weights.errors import UserError

_JOURNAL = ".journal.json"


class ResumableFolder:
    """The folder to write to, and what of it is complete."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._fingerprint = fingerprint
        self.complete: dict[str, WrittenFile] = {}
        """Complete files by their path in the folder."""

    def take_up(self) -> None:
        """Read the journal of an earlier run.

        Raises:
            UserError: the journal is of other work.
        """
        with suppress(OSError, ValueError, KeyError, TypeError):
            journal = json.loads((self.path / _JOURNAL).read_bytes())
            if journal["fingerprint"] != self._fingerprint:
                raise UserError(
                    f"{self.path} holds an interrupted conversion of another source or with other "
                    f"options.",
                    "--resume continues the same conversion only.",
                    "Give the same source and options, or leave --resume out to start anew.",
                )
            for fields in journal["files"]:
                file = WrittenFile(**fields)
                # Hashed again: after a power cut a file can have its size and not its bytes.
                if file_digest(self.path / file.path) == file.digest:
                    self.complete[file.path] = file

    def record(self, file: WrittenFile) -> None:
        """Note in the journal that a file is complete."""
        self.complete[file.path] = file
        journal = {
            "fingerprint": self._fingerprint,
            "files": [asdict(file) for file in self.complete.values()],
        }
        temporary = self.path / f"{_JOURNAL}.new"
        temporary.write_text(json.dumps(journal), encoding="utf-8")
        temporary.replace(self.path / _JOURNAL)

    def finish(self, destination: Path) -> None:
        """Give the folder its name."""
        (self.path / _JOURNAL).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            destination.rmdir()
        self.path.rename(destination)


def partial_path(destination: Path) -> Path:
    """Where the folder stands while it is under construction."""
    return destination.with_name(f".{destination.name}.partial")


@contextmanager
def resumable_folder(
    destination: Path, *, fingerprint: str, resume: bool
) -> Iterator[ResumableFolder]:
    """Gives the folder to write to, and renames it to `destination` when the block ends well.

    Any other end leaves it for `resume` if a file of it is complete, and removes it if none is.

    Raises:
        UserError: `destination` is taken, another process is converting to it, or `resume` is
            asked for and the journal is of other work.
    """
    check_destination(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    path = partial_path(destination)
    lock = FileLock(path.with_name(f"{path.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"Another process is converting to {destination}.",
            "One at a time is possible.",
            "Wait for it, or choose another destination.",
        ) from None
    try:
        yield from _under_construction(ResumableFolder(path, fingerprint), destination, resume)
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _under_construction(
    folder: ResumableFolder, destination: Path, resume: bool
) -> Iterator[ResumableFolder]:
    if resume and folder.path.is_dir():
        folder.take_up()
    else:
        shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(exist_ok=True)
    try:
        yield folder
        folder.finish(destination)
    finally:
        if not folder.complete:
            shutil.rmtree(folder.path, ignore_errors=True)
