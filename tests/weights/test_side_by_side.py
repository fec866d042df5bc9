"""Work in threads: the first error ends it, and so does Ctrl-C at any moment."""

import threading
import time
from functools import partial

import pytest

from tests.weights.packing.interruptions import interrupted_after
from weights.side_by_side import run_side_by_side


class StoppedError(Exception):
    """What tasks raise when they are told to stop."""


def test_results_come_in_the_order_of_the_tasks():
    done = threading.Event()

    def first() -> str:
        assert done.wait(10)
        return "first"

    def second() -> str:
        done.set()
        return "second"

    assert run_side_by_side([first, second], 2, lambda: None, StoppedError) == ["first", "second"]


def test_the_first_error_stops_the_others_and_is_the_one_that_is_raised():
    stopped = threading.Event()

    def wait() -> None:
        assert stopped.wait(10)
        raise StoppedError

    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_side_by_side([wait, fail, wait, wait], 2, stopped.set, StoppedError)


# Raised while Python cleans a weak reference up, it is printed and lost.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_ends_it():
    stopped = threading.Event()
    interrupted = 0

    def work(stop: threading.Event) -> None:
        for _ in range(50):
            if stop.is_set():
                raise StoppedError
            sum(range(100))

    for moment in range(150):
        stopped.clear()
        started = time.monotonic()
        try:
            with interrupted_after(0.00002 * (moment + 1)):
                run_side_by_side([partial(work, stopped)] * 8, 4, stopped.set, StoppedError)
        except KeyboardInterrupt:
            interrupted += 1
        assert time.monotonic() - started < 10
    assert interrupted > 10


def test_signals_are_let_through_again_afterwards():
    run_side_by_side([lambda: None], 1, lambda: None, StoppedError)
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.001):
        threading.Event().wait(10)
