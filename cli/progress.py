"""Progress bars on stderr, for whoever watches."""

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
