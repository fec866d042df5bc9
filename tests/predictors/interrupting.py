"""Cancels work as Cog does, by an exception in the thread of the request, wherever that is then."""

import ctypes
import sys
import threading
from collections.abc import Callable

from cog import CancelationException


def cancel(thread: threading.Thread) -> None:
    """Raise CancelationException in `thread` at its next bytecode, with the call of coglet's."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(CancelationException)
    )


def interrupted_at_line(number: int, work: Callable[[], object], *files: str) -> bool:
    """Whether `work` was cancelled before line `number`, from 0, of those that it runs in `files`.

    Tracing sees the thread it is set in, as Cog's cancelling raises in that of the request.

    Args:
        files: ends of source files' paths.
    """
    lines_left = number

    def trace(frame, event, _):
        nonlocal lines_left
        if not frame.f_code.co_filename.endswith(files):
            return None
        if event == "line":
            if lines_left == 0:
                raise CancelationException
            lines_left -= 1
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except CancelationException:
        return True
    finally:
        sys.settrace(outer)
    return False
