"""What is in a bucket at a URL, and writing only where it is as expected."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weights.buckets import bucket_errors, is_about_bucket, object_key
from weights.errors import OperationError, UserError
from weights.urls import shown_url

if TYPE_CHECKING:
    from obstore import GetResult, PutMode, UpdateVersion

    from weights.buckets import Store


@dataclass(frozen=True, slots=True)
class Upload:
    """A file, what the lock says it is (bytes, `sha256:<hex>`), and the URL of its object."""

    path: Path
    size: int
    digest: str
    url: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in a bucket, by its size in bytes, its version and its metadata.

    `digest` is that of a finished push. A claim has the one under way in `claimed`, and a `token`.
    """

    size: int
    etag: str | None
    version: str | None
    digest: str | None
    claimed: str | None
    token: str | None


def _head(store: "Store", key: str) -> "GetResult | None":
    try:
        return store.get(key, options={"head": True})
    except FileNotFoundError:
        pass
    # A HEAD is answered without a body, which would tell a missing bucket from a missing key.
    try:
        return store.get(key)
    except FileNotFoundError as error:
        if is_about_bucket(error):
            raise
        return None


def stored_object(store: "Store", url: str) -> StoredObject | None:
    """What is at `url`, or None.

    Raises:
        UserError: there is no such bucket, or as of `bucket_errors`.
        OperationError: as of `bucket_errors`.
    """
    with bucket_errors(url):
        found = _head(store, object_key(url))
    if found is None:
        return None
    meta, metadata = found.meta, found.attributes
    return StoredObject(
        size=meta["size"],
        etag=meta["e_tag"],
        version=meta["version"],
        digest=metadata.get("digest"),
        claimed=metadata.get("claimed"),
        token=metadata.get("token"),
    )


def only_over(found: StoredObject | None) -> "PutMode":
    """The condition that what is there is still what was found."""
    if found is None:
        return "create"
    version: UpdateVersion = {}
    if found.etag is not None:
        version["e_tag"] = found.etag
    if found.version is not None:
        version["version"] = found.version
    return version


def put(store: "Store", url: str, data: bytes, metadata: dict[str, str], mode: "PutMode") -> bool:
    """Write a small object in one request; False if the condition of `mode` does not hold.

    Raises:
        UserError, OperationError: as of `bucket_errors`.
    """
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    with bucket_errors(url):
        try:
            store.put(object_key(url), data, attributes={**metadata}, mode=mode)
        except (AlreadyExistsError, PreconditionError):
            return False
    return True


def _occupied(url: str, what: str) -> UserError:
    return UserError(
        f"At {shown_url(url)} is {what}.",
        "A free place is expected, or the same file from an earlier push.",
        "Choose another place, or overwrite that with --replace.",
    )


def is_stored(upload: Upload, found: StoredObject | None, *, replace: bool) -> bool:
    """Whether what was found is the finished upload, by its size and recorded digest.

    Raises:
        UserError: it is something else, and `replace` does not say that it may be overwritten.
    """
    if found is None:
        return False
    if (found.digest, found.size) == (upload.digest, upload.size):
        return True
    if not replace and found.claimed is None:
        raise _occupied(upload.url, f"another object already, of {found.size} bytes")
    if not replace and found.claimed != upload.digest:
        raise _occupied(upload.url, "the claim of another push, which is under way or was killed")
    return False


def changed(url: str) -> OperationError:
    """The error of a place that something else came to since it was looked at."""
    return OperationError(
        f"Something else came to {shown_url(url)} during the push.",
        "One push at a time is expected for one place.",
        "It was left as it is. Look at it, then push to another place or with --replace.",
    )
