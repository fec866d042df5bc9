"""Reads back what was uploaded: its size, and what proves that its content is right."""

import hashlib
import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from weights.buckets import bucket_errors, object_key
from weights.errors import OperationError
from weights.pushing.objects import Upload, stored_object
from weights.urls import shown_url

if TYPE_CHECKING:
    from obstore import Bytes

    from weights.buckets import Store

_RANGE_BYTES = 8 << 20
_READERS = 4

Progress = Callable[[int], object]


def _differs(upload: Upload, found: str) -> OperationError:
    return OperationError(
        f"What {shown_url(upload.url)} gives back is not what was uploaded: {found}.",
        f"{upload.size} bytes with the digest {upload.digest} are expected.",
        "The lock was not changed. Look at the object, delete it and push again.",
    )


def has_etag(store: "Store", upload: Upload, etag: str) -> bool:
    """Read back size and ETag; whether the ETag proves the content.

    Not every ETag is made from an MD5: those of Google, of Azure and of keys of one's own are not.

    Raises:
        OperationError: the object is not there or has another size, or as of `bucket_errors`.
    """
    found = stored_object(store, upload.url)
    if found is None or found.size != upload.size:
        raise _differs(upload, "nothing" if found is None else f"{found.size} bytes")
    return (found.etag or "").strip('"') == etag


def check_content(store: "Store", upload: Upload, progress: Progress) -> None:
    """Read the whole object back, a few ranges ahead, and compare its digest with the lock's.

    Raises:
        OperationError: it differs, or as of `bucket_errors`.
    """
    key = object_key(upload.url)
    sha256 = hashlib.sha256()

    def read(start: int) -> "Bytes":
        end = min(start + _RANGE_BYTES, upload.size)
        with bucket_errors(upload.url):
            return store.get(key, options={"range": (start, end)}).bytes()

    pending: deque[Future[Bytes]] = deque()
    starts = iter(range(0, upload.size, _RANGE_BYTES))
    with ThreadPoolExecutor(_READERS) as pool:
        pending.extend(pool.submit(read, start) for start in itertools.islice(starts, _READERS))
        while pending:
            data = pending.popleft().result()
            sha256.update(data)
            progress(len(data))
            pending.extend(pool.submit(read, start) for start in itertools.islice(starts, 1))
    if f"sha256:{sha256.hexdigest()}" != upload.digest:
        raise _differs(upload, "another digest")
