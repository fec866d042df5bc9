"""Time that a benchmark may take: cases that would go beyond it are left out, and it is said so."""

import time
from collections.abc import Callable


class OutOfTimeError(Exception):
    """The time is up in the middle of a case."""


class Budget:
    """`seconds` from now on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        return self._end - self._clock()

    def refusal(self, needed: float) -> str:
        """Why nothing that takes `needed` seconds may begin any more; empty if it may."""
        if needed <= self.left:
            return ""
        return f"it would take about {needed:.0f} s and {max(self.left, 0):.0f} s are left"

    def check(self) -> None:
        """Raise OutOfTimeError when the time is up."""
        if self.left <= 0:
            raise OutOfTimeError
