"""OUT: where the videos of a run come to, each whole or not at all: a folder or a bucket."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from weights.errors import OperationError

MANIFEST = "manifest.jsonl"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", re.ASCII)
_TEMPORARY = re.compile(r".+\.tmp\.\d+\.[0-9a-f]{8,16}", re.DOTALL)


class OutputError(OperationError):
    """OUT can't be written or read any more: no line's fault, so that the run can't go on.

    A full disk, a network that is away, credentials that have expired. What is in OUT stays good.
    """


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turns errors of a disk with OUT on it into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{place}: {error.strerror or error}.",
            "OUT must be writable all the time.",
            "Mend that, then give the same command again: it goes on.",
        ) from None


class RecordLog(Protocol):
    """Lines that are only ever added, by several processes at once; a line is there or it isn't."""

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Each line with the place that it has, for messages; later ones come later."""

    def append(self, number: int, text: bytes) -> None:
        """Add a line about the prompt line `number`; `text` has no line break."""

    def close(self) -> None:
        """Leave the log in its final form."""


class OutputStore(Protocol):
    """A place for files; can be pickled, and used by many processes and threads at once.

    All of its methods raise OutputError where the place can't be used any more.
    """

    @property
    def url(self) -> str:
        """What `open_store.open_store` opens the same place by, in any working directory."""

    def put(self, name: str, file: Path) -> None:
        """Bring a copy of `file` to `name`, in place of what is there, wholly or not at all.

        Raises:
            ValueError: `name` is no plain file name.
        """

    def names(self) -> set[str]:
        """The files that are there; neither what is not yet whole, nor the manifest."""

    def record_log(self) -> RecordLog:
        """The lines of manifest.jsonl."""


def checked_name(name: str) -> str:
    """`name`, if it is that of a file directly in OUT.

    Raises:
        ValueError: it could lead elsewhere, or is that of a temporary file or of the manifest.
    """
    if not _NAME.fullmatch(name) or not is_output(name):
        raise ValueError(f"{name!r} is no name of an output")
    return name


def temporary_name(name: str, token: str) -> str:
    """What `name` is called until it is whole; `token`: some hex digits, at each call other ones.

    The process alone would not do: other machines and containers have the same numbers.
    """
    return f"{name}.tmp.{os.getpid()}.{token}"


def is_temporary(name: str) -> bool:
    return _TEMPORARY.fullmatch(name) is not None


def is_output(name: str) -> bool:
    """Whether `name` may be that of a video, and not of what a store needs beside them."""
    return name != MANIFEST and not is_temporary(name) and not name.startswith(".")
