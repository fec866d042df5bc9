"""What must be over after an interruption."""

import threading
import time
from collections.abc import Callable

import pytest


@pytest.fixture
def wait_for_threads_to_end() -> Callable[[], None]:
    """Fails unless the threads that the test began end, promptly.

    Interrupted in the middle of starting a thread, Python can't join it: it ends a little later.
    """
    before = set(threading.enumerate())

    def wait() -> None:
        deadline = time.monotonic() + 5
        while begun := set(threading.enumerate()) - before:
            assert time.monotonic() < deadline, begun
            time.sleep(0.001)

    return wait
