"""Runs work in several threads, so that Ctrl-C at any moment ends it and never hangs.

Python raises KeyboardInterrupt between any two steps of the main thread, also while it holds a lock
that the threads of a pool need; then nobody ends. So signals are held back, but for the moments in
which the main thread waits for a result, on a queue that is safe to interrupt.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

_HELD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM}


@contextmanager
def _mask(how: int) -> Iterator[None]:
    """Hold signals back or let them through; only the main thread runs Python's handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(how, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_side_by_side(
    tasks: Sequence[Callable[[], Result]],
    threads: int,
    stop: Callable[[], object],
    stopped: type[Exception],
) -> list[Result]:
    """Run all tasks, `threads` at a time, until the first fails; returns their results.

    `stop` is called at the end of whatever kind: it makes the tasks that still run end soon, by
    raising `stopped`. Tasks that had not begun then are cancelled.

    Raises:
        Exception: what a task raised, rather another one than `stopped`.
    """
    ended: SimpleQueue[bool] = SimpleQueue()

    def run(task: Callable[[], Result]) -> Result:
        failed = True
        try:
            result = task()
            failed = False
            return result
        finally:
            ended.put(failed)

    with _mask(signal.SIG_BLOCK), ThreadPoolExecutor(threads) as pool:
        try:
            futures = [pool.submit(run, task) for task in tasks]
            for _ in futures:
                with _mask(signal.SIG_UNBLOCK):
                    failed = ended.get()
                if failed:
                    break
        except KeyboardInterrupt:
            _log.warning("Interrupted: it ends as soon as what is under way has.")
            raise
        finally:
            stop()
            pool.shutdown(cancel_futures=True)
    errors = [f.exception() for f in futures if not f.cancelled()]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, stopped)):
        raise error
    return [future.result() for future in futures]
