"""Claims the key of a large file before its upload, so that it never goes over another object.

A conditional request lets a small object be created only where nothing is. S3 has the same for
multipart uploads, but obstore does not offer it. So a few bytes are created at the key first, under
that condition, and the parts go over one's own claim. Whoever pushes something else meanwhile finds
the claim and stops; a fetch that reads the claim finds a wrong size. When the last part is handed
over the claim is looked at again. What remains is a program that overwrites without a condition
while the last parts are sent, of at most 96 MiB together: what it wrote is overwritten.

The credentials have to allow overwriting: on Google's that is a right of its own (objects.delete),
and a bucket with a retention policy does not give it. --replace makes no claim.

A claim names the digest under way: a push of the same digest takes over what a killed one left.
Each has a random token, so that a push that fails removes no claim but its own.
"""

import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from weights.buckets import bucket_errors, object_key
from weights.errors import UserError
from weights.pushing.objects import StoredObject, Upload, changed, only_over, put, stored_object
from weights.urls import shown_url

if TYPE_CHECKING:
    from weights.buckets import Store

_log = logging.getLogger(__name__)


def _claim(store: "Store", upload: Upload, found: StoredObject | None) -> str:
    token = secrets.token_hex(8)
    text = json.dumps({"uploading": upload.digest, "size": upload.size}).encode()
    metadata = {"claimed": upload.digest, "token": token, "Content-Type": "application/json"}
    if not put(store, upload.url, text, metadata, only_over(found)):
        # A request that was sent again may have met the claim that it made the first time.
        now = stored_object(store, upload.url)
        if now is None or now.token != token:
            raise changed(upload.url)
    return token


def _withdraw(store: "Store", url: str, token: str) -> None:
    """Delete the claim if it is still there. A failure is only logged: another error comes."""
    try:
        found = stored_object(store, url)
        if found is not None and found.token == token:
            with bucket_errors(url):
                store.delete(object_key(url))
    except UserError as error:
        _log.warning("A claim of a few bytes stays at %s. %s", shown_url(url), error)


@contextmanager
def claimed(store: "Store", upload: Upload, found: StoredObject | None) -> Iterator[None]:
    """Holds the key of `upload`, where `found` is, until the upload went over it or failed.

    Raises:
        OperationError: something else came there meanwhile, or as of `bucket_errors`.
        UserError: as of `bucket_errors`.
    """
    token = _claim(store, upload, found)
    try:
        yield
    except BaseException:
        _withdraw(store, upload.url, token)
        raise


def check_claim(store: "Store", upload: Upload) -> None:
    """Check that nothing came to the key but this upload's claim, or the same file.

    Raises:
        OperationError: something did, or as of `bucket_errors`.
        UserError: as of `bucket_errors`.
    """
    now = stored_object(store, upload.url)
    if now is not None and upload.digest not in (now.claimed, now.digest):
        raise changed(upload.url)
