"""A file of lines that several processes add to at once."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from sampling.output_store import disk_errors
from weights.atomic import sync_folder

_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class AppendFile:
    """A RecordLog in the file `path`, whose lines are JSON objects.

    A process that is killed, or a disk that is full, may leave a part of a line at the end. It does
    not count, and the next who adds a line removes it. What is a whole object counts as a line
    though its line break is missing: a part of an object never is one.
    """

    path: Path

    def lines(self) -> Iterator[tuple[str, bytes]]:
        with disk_errors(self.path):
            try:
                file = self.path.open("rb")
            except FileNotFoundError:
                return
            with file:
                fcntl.flock(file, fcntl.LOCK_SH)
                for number, line in enumerate(file, 1):
                    if line.strip() and (line.endswith(b"\n") or _is_whole(line)):
                        yield f"{self.path}, line {number}", line

    def append(self, number: int, text: bytes) -> None:
        """Add a line; it is on disk when this returns, and not there at all when it raises."""
        with disk_errors(self.path), _opened(self.path) as file:
            end, ends_line = _end(file)
            file.truncate(end)
            try:
                _write(file, (b"" if ends_line else b"\n") + text + b"\n")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
            if end == 0:
                sync_folder(self.path.parent)

    def close(self) -> None:
        """Nothing is to be done: each line is on disk already."""


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _end(file: FileIO) -> tuple[int, bool]:
    """Where the whole lines end, in bytes, and whether a line break is there (or nothing yet)."""
    size = start = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - _BLOCK_BYTES)
        tail = os.pread(file.fileno(), size - start, start)
    torn = tail.rpartition(b"\n")[2]
    if torn and _is_whole(torn):
        return size, False
    return size - len(torn), True


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _write(file: FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
