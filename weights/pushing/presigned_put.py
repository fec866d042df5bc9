"""Uploads one file by one PUT to a presigned https:// URL, as S3, Google and their like give them.

Such a URL is a secret until it expires. It allows one request, so that what is uploaded can be read
back only through another URL, if the object has a public one.
"""

import hashlib
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO, Literal

from weights.errors import OperationError, UserError
from weights.fetching.ordered_ranges import read_ahead
from weights.fetching.settings import FetchSettings
from weights.fetching.web_reader import WebReader
from weights.pushing.objects import Upload
from weights.urls import shown_url

if TYPE_CHECKING:
    import requests

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/upload-objects.html
MAX_BYTES = 5 << 30
_TIMEOUT_SECONDS = (10, 300)
_REMEDIES = {
    HTTPStatus.FORBIDDEN: "Get a new URL: it has expired, or was signed for another request.",
    HTTPStatus.PRECONDITION_FAILED: "An object is there already; overwrite it with --replace.",
    HTTPStatus.CONFLICT: "An object came there meanwhile; overwrite it with --replace.",
    HTTPStatus.NOT_IMPLEMENTED: "The server knows no condition; push with --replace.",
    HTTPStatus.TEMPORARY_REDIRECT: "Get a URL that was signed for the bucket's own region.",
}

Progress = Callable[[int], object]


class _Body:
    """The file as requests sends it, hashed on its way.

    Its last bytes are sent only if it is what the lock says. Without them the server has fewer than
    were announced, and keeps none.
    """

    def __init__(self, file: BinaryIO, upload: Upload, progress: Progress) -> None:
        self._file, self._upload, self._progress = file, upload, progress
        self._left = upload.size
        self._sha256 = hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False)

    def __len__(self) -> int:
        return self._upload.size

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(data)
        self._sha256.update(data)
        self.md5.update(data)
        if not (data and self._left) and self._digest() != self._upload.digest:
            raise OperationError(
                f"{self._upload.path} is not what its lock says: it has another digest.",
                f"{self._upload.digest} is expected.",
                "Pack it again, or get it again. Nothing was uploaded.",
            )
        self._progress(len(data))
        return data

    def _digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


def check_presigned(upload: Upload) -> None:
    """Check that a file can go through one PUT.

    Raises:
        UserError: it is too large.
    """
    if upload.size > MAX_BYTES:
        raise UserError(
            f"{upload.path} has {upload.size / 2**30:.1f} GiB.",
            f"One PUT takes at most {MAX_BYTES >> 30} GiB.",
            "Push to s3://, gs:// or az:// instead, with credentials in the environment.",
        )


def _put(url: str, body: _Body, headers: dict[str, str]) -> "requests.Response":
    import requests

    try:
        return requests.put(
            url,
            data=body,
            headers=headers,
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
        )
    except (requests.RequestException, OSError) as error:
        # Their texts hold the whole URL.
        raise OperationError(
            f"The upload to {shown_url(url)} broke ({type(error).__name__}).",
            "The server is expected to take all of it.",
            "Check the network, then push again.",
        ) from None


def put_presigned(upload: Upload, *, replace: bool, progress: Progress) -> tuple[str, str | None]:
    """Upload a file; returns its MD5 in hexadecimal and the ETag that the server answers with.

    Without `replace` the server is asked to keep what it has (If-None-Match), which Amazon's and
    most of its like do; one that does not know the condition may ignore it.

    Raises:
        OperationError: the file is not what the lock says, or the server did not take it.
        OSError: the file can't be read.
    """
    headers = {} if replace else {"If-None-Match": "*"}
    with upload.path.open("rb") as file:
        body = _Body(file, upload, progress)
        response = _put(upload.url, body, headers)
    if response.status_code // 100 != 2:
        raise OperationError(
            f"{shown_url(upload.url)} answered HTTP {response.status_code} {response.reason}.",
            "A presigned URL for PUT is expected.",
            _REMEDIES.get(HTTPStatus(response.status_code), "Get a new URL and push again."),
        )
    return body.md5.hexdigest(), response.headers.get("ETag")


def read_back(url: str, upload: Upload, md5: str, progress: Progress) -> Literal["etag", "content"]:
    """Read an upload back from its public URL: its size and ETag, or if that is no MD5 all of it.

    Raises:
        OperationError: it can't be read, or is something else.
    """
    try:
        proof = _proof(url, upload, md5, progress)
        found = f"{shown_url(url)} gives something else."
    except OperationError as error:
        proof, found = None, error.given
    if proof is None:
        raise OperationError(
            f"The upload is done, but can't be read back: {found}",
            f"{upload.size} bytes with the digest {upload.digest} are expected.",
            "Check --url. The lock was not changed.",
        )
    return proof


def _proof(
    url: str, upload: Upload, md5: str, progress: Progress
) -> Literal["etag", "content"] | None:
    settings = FetchSettings()
    reader = WebReader(settings)
    file = reader.probe(url)
    if file.size == upload.size and file.etag == f'"{md5}"':
        return "etag"
    if file.size not in (None, upload.size):
        return None
    sha256 = hashlib.sha256()
    for data in read_ahead(reader, file, settings):
        sha256.update(data)
        progress(len(data))
    return "content" if f"sha256:{sha256.hexdigest()}" == upload.digest else None
