"""A web server on this machine that goes wrong on command, as stores, proxies and networks do.

    url = server.serve("/w.tar", data)
    server.fault(cut, times=1)                                  # the next GET is cut in the middle
    server.fault(status(503), when=lambda request: request.number < 3)

Of all faults that fit a request, the first is used.
"""

import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.weights.fetching.faults import Answer, Fault, Object, Request, right_answer

_SLICE_BYTES = 512


@dataclass(slots=True)
class _Rule:
    fault: Fault
    when: Callable[[Request], bool]
    times: int | None

    def takes(self, request: Request) -> bool:
        if self.times == 0 or not self.when(request):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Http"

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        owner = self.server.owner
        headers = (self.headers[name] for name in ("Range", "If-Match", "If-Range"))
        self._send(owner.answer(self.command, self.path, *headers))

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, answer: Answer) -> None:
        try:
            if answer.status is not None:
                self.send_response_only(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
            if self.command != "HEAD":
                body = answer.body[: answer.sent]
                for start in range(0, len(body), _SLICE_BYTES):
                    piece = body[start : start + _SLICE_BYTES]
                    # Before it goes: what a client has got is counted, whoever runs next.
                    self.server.owner.count_sent(len(piece))
                    self.wfile.write(piece)
        except OSError:  # the client gave up or was killed, as some tests do
            self.close_connection = True
            return
        self._end(answer.ending)

    def _end(self, ending: str) -> None:
        if ending == "stall":
            self.server.owner.stalled.set()
            self.server.owner.released.wait()
        if ending == "reset":
            # Without lingering, closing sends RST and not FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.connections.discard(self.connection)
            os.close(self.connection.detach())
        if ending != "keep":
            self.close_connection = True


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # so that close() waits for them
    request_queue_size = 64

    def __init__(self, owner: "FaultyServer") -> None:
        self.owner = owner
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what this is about; anything else is a bug here."""
        if not isinstance(sys.exception(), OSError):
            self.owner.errors.append(sys.exception())


class FaultyServer:
    """Serves bytes by path, wrongly where told to, and keeps what was asked for.

    `stalled` is set when an answer stalls. `sent` counts the bytes of all bodies, before they
    go out.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.sent = 0
        self.stalled, self.released = threading.Event(), threading.Event()
        self.errors: list[BaseException | None] = []
        self._objects: dict[str, Object] = {}
        self._rules: list[_Rule] = []
        self._triggers: list[tuple[int, Callable[[], object]]] = []
        self._lock = threading.RLock()
        self._http = _Http(self)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def serve(self, path: str, data: bytes, *, etag: str | None = '"v1"') -> str:
        with self._lock:
            self._objects[path] = Object(data, etag)
        return f"{self.url}{path}"

    def fault(
        self,
        fault: Fault,
        *,
        when: Callable[[Request], bool] = lambda request: request.method == "GET",
        times: int | None = None,
    ) -> None:
        """Apply `fault` to the requests that fit `when`, `times` times or always."""
        with self._lock:
            self._rules.append(_Rule(fault, when, times))

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._rules.clear()

    def when_sent(self, count: int, action: Callable[[], object]) -> None:
        """Do `action` just before the slice goes out that makes it `count` bytes of bodies."""
        with self._lock:
            self._triggers.append((count, action))
            self.count_sent(0)

    def forget_triggers(self) -> None:
        with self._lock:
            self._triggers.clear()

    def asked(self, path: str | None = None) -> list[Request]:
        """The GETs, of `path` without its query or of all."""
        return [
            request
            for request in self.requests
            if request.method == "GET" and path in (None, request.path.partition("?")[0])
        ]

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._thread.join()
        for connection in list(self._http.connections):  # idle ones wait for another request
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._http.server_close()
        assert not self.errors, self.errors

    # What the handler calls.

    def answer(self, method: str, path: str, *headers: str | None) -> Answer:
        with self._lock:
            found = self._objects.get(path.partition("?")[0])
            request = Request(len(self.requests), method, path, *headers, found)
            self.requests.append(request)
            fault = next((rule.fault for rule in self._rules if rule.takes(request)), None)
        right = right_answer(request)
        return fault(right, request) if fault else right

    def count_sent(self, count: int) -> None:
        with self._lock:
            self.sent += count
            due = [action for at, action in self._triggers if at <= self.sent]
            self._triggers = [trigger for trigger in self._triggers if trigger[0] > self.sent]
        for action in due:
            action()
