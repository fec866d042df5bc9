"""Work on the model that a cancelled request finishes all the same.

Cog cancels with an exception in the request's thread, between any two bytecodes. What is put on a
model or taken off it could then be done by half, and stay so for good.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

_Work = Callable[[], object]
_End = SimpleQueue[BaseException | None]

_waiting: SimpleQueue[tuple[_Work, _End]] = SimpleQueue()


def uninterrupted(work: _Work) -> None:
    """Do `work` in a thread that no cancelling reaches, when all that was asked for before is done.

    A request that is cancelled meanwhile ends after it. One cancelled just before it was asked for
    leaves it undone: the next request has to begin with it.
    """
    if threading.current_thread() is _worker:
        # Garbage collection closes generators in any thread, and some of them clean up with this.
        work()
        return
    end: _End = SimpleQueue()
    # Two single calls without Python code inside: there is no lock that a cancelled one would keep.
    _waiting.put((work, end))
    error = end.get()
    if error is not None:
        raise error


def _do_one_by_one() -> None:
    while True:
        work, end = _waiting.get()
        try:
            work()
        except BaseException as error:
            end.put(error)
        else:
            end.put(None)
        # While this thread waits, nothing of a model is held here.
        del work, end


_worker = threading.Thread(target=_do_one_by_one, name="uninterrupted", daemon=True)
_worker.start()
