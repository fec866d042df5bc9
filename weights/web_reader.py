"""Byte sources: the tarball of a lock as a stream, from the web or from a file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from weights.errors import OperationError
from weights.urls import shown_url

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0


def _cause(error: BaseException) -> str:
    """The system's words for what went wrong.

    The messages of requests and urllib3 are no use here: they hold the whole URL, secrets included.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return type(error).__name__


@dataclass(slots=True)
class Source:
    """An open tarball. `length` in bytes, or None where the server does not tell it."""

    url: str
    length: int | None
    _read: Callable[[int], bytes]
    received: int = 0

    def read(self, count: int) -> bytes:
        """The next bytes, at most `count`; none at the end.

        Raises:
            OperationError: the connection broke or stalled, or the end came too early.
        """
        from urllib3.exceptions import HTTPError

        try:
            data = self._read(count)  # urllib3 raises at an end before Content-Length
        except (HTTPError, OSError) as error:
            raise self._broken(_cause(error)) from None
        self.received += len(data)
        return data

    def _broken(self, what: str) -> OperationError:
        announced = "all" if self.length is None else f"{self.length}"
        return OperationError(
            f"The download of {self.url} broke after {self.received} bytes ({what}).",
            f"It should have sent {announced} bytes, never pausing for {READ_SECONDS:.0f} seconds.",
            "Try again; nothing was installed.",
        )


def _unreachable(url: str, what: str) -> OperationError:
    return OperationError(
        f"{url} can't be read ({what}).",
        "The tarball that the lock names is expected there.",
        "Check the lock's url and the network, then try again.",
    )


def _answer(url: str) -> "requests.Response":
    # Imported here: a local install and `cogvideox fetch --help` don't need it.
    import requests

    try:
        return requests.get(
            url,
            stream=True,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            headers={"Accept-Encoding": "identity"},
        )
    except requests.RequestException as error:
        raise _unreachable(shown_url(url), _cause(error)) from None


@contextmanager
def _open_http(url: str) -> Iterator[Source]:
    with _answer(url) as response:
        if response.status_code != HTTPStatus.OK:
            answer = f"HTTP {response.status_code} {response.reason}"
            raise _unreachable(shown_url(url), answer)
        length = response.headers.get("Content-Length", "")
        announced = int(length) if length.isdecimal() else None
        yield Source(shown_url(url), announced, response.raw.read)


@contextmanager
def _open_file(url: str) -> Iterator[Source]:
    path = Path(url2pathname(urlsplit(url).path))
    if not path.is_file():
        raise _unreachable(shown_url(url), "there is no such file")
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreachable(shown_url(url), _cause(error)) from None
    with file:
        yield Source(shown_url(url), path.stat().st_size, file.read)


@contextmanager
def open_source(url: str) -> Iterator[Source]:
    """Open the http(s):// or file:// URL of a tarball for reading from start to end.

    Raises:
        OperationError: it can't be reached, or the server answers anything but 200.
    """
    opening = _open_file if urlsplit(url).scheme == "file" else _open_http
    with opening(url) as source:
        yield source
