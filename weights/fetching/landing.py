"""A file that arrives in pieces, in any order, and is hashed from its first byte to its last."""

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from weights.lock import LockedFile

_READ_BYTES = 256 << 10


class LandingFile:
    """`locked` on its way to `path`, in pieces of `piece_bytes`; `landed` are there already.

    Several threads may land pieces at once. Whoever lands the piece that the digest waits for
    hashes it on the way to the disk, and after it all that lie there from before; nobody waits for
    another's hashing.

    Raises:
        OSError: the file can't be made.
    """

    def __init__(
        self, path: Path, locked: LockedFile, piece_bytes: int, landed: Iterable[int] = ()
    ) -> None:
        self.locked = locked
        self._piece_bytes = piece_bytes
        self._count = -(-locked.size // piece_bytes)
        self._landed = set(landed)
        self._hashing = threading.Lock()
        self._sha256 = hashlib.sha256()
        self._next = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        os.ftruncate(self._descriptor, locked.size)

    @property
    def landed(self) -> frozenset[int]:
        return frozenset(self._landed)

    @property
    def digest(self) -> str | None:
        """`sha256:<hex>` of the whole file, None before all of it is there and hashed."""
        if self._next < self._count:
            return None
        return f"sha256:{self._sha256.hexdigest()}"

    def land(self, number: int, chunks: Iterable[bytes]) -> Iterator[int]:
        """Write the bytes of a piece where they belong; yields how many, chunk by chunk.

        When that breaks off, a part of the piece may be hashed: nothing can land here any more.
        """
        position = number * self._piece_bytes
        hashes = self._claim(number)
        try:
            for data in chunks:
                self._write(data, position)
                if hashes:
                    self._sha256.update(data)
                position += len(data)
                yield len(data)
            self._landed.add(number)
            if hashes:
                self._next += 1
        finally:
            if hashes:
                self._hashing.release()
        self.hash_landed()

    def _write(self, data: bytes, position: int) -> None:
        """One call may write a part only, when the disk is nearly full."""
        left = memoryview(data)
        while left:
            written = os.pwrite(self._descriptor, left, position)
            left, position = left[written:], position + written

    def _claim(self, number: int) -> bool:
        """Take the digest for piece `number`, if that is the next and nobody has it."""
        return self._next == number and self._hashing.acquire(blocking=False)

    def hash_landed(self) -> None:
        """Hash what lies there and was not hashed yet, unless another thread is at it."""
        while self._next in self._landed and self._hashing.acquire(blocking=False):
            try:
                while self._next in self._landed:
                    self._hash_piece(self._next)
                    self._next += 1
            finally:
                self._hashing.release()

    def _hash_piece(self, number: int) -> None:
        position = number * self._piece_bytes
        end = min(position + self._piece_bytes, self.locked.size)
        while position < end:
            data = os.pread(self._descriptor, min(_READ_BYTES, end - position), position)
            if not data:
                raise OSError(f"{self.locked.path} was cut short while it was fetched")
            self._sha256.update(data)
            position += len(data)

    def start_over(self) -> None:
        """Forget what landed: its digest is wrong."""
        self._landed.clear()
        self._sha256 = hashlib.sha256()
        self._next = 0

    def sync(self) -> None:
        """Put the file on disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
