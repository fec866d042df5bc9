"""Cuts the files of a lock into pieces that are fetched on their own, in a useful order."""

from dataclasses import dataclass

from weights.lock import Lock


@dataclass(frozen=True, slots=True)
class Piece:
    """Piece `number` of file `file` of a lock: the bytes from `start` to before `end` of it."""

    file: int
    number: int
    start: int
    end: int


def plan_pieces(lock: Lock, piece_bytes: int) -> list[Piece]:
    """All pieces, so ordered that the files grow in proportion and end together.

    A file's digest is made from its first byte to its last by one core: with the files side by
    side, all cores are busy from the beginning to the end.
    """
    pieces = [
        (end / file.size, Piece(index, number, start, end))
        for index, file in enumerate(lock.files)
        for number, start in enumerate(range(0, file.size, piece_bytes))
        for end in [min(start + piece_bytes, file.size)]
    ]
    return [piece for _, piece in sorted(pieces, key=lambda entry: (entry[0], entry[1].file))]
