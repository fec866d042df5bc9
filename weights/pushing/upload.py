"""Uploads one file to a bucket: whole or not at all, and never over another object.

An error, or `stopped`, aborts a multipart upload and removes what was sent. A killed process can't:
its parts stay, and obstore can't find them later. A lifecycle rule of the bucket that aborts
incomplete multipart uploads removes them; Azure does so by itself after a week.

The digest stands in the object's metadata, by which a finished upload is recognised.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from threading import Event
from typing import TYPE_CHECKING

from weights.buckets import bucket_errors, object_key
from weights.errors import OperationError
from weights.pushing.claims import check_claim, claimed
from weights.pushing.objects import StoredObject, Upload, changed, only_over, put, stored_object

if TYPE_CHECKING:
    from obstore import PutMode

    from weights.buckets import Store

# S3 takes 10,000 parts of at least 5 MiB. In memory are the parts under way and two or three more
# of each file: under 250 MB in all. Only files of more than 84 GB need larger parts.
_MAX_PARTS = 10_000
PART_BYTES = 8 << 20
_MEMORY_BYTES = 96 << 20

Progress = Callable[[int], object]


class StoppedError(Exception):
    """Another file failed, or the user interrupted: this one is no longer wanted."""


def part_bytes(size: int) -> int:
    """The size of the parts that a file of `size` bytes is uploaded in."""
    return max(PART_BYTES, -(-size // (_MAX_PARTS << 20)) << 20)


def _parts(upload: Upload, stopped: Event, progress: Progress) -> Iterator[bytes]:
    """The file in parts; fails in the end if it was not what the lock says."""
    sha256 = hashlib.sha256()
    try:
        with upload.path.open("rb") as file:
            while part := file.read(part_bytes(upload.size)):
                if stopped.is_set():
                    raise StoppedError
                sha256.update(part)
                yield part
                progress(len(part))
    except OSError as error:
        raise OperationError(
            f"{upload.path} can't be read ({error.strerror}).",
            "The file that the lock names is expected.",
            "Correct that and push again. Nothing was uploaded.",
        ) from None
    if f"sha256:{sha256.hexdigest()}" != upload.digest:
        raise OperationError(
            f"{upload.path} is not what its lock says: it has another digest.",
            f"{upload.digest} is expected.",
            "Pack it again, or get it again. Nothing was uploaded.",
        )


def _metadata(upload: Upload) -> dict[str, str]:
    return {"digest": upload.digest, "Content-Type": "application/octet-stream"}


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _send_parts(
    store: "Store",
    upload: Upload,
    concurrency: int,
    before_end: Callable[[], None],
    stopped: Event,
    progress: Progress,
) -> str:
    """Upload the file in parts; returns the ETag that S3 makes of them.

    What `before_end` raises, like all errors, leaves no object and no parts.
    """
    from obstore import open_writer

    hashes = []
    with (
        bucket_errors(upload.url),
        open_writer(
            store,
            object_key(upload.url),
            attributes={**_metadata(upload)},
            buffer_size=part_bytes(upload.size),
            max_concurrency=concurrency,
        ) as writer,
    ):
        for part in _parts(upload, stopped, progress):
            hashes.append(_md5(part))
            writer.write(part)
        before_end()
    return f"{_md5(b''.join(hashes)).hex()}-{len(hashes)}"


def _send_whole(
    store: "Store", upload: Upload, mode: "PutMode", stopped: Event, progress: Progress
) -> str:
    """Upload a file of one part in one request; returns the ETag that S3 makes of it."""
    data = b"".join(_parts(upload, stopped, progress))
    if not put(store, upload.url, data, _metadata(upload), mode):
        # Another push of the same file, or a request of this one that was sent again.
        now = stored_object(store, upload.url)
        if now is None or now.digest != upload.digest:
            raise changed(upload.url)
    return _md5(data).hex()


def upload_file(
    store: "Store",
    upload: Upload,
    found: StoredObject | None,
    *,
    replace: bool,
    beside: int,
    stopped: Event,
    progress: Progress,
) -> str:
    """Upload a file to where `found` is: nothing, or a claim of it. Returns the ETag by S3's rule.

    `replace`: over whatever is there, without any condition. `beside`: how many files are uploaded
    at once, this one included; they share the memory. `progress` is called with numbers of bytes.

    Raises:
        OperationError: the file is not what the lock says, something else came to its place, or as
            of `bucket_errors`.
        UserError: as of `bucket_errors`.
        StoppedError: `stopped` was set.
    """
    if upload.size <= PART_BYTES:
        mode = "overwrite" if replace else only_over(found)
        return _send_whole(store, upload, mode, stopped, progress)
    concurrency = max(1, _MEMORY_BYTES // part_bytes(upload.size) // beside)
    if replace:
        return _send_parts(store, upload, concurrency, lambda: None, stopped, progress)
    with claimed(store, upload, found):
        check = functools.partial(check_claim, store, upload)
        return _send_parts(store, upload, concurrency, check, stopped, progress)
