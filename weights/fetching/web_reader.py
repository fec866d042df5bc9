"""Reads files on the web in ranges: all of one version, until every byte asked for is there.

What a new try can mend (RFC 9110: 408, 429 and 5xx; a connection that breaks, ends early or
stalls) is tried again, from the last byte that came. Everything else fails at once.
"""

import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from weights.errors import OperationError
from weights.fetching.settings import FetchSettings
from weights.urls import shown_url

if TYPE_CHECKING:
    import requests

# Small enough to be still in the processor's cache when it is hashed and written.
CHUNK_BYTES = 256 << 10

_MENDABLE = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class StoppedError(Exception):
    """`stop` was called, because another part of the fetch failed."""


class _BrokenError(Exception):
    """A try failed in a way that the next one may not."""

    def __init__(self, what: str, pause_seconds: float = 0.0) -> None:
        self.pause_seconds = pause_seconds
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file on the web as its server describes it: size in bytes and strong ETag, if told.

    `ranges`: whether the server sends parts of it. One that does not is asked for the whole file,
    each time that the connection breaks, and what came before is skipped.
    """

    url: str
    size: int | None
    etag: str | None
    ranges: bool


def _cause(error: BaseException) -> str:
    """The system's words for what went wrong.

    The messages of requests and urllib3 are no use here: they hold the whole URL, secrets included.
    """
    from http.client import IncompleteRead

    from urllib3.exceptions import NewConnectionError, TimeoutError

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TimeoutError) and not isinstance(seen, NewConnectionError):
            return "no byte for too long"
        if isinstance(seen, IncompleteRead):
            return "the connection ended early"
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return type(error).__name__


def _answer(response: "requests.Response") -> str:
    """The status in our words: what a server writes beside its number may be anything."""
    status = response.status_code
    known = status in HTTPStatus._value2member_map_
    return f"HTTP {status} {HTTPStatus(status).phrase}" if known else f"HTTP {status}"


def _strong_etag(response: "requests.Response") -> str | None:
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else None


def _retry_after(response: "requests.Response") -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def _unreadable(url: str, found: str) -> OperationError:
    return OperationError(
        f"{shown_url(url)} can't be read ({found}).",
        "The weights that the lock names are expected there.",
        "Check the lock's url and the network, then try again.",
    )


def _changed(url: str) -> OperationError:
    return OperationError(
        f"{shown_url(url)} changed while it was downloaded.",
        "One version of it is expected, from the first byte to the last.",
        "Nothing was installed. Try again when the upload is finished.",
    )


def _check_status(url: str, response: "requests.Response", expected: HTTPStatus) -> None:
    if response.status_code != expected:
        raise _unreadable(url, _answer(response))


def _check_version(file: WebFile, response: "requests.Response") -> None:
    etag = _strong_etag(response)
    if response.status_code == HTTPStatus.PRECONDITION_FAILED or (
        etag and file.etag not in (None, etag)
    ):
        raise _changed(file.url)


def _check_range(file: WebFile, response: "requests.Response", start: int, end: int | None) -> None:
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None or end is None or (int(found[1]), int(found[2])) != (start, end - 1):
        raise _unreadable(file.url, f"asked for bytes from {start}, it sends others")
    if file.size is not None and found[3] not in ("*", str(file.size)):
        raise _changed(file.url)


class WebReader:
    """Reads from several threads at once, each with a connection of its own."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._own = threading.local()
        self._stopped = threading.Event()
        self._open: set[requests.Response] = set()
        self._open_lock = threading.Lock()

    def stop(self) -> None:
        """End all reading soon, also where a thread waits for bytes: it gets a StoppedError.

        Only a thread that waits for an answer to begin does so for up to `stall_seconds`.
        """
        self._stopped.set()
        with self._open_lock:
            for response in self._open:
                # Ends a read that waits for bytes; closing would wait for it. Not possible, nor
                # needed, where all was read already or the other side hung up.
                with suppress(OSError, RuntimeError, ValueError):
                    response.raw.shutdown()

    def probe(self, url: str) -> WebFile:
        """Ask for the first byte, to learn what the server says of the file.

        HEAD would do, but a presigned URL is signed for one method.

        Raises:
            OperationError: the file can't be read.
        """
        failures = 0
        while True:
            try:
                with self._response(url, {"Range": "bytes=0-0"}) as response:
                    return self._described(url, response)
            except _BrokenError as error:
                failures += 1
                self._pause(url, failures, error)

    def read(self, file: WebFile, start: int, end: int | None) -> Iterator[bytes]:
        """The bytes from `start` to before `end`, or to the file's end, in chunks.

        Raises:
            OperationError: they can't be had, or the file changed since `probe`.
            StoppedError: `stop` was called.
        """
        end = file.size if end is None else end
        position, failures = start, 0
        while end is None or position < end:
            try:
                for data in self._part(file, position, end):
                    position += len(data)
                    failures = 0
                    yield data
                if end is None:
                    return
            except _BrokenError as error:
                failures += 1
                self._pause(file.url, failures, error)

    def _described(self, url: str, response: "requests.Response") -> WebFile:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return WebFile(url, 0, None, ranges=True)  # an empty file has no first byte
        if response.status_code == HTTPStatus.OK:
            length = response.headers.get("Content-Length", "")
            size = int(length) if length.isdecimal() else None
            return WebFile(url, size, _strong_etag(response), ranges=False)
        _check_status(url, response, HTTPStatus.PARTIAL_CONTENT)
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        size = int(found[3]) if found and found[3] != "*" else None
        return WebFile(url, size, _strong_etag(response), ranges=True)

    def _part(self, file: WebFile, start: int, end: int | None) -> Iterator[bytes]:
        headers = {} if end is None or not file.ranges else {"Range": f"bytes={start}-{end - 1}"}
        if file.etag is not None:
            headers["If-Match"] = file.etag
        with self._response(file.url, headers) as response:
            _check_version(file, response)
            if "Range" not in headers:
                _check_status(file.url, response, HTTPStatus.OK)
                for _ in self._chunks(response, start):
                    pass
            elif response.status_code == HTTPStatus.OK:
                raise _BrokenError("it sends the whole file instead of a part")
            else:
                _check_status(file.url, response, HTTPStatus.PARTIAL_CONTENT)
                _check_range(file, response, start, end)
            yield from self._chunks(response, None if end is None else end - start)

    def _chunks(self, response: "requests.Response", count: int | None) -> Iterator[bytes]:
        """The next `count` bytes of the body; all that are left where that is None."""
        from urllib3.exceptions import HTTPError

        left = count
        while left is None or left > 0:
            try:
                data = response.raw.read(min(CHUNK_BYTES, left or CHUNK_BYTES))
            except (HTTPError, OSError, ValueError) as error:
                self._check_stopped()
                raise _BrokenError(_cause(error)) from None
            self._check_stopped()
            if not data:
                if left is None:
                    return
                raise _BrokenError("the connection ended early")
            if left is not None:
                left -= len(data)
            yield data

    @contextmanager
    def _response(self, url: str, headers: dict[str, str]) -> Iterator["requests.Response"]:
        # Imported here: a local install and `cogvideox fetch --help` don't need it.
        import requests

        self._check_stopped()
        settings = self._settings
        try:
            response = self._session().get(
                url,
                stream=True,
                timeout=(settings.connect_seconds, settings.stall_seconds),
                headers={"Accept-Encoding": "identity"} | headers,
            )
        except requests.exceptions.SSLError:
            raise _unreadable(url, "its TLS certificate is not accepted") from None
        except requests.ConnectionError as error:
            raise _BrokenError(_cause(error)) from None
        except (requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _BrokenError(_cause(error)) from None
        except (requests.RequestException, ValueError) as error:  # some of a redirect's address
            raise _unreadable(url, _cause(error)) from None
        with self._open_lock:
            self._open.add(response)
        try:
            self._check_stopped()  # `stop` may have come too early to see this response
            if response.status_code in _MENDABLE:
                answer = _answer(response)
                raise _BrokenError(answer, _retry_after(response))
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise _unreadable(url, "the server sends it compressed")
            yield response
        finally:
            with self._open_lock:
                self._open.discard(response)
            response.close()

    def _session(self) -> "requests.Session":
        import requests

        if not hasattr(self._own, "session"):
            self._own.session = requests.Session()
        return self._own.session  # type: ignore[no-any-return]

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError

    def _pause(self, url: str, failures: int, error: _BrokenError) -> None:
        """Wait a little longer after each failure in a row, and give up after the last."""
        settings = self._settings
        if failures >= settings.attempts:
            raise self._given_up(url, error)
        pause = settings.backoff_seconds * 2 ** (failures - 1) * random.uniform(0.75, 1.25)  # noqa: S311
        pause = min(max(pause, error.pause_seconds), settings.longest_pause_seconds)
        self._stopped.wait(pause)

    def _given_up(self, url: str, error: _BrokenError) -> OperationError:
        return OperationError(
            f"The download of {shown_url(url)} broke ({error}).",
            f"Bytes are expected, with no pause of more than {self._settings.stall_seconds:g} s.",
            "Try again: nothing was installed, and what came is used where the server allows.",
        )
