"""One connection to one host of a URL that a user names, and what can go wrong on it.

On http.client, because no client library lets the time of a whole download be limited: their
timeouts begin anew with every byte of a header that trickles in, and with every address of a name.
Most of what they would add must not happen with a stranger's URL: proxies and passwords from the
environment, cookies, decompression.
"""

import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPSConnection,
    IncompleteRead,
    RemoteDisconnected,
)
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from weights.errors import OperationError, UserError
from weights.urls import shown_url, url_problem

_CONNECT_SECONDS = 10.0
_STALL_SECONDS = 20.0
# A name may have thousands of addresses, and each has its time to connect.
_MAX_ADDRESSES = 4
_PORTS = {"http": 80, "https": 443}


class Deadline:
    """The moment at which a download has to be over, whatever it waits for."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = False
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """The seconds until then.

        Raises:
            TimeoutError: there are none.
        """
        seconds = self._end - time.monotonic()
        self.passed = self.passed or seconds <= 0
        if self.passed:
            raise TimeoutError
        return seconds

    @contextmanager
    def ends(self, connection: socket.socket) -> Iterator[None]:
        """Shut `connection` down when the time is up: whoever waits for it goes on at once."""

        def end() -> None:
            self.passed = True
            with suppress(OSError):  # the other side was faster
                # Not the method of a TLS socket, which would forget in mid-read that it is one.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

        timer = threading.Timer(self.left(), end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def web_parts(url: str) -> SplitResult:
    """The parts of a URL that can be downloaded from.

    Raises:
        UserError: `url` is none. The message shows nothing of it: it may hold a password.
    """
    # What exactly is wrong with it is not said either, since it would be quoted there.
    parts = None if url_problem(url) else urlsplit(url)
    if parts is None or parts.scheme not in _PORTS:
        raise UserError(
            "A URL in the request is not a web address.",
            "https://HOST/PATH is expected, or http:// where that is allowed.",
            "Copy the whole address of the file.",
        )
    if "@" in parts.netloc:
        raise UserError(
            "A URL in the request holds a user's name or a password.",
            "These are not sent from here.",
            "Use a URL that everyone may download from, or a presigned one.",
        )
    return parts


@contextmanager
def connected(url: str, deadline: Deadline) -> Iterator[HTTPConnection]:
    """A connection to the host of `url`, which ends at the deadline."""
    parts = web_parts(url)
    port = parts.port or _PORTS[parts.scheme]
    tls = _tls_context() if parts.scheme == "https" else None
    with ExitStack() as stack:
        with reported(url, deadline):
            host = (parts.hostname or "").encode("idna").decode()
            open_socket = stack.enter_context(_open_socket(host, port, deadline))
            if tls is not None:
                open_socket = stack.enter_context(
                    tls.wrap_socket(
                        open_socket, server_hostname=host, do_handshake_on_connect=False
                    )
                )
            stack.enter_context(deadline.ends(open_socket))
            if isinstance(open_socket, ssl.SSLSocket):
                open_socket.do_handshake()
        connection = HTTPSConnection(host, port, context=tls) if tls else HTTPConnection(host, port)
        connection.sock = open_socket
        yield connection


def _open_socket(host: str, port: int, deadline: Deadline) -> socket.socket:
    failure: OSError = OSError(errno.EHOSTUNREACH, "no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    )[:_MAX_ADDRESSES]:
        open_socket = socket.socket(family, kind, protocol)
        try:
            open_socket.settimeout(min(_CONNECT_SECONDS, deadline.left()))
            open_socket.connect(address)
            open_socket.settimeout(_STALL_SECONDS)
        except OSError as error:
            open_socket.close()
            failure = error
        except BaseException:  # the guard's, or that of a cancelled prediction
            open_socket.close()
            raise
        else:
            return open_socket
    raise failure


def _tls_context() -> ssl.SSLContext:
    """The authorities that requests trusts, and so Cog where it fetches an image."""
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    authorities = Path(os.environ.get("REQUESTS_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH)
    if authorities.is_dir():
        return ssl.create_default_context(capath=authorities)
    return ssl.create_default_context(cafile=authorities)


@contextmanager
def reported(url: str, deadline: Deadline) -> Iterator[None]:
    """Turn what goes wrong on the network into an error of ours."""
    try:
        yield
        # What was shut down at the deadline looks like what has come to its end.
        deadline.left()
    except (OSError, HTTPException, ValueError) as error:
        if not deadline.passed:
            raise failed(url, _cause(error)) from None
        raise OperationError(
            f"The download from {shown_url(url)} took more than {deadline.seconds:g} s.",
            "It has to be over by then.",
            "Try again later, or use a smaller file or another server.",
        ) from None


def _cause(error: BaseException) -> str:
    """What went wrong, without what the other side wrote: it may be anything."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not accepted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no byte for too long"
    if isinstance(error, RemoteDisconnected | IncompleteRead):
        return "the connection ended early"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it does not speak HTTP as it should"


def failed(url: str, reason: str) -> OperationError:
    return OperationError(
        f"The download from {shown_url(url)} failed ({reason}).",
        "A server is expected there that sends the whole file.",
        "Try again later, or use another URL.",
    )
