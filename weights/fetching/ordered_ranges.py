"""A file on the web as one stream, fetched by several connections ahead of its use."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from weights.fetching.settings import FetchSettings
from weights.fetching.web_reader import WebFile, WebReader

# What is fetched ahead waits in memory: two pieces a connection.
_PIECE_BYTES = 4 << 20


def read_ahead(reader: WebReader, file: WebFile, settings: FetchSettings) -> Iterator[bytes]:
    """All bytes of `file` in order. The memory is that of a few pieces, whatever the size.

    Raises:
        OperationError: they can't be had.
    """
    if not file.ranges or file.size is None:
        yield from reader.read(file, 0, None)
        return
    piece_bytes = min(_PIECE_BYTES, settings.piece_bytes)
    starts = iter(range(0, file.size, piece_bytes))
    end = file.size
    with ThreadPoolExecutor(settings.connections) as pool:

        def fetch(start: int) -> bytes:
            return b"".join(reader.read(file, start, min(start + piece_bytes, end)))

        waiting: deque[Future[bytes]] = deque()
        try:
            for start in islice(starts, 2 * settings.connections):
                waiting.append(pool.submit(fetch, start))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(fetch, start) for start in islice(starts, 1))
        finally:
            reader.stop()
            pool.shutdown(cancel_futures=True)
