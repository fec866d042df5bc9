"""Which pieces of a fetch are on disk, so that the next process goes on where a killed one was.

A text file: one line of JSON that says what is fetched, then a line `FILE PIECE` for each piece
that landed. A line that a crash cut short has no line break and is dropped. What the lines say is
not trusted: every digest is made from the bytes on the disk.
"""

import json
import os
import re
from pathlib import Path

from weights.fetching.pieces import Piece
from weights.lock import Lock

_HEADLINE = re.compile(r'\{"setDigest": "[^"]*", "pieceBytes": ([1-9][0-9]{0,17})\}\n')
_LINE = re.compile(r"([0-9]{1,9}) ([0-9]{1,9})\n")


def _headline(lock: Lock, piece_bytes: int) -> str:
    return json.dumps({"setDigest": lock.set_digest, "pieceBytes": piece_bytes})


def _read(path: Path, lock: Lock) -> tuple[int, list[set[int]]]:
    """The piece size of a journal and the numbers of each file's landed pieces.

    The size is 0 if there is no journal of this lock.
    """
    landed: list[set[int]] = [set() for _ in lock.files]
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.is_file() else []
    found = _HEADLINE.fullmatch(lines[0]) if lines else None
    if not found or f"{_headline(lock, int(found[1]))}\n" != lines[0]:
        return 0, landed
    piece_bytes = int(found[1])
    for line in lines[1:]:
        if found := _LINE.fullmatch(line):
            file, number = int(found[1]), int(found[2])
            if file < len(landed) and number * piece_bytes < lock.files[file].size:
                landed[file].add(number)
    return piece_bytes, landed


class FetchJournal:
    """The journal at `path`; `landed` has the numbers of the pieces of each file of the lock.

    A journal of another lock, or of pieces of another size, counts for nothing.

    Raises:
        OSError: it can't be written.
    """

    def __init__(self, path: Path, lock: Lock, piece_bytes: int) -> None:
        known, landed = _read(path, lock)
        self.landed = landed if known == piece_bytes else [set() for _ in lock.files]
        lines = [f"{file} {n}" for file, numbers in enumerate(self.landed) for n in numbers]
        path.write_text("\n".join([_headline(lock, piece_bytes), *lines, ""]))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def add(self, piece: Piece) -> None:
        """Note that a piece landed; one write, so that threads need no lock."""
        os.write(self._descriptor, f"{piece.file} {piece.number}\n".encode())

    def close(self) -> None:
        os.close(self._descriptor)


def landed_bytes(path: Path, lock: Lock) -> int:
    """How many bytes of `lock` the journal at `path` says are there; 0 without one."""
    piece_bytes, landed = _read(path, lock)
    return sum(
        min(piece_bytes, file.size - number * piece_bytes)
        for file, numbers in zip(lock.files, landed, strict=True)
        for number in numbers
    )
