"""sha256 in a thread beside the writing, so that hashing costs no time where there is a core."""

import hashlib
import queue
import threading
from types import TracebackType
from typing import Self

# Blocks that wait: enough to even out, few enough to bound the memory of copied blocks.
_WAITING = 2


class BackgroundDigest:
    """Hashes the blocks it is given, in order, in its own thread; use it as a context.

    A block must not change after it was given.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._blocks: queue.Queue[bytes | memoryview | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._blocks.put(None)
        self._thread.join()

    def update(self, block: bytes | memoryview) -> None:
        self._blocks.put(block)

    @property
    def digest(self) -> str:
        """`sha256:…` of all blocks; ask after the context has ended."""
        return f"sha256:{self._hash.hexdigest()}"

    def _work(self) -> None:
        while (block := self._blocks.get()) is not None:
            self._hash.update(block)
