"""Ctrl-C and SIGTERM end a run in the same way, at once and with everything put in order."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Within it both signals raise KeyboardInterrupt; what was there before comes back.

    Gives a function that raises it again where one came before: Python may have raised it while an
    object was cleaned up, where exceptions are only printed. Outside the main thread, which has all
    signals, nothing is changed.
    """
    came = threading.Event()

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        came.set()
        raise KeyboardInterrupt

    def check() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
