"""Ctrl-C and SIGTERM end a training between two steps, so that nothing of it is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether somebody asked this process to end."""

    def __init__(self) -> None:
        self.asked = False

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def held_interruptions() -> Iterator[Interruption]:
    """Within the block the first Ctrl-C or SIGTERM only sets `asked`; a second one ends it at once.

    Python lets the main thread alone have handlers: elsewhere nothing is held.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption._take) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
