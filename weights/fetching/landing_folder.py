"""The files of a pinned lock on their way into a folder, whichever engine brings the bytes."""

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from weights.errors import OperationError
from weights.fetching.journal import FetchJournal, landed_bytes
from weights.fetching.landing import LandingFile
from weights.fetching.pieces import Piece, plan_pieces
from weights.lock import Lock, resolve_url
from weights.urls import shown_url

_log = logging.getLogger(__name__)

Progress = Callable[[int], object]


class DigestError(OperationError):
    """What came is not what the lock names, so nothing of it is of use."""


class LandingFolder:
    """All files of `lock` below `folder`, open for pieces; what a journal says is there is kept.

    `progress` is called with numbers of bytes, negative ones where bytes have to come again.

    Raises:
        OSError: a file can't be made.
    """

    def __init__(
        self, lock: Lock, folder: Path, journal_path: Path, piece_bytes: int, progress: Progress
    ) -> None:
        self.lock = lock
        self._progress = progress
        self._guard = threading.Lock()
        self._whole: set[int] = set()
        self._repeated: set[int] = set()
        self._journal = FetchJournal(journal_path, lock, piece_bytes)
        self._plan = plan_pieces(lock, piece_bytes)
        self.files = [
            LandingFile(folder / locked.path, locked, piece_bytes, landed)
            for locked, landed in zip(lock.files, self._journal.landed, strict=True)
        ]
        if landed := landed_bytes(journal_path, lock):
            progress(landed)

    def __enter__(self) -> "LandingFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._journal.close()
        for file in self.files:
            file.close()

    @property
    def missing(self) -> list[Piece]:
        """The pieces that are not there, in the order to fetch them."""
        return [piece for piece in self._plan if piece.number not in self.files[piece.file].landed]

    def missing_of(self, index: int) -> list[Piece]:
        """The pieces of one file that are not there, from its start to its end."""
        return [piece for piece in self.missing if piece.file == index]

    def check_landed(self, index: int) -> list[Piece]:
        """Hash what an earlier process left of a file; the pieces to fetch again, if any.

        Raises:
            DigestError: the file is empty, and by the lock's digest it is not.
        """
        file = self.files[index]
        file.hash_landed()
        return self._checked(index)

    def land(self, piece: Piece, chunks: Iterable[bytes]) -> list[Piece]:
        """Write a piece; the pieces to fetch again, if that ended a file whose digest is wrong.

        Raises:
            DigestError: the digest is wrong for the second time.
            OSError: the disk refuses the bytes.
        """
        for count in self.files[piece.file].land(piece.number, chunks):
            self.advance(count)
        self._journal.add(piece)
        return self._checked(piece.file)

    def advance(self, count: int) -> None:
        """Report progress; from one thread at a time."""
        with self._guard:
            self._progress(count)

    def _checked(self, index: int) -> list[Piece]:
        """When a file is whole, check its digest, once, and put it on disk."""
        file = self.files[index]
        with self._guard:
            if index in self._whole or file.digest is None:
                return []
            self._whole.add(index)
        if file.digest == file.locked.digest:
            file.sync()
            return []
        if index in self._repeated or not file.locked.size:
            raise self._wrong_digest(file)
        _log.warning("%s is damaged; fetching it again.", file.locked.path)
        file.start_over()
        with self._guard:
            self._repeated.add(index)
            self._whole.discard(index)
        self.advance(-file.locked.size)
        return [piece for piece in self._plan if piece.file == index]

    def _wrong_digest(self, file: LandingFile) -> DigestError:
        return DigestError(
            f"{shown_url(resolve_url(self.lock))} holds {file.locked.path!r} with the digest "
            f"{file.digest}.",
            f"The lock says {file.locked.digest}.",
            "Nothing was installed. Get the lock that belongs to these weights, or upload them "
            "again.",
        )
