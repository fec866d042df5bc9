"""Progress bars on stderr, for whoever watches; none in a log or a pipe."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def byte_progress(label: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar over `total` bytes, None if unknown. Call what it gives with each number of bytes."""
    from tqdm import tqdm

    with tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update
