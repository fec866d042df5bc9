"""Ctrl-C at a moment that nobody chose, and what must be over after it."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """What Ctrl-C does to the main thread, at a moment that the kernel's timer chooses."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait_for_threads_to_end() -> None:
    """Fail unless only the main thread is left, promptly.

    Interrupted in the middle of starting a thread, Python can't join it: it ends a little later.
    """
    deadline = time.monotonic() + 5
    while threading.active_count() > 1:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.001)
