"""What a user sees of long work: bars and the log, on stderr."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def byte_progress(label: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar over `total` bytes, None if unknown; none where nobody watches, in a log or a pipe.

    Call what it gives with each number of bytes, from any thread.
    """
    from tqdm import tqdm

    mutex = threading.Lock()
    with tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=None) as bar:

        def advance(count: int) -> None:
            with mutex:
                bar.update(count)

        yield advance


class _Lines(logging.Handler):
    """Prints each message as a line on what is stderr at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def show_log(package: str) -> None:
    """Print what `package` logs, information included."""
    log = logging.getLogger(package)
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        log.addHandler(_Lines())
