"""The URLs to read weights at rest from: a tarball's, or those of the files of a split lock."""

from urllib.parse import quote, urlsplit

from weights.lock import Lock, LockedFile, resolve_url
from weights.urls import BUCKET_SCHEMES


def readable_url(url: str) -> str:
    """`url` as plain HTTP can read it: of an object in a bucket, one signed for some hours."""
    if urlsplit(url).scheme not in BUCKET_SCHEMES:
        return url
    from weights.buckets import signed_url

    return signed_url(url)


def tarball_url(lock: Lock) -> str:
    """The http(s):// or file:// URL of a lock's tarball; in a bucket, one signed for some hours.

    Raises:
        UserError: the lock names no place, or there are no credentials for the bucket.
    """
    return readable_url(resolve_url(lock))


def file_url(lock: Lock, file: LockedFile) -> str:
    """The http(s):// or file:// URL of one file of a split lock.

    Raises:
        UserError: as of `tarball_url`.
    """
    return readable_url(resolve_url(lock) + quote(file.path))
