"""How a fetch goes about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """The numbers of a fetch. The defaults suit a bucket in the same region and a laptop alike.

    `attempts` is how often in a row a piece may fail without a new byte before the fetch does;
    `stall_seconds` without a byte count as a failure; the pause after one begins at
    `backoff_seconds` and doubles up to `longest_pause_seconds`.
    """

    connections: int = 8
    piece_bytes: int = 32 << 20
    attempts: int = 6
    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    backoff_seconds: float = 0.5
    longest_pause_seconds: float = 30.0
