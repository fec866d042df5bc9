"""Pushes packed weights to a bucket, or through a presigned URL, and reads them back.

First everything that can be said without an upload: the lock and the sizes of the files, whether
the bucket can be used, and whether something else is at the target. Then the files are uploaded
(weights/pushing/upload.py, weights/pushing/claims.py: whole or not at all, never over another
object), hashed on their way, and read back. What an earlier push finished is not sent again.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Literal
from urllib.parse import urlsplit

from weights.buckets import open_bucket
from weights.errors import OperationError, UserError
from weights.lock import Lock
from weights.pushing.objects import StoredObject, Upload, is_stored, stored_object
from weights.pushing.plan import check_public_url, plan_signature, plan_uploads
from weights.pushing.presigned_put import check_presigned, put_presigned, read_back
from weights.pushing.read_back import check_content, has_etag
from weights.pushing.upload import Progress, StoppedError, upload_file
from weights.side_by_side import run_side_by_side
from weights.urls import BUCKET_SCHEMES, shown_url

_log = logging.getLogger(__name__)

_UPLOADS_AT_ONCE = 4

# How a file was found to be what the lock says: by the MD5 in its ETag, by reading all of it, by
# the digest that an earlier push recorded, or only by the MD5 in the answer to the upload.
ReadBack = Literal["etag", "content", "recorded digest", "answer"]
# A bar with a label over a number of bytes.
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]


@dataclass(frozen=True, slots=True)
class PushedFile:
    """A file at its target: bytes, whether this push uploaded it, and how it was read back.

    `read_back` is None where nothing could be: through a presigned URL of a server without MD5s.
    """

    url: str
    size: int
    uploaded: bool
    read_back: ReadBack | None


@contextmanager
def _no_bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    yield lambda count: None


def _upload_all(
    target: str,
    uploads: dict[Upload, StoredObject | None],
    replace: bool,
    bar: Bar,
) -> dict[Upload, str]:
    """Upload files side by side, the largest first; the first error of any ends all.

    Returns the ETags they have in a store that makes them from MD5s.
    """
    store = open_bucket(target, patient=True)
    beside = min(len(uploads), _UPLOADS_AT_ONCE)
    stopped = Event()

    def upload_one(upload: Upload, progress: Progress) -> str:
        try:
            return upload_file(
                store,
                upload,
                uploads[upload],
                replace=replace,
                beside=beside,
                stopped=stopped,
                progress=progress,
            )
        except UserError as error:
            if stopped.is_set():  # by another error or the user: this one is not raised
                _log.warning("%s", error)
            raise

    by_size = sorted(uploads, key=lambda upload: -upload.size)
    with bar("Uploading", sum(upload.size for upload in uploads)) as progress:
        tasks = [partial(upload_one, upload, progress) for upload in by_size]
        etags = run_side_by_side(tasks, beside, stopped.set, StoppedError)
    return dict(zip(by_size, etags, strict=True))


def _push_to_bucket(
    uploads: list[Upload], target: str, replace: bool, bar: Bar
) -> list[PushedFile]:
    store = open_bucket(target)
    # One question first: what is wrong with the bucket is then said once, and at once.
    found = {uploads[0]: stored_object(store, uploads[0].url)}
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        answers = pool.map(lambda upload: stored_object(store, upload.url), uploads[1:])
        found |= zip(uploads[1:], answers, strict=True)
    stored = {upload for upload in uploads if is_stored(upload, found[upload], replace=replace)}
    missing = {upload: found[upload] for upload in uploads if upload not in stored}
    proofs: dict[Upload, ReadBack] = dict.fromkeys(stored, "recorded digest")
    if missing:
        etags = _upload_all(target, missing, replace, bar)
        for upload, etag in etags.items():
            proofs[upload] = "etag" if has_etag(store, upload, etag) else "content"
    unread = [upload for upload in uploads if proofs[upload] == "content"]
    if unread:
        with bar("Reading back", sum(upload.size for upload in unread)) as progress:
            for upload in unread:
                check_content(store, upload, progress)
    return [
        PushedFile(upload.url, upload.size, upload in missing, proofs[upload]) for upload in uploads
    ]


def _push_presigned(upload: Upload, url: str | None, replace: bool, bar: Bar) -> PushedFile:
    check_presigned(upload)
    try:
        with bar("Uploading", upload.size) as progress:
            md5, etag = put_presigned(upload, replace=replace, progress=progress)
    except OSError as error:
        raise OperationError(
            f"{upload.path} can't be read ({error.strerror}).",
            "The file that the lock names is expected.",
            "Correct that and push again. Nothing was uploaded.",
        ) from None
    proof: ReadBack | None = "answer" if (etag or "").strip('"') == md5 else None
    if url is not None:
        with bar("Reading back", upload.size) as progress:
            proof = read_back(url, upload, md5, progress)
    return PushedFile(shown_url(upload.url), upload.size, True, proof)


def push(
    lock: Lock,
    source: Path,
    target: str,
    *,
    url: str | None = None,
    replace: bool = False,
    bar: Bar = _no_bar,
) -> tuple[Lock, list[PushedFile]]:
    """Upload what `lock` names from `source` to `target`; returns the lock that points there.

    `source` is a tarball, or the folder of a split pack; a signature beside it goes along, but not
    through a presigned URL, which is of one object. `target` is s3://BUCKET/KEY, gs:// or
    az://; for a tarball also an http(s):// URL presigned for PUT. `url` is written into the lock in
    place of the target: a CDN's, or the public one of what is uploaded through a presigned URL.
    Without `replace` an object that is something else is never overwritten.

    Raises:
        UserError: the lock is not of `source`, the target can't be used or holds something else.
        OperationError: a file is not what the lock says, or the upload failed. No file is then half
            at the target, and the whole ones are not sent again by the next push.
    """
    if url is not None:
        check_public_url(url, lock)
    scheme = urlsplit(target).scheme
    if scheme in BUCKET_SCHEMES:
        uploads = plan_uploads(lock, source, target)
        place = f"{target.removesuffix('/')}/" if lock.split else uploads[0].url
        uploads += plan_signature(source, place)
        pushed = _push_to_bucket(uploads, target, replace, bar)
    elif scheme in ("http", "https") and not lock.split:
        [upload] = plan_uploads(lock, source, target)
        pushed = [_push_presigned(upload, url, replace, bar)]
        place = shown_url(target)
    else:
        raise UserError(
            f"{shown_url(target)!r} is no place to push to.",
            "s3://BUCKET/KEY, gs://BUCKET/KEY or az://CONTAINER/KEY is expected, or for a tarball "
            "an https:// URL presigned for PUT.",
            "Correct it.",
        )
    return dataclasses.replace(lock, url=url or place), pushed
