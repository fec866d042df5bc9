"""Runs a generator in a thread of its own, a few items ahead of whoever takes them."""

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

_ITEMS_AHEAD = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End:
    """What comes after the last item: nothing, or the error that ended the generator."""

    error: BaseException | None


@contextmanager
def in_thread(items: Generator[T, None, None]) -> Iterator[Iterator[T]]:
    """The items of `items`, which runs in another thread at most 8 items ahead.

    An error that `items` raises is raised again after the items before it. On leaving, however it
    comes to that, `items` is closed after the item it is at, and its thread has ended.
    """
    # Unlike semaphores and events, these are whole after a KeyboardInterrupt at any moment.
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    slots: queue.SimpleQueue[None] = queue.SimpleQueue()
    stopped = False

    def produce() -> None:
        try:
            with closing(items):
                for item in items:
                    slots.get()
                    if stopped:
                        return
                    ready.put(item)
            ready.put(_End(None))
        except BaseException as error:
            ready.put(_End(error))

    def take() -> Iterator[T]:
        while not isinstance(item := ready.get(), _End):
            slots.put(None)
            yield item
        if item.error is not None:
            raise item.error

    thread = threading.Thread(target=produce, daemon=True)
    try:
        for _ in range(_ITEMS_AHEAD):
            slots.put(None)
        thread.start()
        yield take()
    finally:
        stopped = True
        slots.put(None)
        if thread.is_alive():
            thread.join()
