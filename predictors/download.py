"""Downloads a file that a user names, as far as address, size and time allow."""

from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from typing import BinaryIO
from urllib.parse import quote, urljoin

from predictors.outbound import guarded
from predictors.web_connection import Deadline, connected, failed, reported, web_parts
from weights.byte_sizes import shown_size
from weights.errors import UserError
from weights.urls import shown_url

MAX_REDIRECTS = 5
_CHUNK_BYTES = 256 << 10
# Of a file whose size the server does not say, what is reserved at a time.
_RESERVED_BYTES = 64_000_000
_REDIRECTS = {301, 302, 303, 307, 308}
_NOT_FOR_ALL = {401, 403, 404, 410, 451}
# What stays as it is in a path and a query (RFC 3986).
_UNQUOTED = "/%:@!$&'()*+,;=~-._?"


def download(
    url: str,
    file: BinaryIO,
    *,
    limit_bytes: int,
    limit_seconds: float,
    plain_http: bool = False,
    reserve: Callable[[int], object] = lambda _size: None,
) -> None:
    """Write to `file` what `url` gives to everyone, over at most five redirects.

    Only addresses are asked that `guard_outbound`, which must have been called, lets through; over
    http only those that the operator lists, unless `plain_http` allows it everywhere. Messages show
    no query of a URL: it may be a secret.

    Args:
        reserve: called before `file` gets more bytes than it was last called with: how many there
            will be, or may be, in all. What it raises ends the download.

    Raises:
        UserError: `url` is no web address, or what it gives is not for everyone, not at such an
            address, or larger than `limit_bytes`.
        OperationError: it can't be had within `limit_seconds`; `file` may have got a part of it.
    """
    deadline = Deadline(limit_seconds)
    for _ in range(1 + MAX_REDIRECTS):
        with (
            guarded(only_listed=web_parts(url).scheme == "http" and not plain_http),
            connected(url, deadline) as connection,
            _response(connection, url, deadline) as response,
        ):
            if response.status not in _REDIRECTS:
                _copy(response, file, url, limit_bytes, deadline, reserve)
                return
            url = _redirected(url, response.headers.get("Location", ""))
    raise failed(url, f"it redirects more than {MAX_REDIRECTS} times")


def _redirected(url: str, location: str) -> str:
    try:
        # http.client reads headers as Latin-1, and servers write UTF-8.
        target = urljoin(url, location.encode("latin-1").decode())
        web_parts(target)
    except (ValueError, UserError):
        raise failed(url, "it redirects to what is no web address") from None
    return target


def _response(connection: HTTPConnection, url: str, deadline: Deadline) -> HTTPResponse:
    parts = web_parts(url)
    target = quote(parts.path or "/", _UNQUOTED)
    if parts.query:
        target += f"?{quote(parts.query, _UNQUOTED)}"
    with reported(url, deadline):
        connection.putrequest("GET", target, skip_accept_encoding=True)
        connection.putheader("Accept-Encoding", "identity")
        connection.putheader("Connection", "close")
        connection.putheader("User-Agent", "cog-cogvideox")
        connection.endheaders()
        return connection.getresponse()


def _copy(
    response: HTTPResponse,
    file: BinaryIO,
    url: str,
    limit_bytes: int,
    deadline: Deadline,
    reserve: Callable[[int], object],
) -> None:
    _check(response, url)
    # None where the server does not say, as with chunks.
    declared = response.length
    count = reserved = 0
    while declared is None or count < declared:
        if max(count, declared or 0) > limit_bytes:
            raise UserError(
                f"{shown_url(url)} gives more than {shown_size(limit_bytes)}.",
                "No larger file is downloaded.",
                "Check that it is the right one.",
            )
        with reported(url, deadline):
            # One read of the socket: a loop until so much is there would let bytes trickle in.
            data = response.read1(_CHUNK_BYTES)
        if not data:
            break
        count += len(data)
        if count > reserved:
            reserved = min(count + _RESERVED_BYTES, limit_bytes) if declared is None else declared
            reserve(reserved)
        file.write(data)
    if declared not in (None, count):
        raise failed(url, "the connection ended early")


def _check(response: HTTPResponse, url: str) -> None:
    """Refuse what is not the file."""
    status = response.status
    if status == HTTPStatus.OK:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise failed(url, "it sends the file in another encoding")
        return
    known = status in HTTPStatus._value2member_map_
    # The phrase is ours: what a server writes beside its number may be anything.
    answer = f"HTTP {status} {HTTPStatus(status).phrase}" if known else f"HTTP {status}"
    if status not in _NOT_FOR_ALL:
        raise failed(url, answer)
    raise UserError(
        f"{shown_url(url)} gives nothing to everyone ({answer}).",
        "A public file is expected: tokens and passwords are not sent from here.",
        "Check the URL, make the file public, or use a URL that carries its own permission.",
    )
