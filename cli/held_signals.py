"""Ctrl-C and SIGTERM at chosen moments only, so that no process is left behind.

Python raises KeyboardInterrupt between any two steps of the main thread: also before a process that
was just started has an owner, and where errors are only printed, as while a weak reference is
cleaned up; requests has those. There it would be lost, and the program would go on.
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_Handler = Callable[[int, FrameType | None], Any]


class HeldSignals:
    """Within it, signals that would raise are kept until `check`, or until its end.

    Those that would end the process or are ignored stay so. Outside the main thread, which has all
    signals, nothing is held.
    """

    def __init__(self) -> None:
        self._came: deque[int] = deque()
        self._handlers: dict[int, _Handler] = {}
        self._raised_at_once = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.check()

    @property
    def came(self) -> bool:
        """Whether a signal is kept."""
        return bool(self._came)

    def check(self) -> None:
        """Raise what the signal that is kept would have raised, if there is one."""
        while self._came:
            number = self._came.popleft()
            self._handlers[number](number, None)

    @contextmanager
    def raised_at_once(self) -> Iterator[None]:
        """Let signals raise wherever Python is; `check` raises those that were lost there."""
        try:
            self._raised_at_once = True
            self.check()
            yield
        finally:
            self._raised_at_once = False
            self._came.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._came.append(number)
        if self._raised_at_once:
            self._handlers[number](number, frame)
