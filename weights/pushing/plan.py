"""What a push will do, from the lock, the sizes of the files and the target: nothing is sent."""

import hashlib
from pathlib import Path
from urllib.parse import quote, urlsplit

from weights.buckets import object_key
from weights.errors import UserError
from weights.lock import Lock
from weights.pushing.objects import Upload
from weights.signature import SUFFIX, signature_url
from weights.urls import BUCKET_SCHEMES, is_relative, shown_url, url_problem


def _check_source(lock: Lock, source: Path) -> None:
    if not lock.pinned:
        raise UserError(
            f"The lock of {lock.name} is not pinned.",
            "A lock with digests is expected, as `cogvideox pack` writes it.",
            "Pack the weights, then push those.",
        )
    if lock.split != source.is_dir():
        kind = "single files (a split pack)" if lock.split else "a tarball"
        raise UserError(
            f"{source} is not what the lock names.",
            f"The lock is of {kind}.",
            "Give what was packed together with the lock.",
        )


def _check_size(upload: Upload) -> None:
    size = upload.path.stat().st_size if upload.path.is_file() else None
    if size != upload.size:
        found = "is not there" if size is None else f"has {size} bytes"
        raise UserError(
            f"{upload.path} {found}.",
            f"The lock says {upload.size} bytes.",
            "Pack the weights again, or give the lock that belongs to them.",
        )


def plan_uploads(lock: Lock, source: Path, target: str) -> list[Upload]:
    """Which file goes to which URL: a tarball to `target`, or into it where that ends in a slash.

    Raises:
        UserError: the lock is not of `source`, or a file of it is missing or has another size.
    """
    _check_source(lock, source)
    if lock.split:
        folder = target if target.endswith("/") else f"{target}/"
        uploads = [
            Upload(source / file.path, file.size, file.digest, folder + quote(file.path))
            for file in lock.files
        ]
    else:
        assert lock.size is not None
        assert lock.digest is not None
        if urlsplit(target).scheme in BUCKET_SCHEMES and object_key(target)[-1:] in ("", "/"):
            target = f"{target.removesuffix('/')}/{quote(source.name)}"
        uploads = [Upload(source, lock.size, lock.digest, target)]
    for upload in uploads:
        _check_size(upload)
    return uploads


def plan_signature(source: Path, place: str) -> list[Upload]:
    """The signature beside `source`, if there is one, to where fetch looks for it beside `place`.

    Raises:
        UserError: nothing can be beside `place`.
    """
    path = source.parent / f"{source.name}{SUFFIX}"
    if not path.is_file():
        return []
    data = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return [Upload(path, len(data), digest, signature_url(place))]


def check_public_url(url: str, lock: Lock) -> None:
    """Check what is to be written into the lock in place of the target.

    Raises:
        UserError: it can't be, or holds what may be a secret.
    """
    problem = url_problem(url) or ("is not absolute" if is_relative(url) else None)
    if problem is None and url != shown_url(url):
        problem = "has a user, a query or a fragment; a lock holds no secret"
    if problem is None and url.endswith("/") != lock.split:
        problem = "has to end in a slash" if lock.split else "ends in a slash"
    if problem:
        raise UserError(
            f"The url {shown_url(url)!r} {problem}.",
            "The address is expected where the weights can be read after the push.",
            "Correct it, or leave it out to write the target into the lock.",
        )
