"""The server of the fault tests is itself right where it should be and wrong as it is told."""

import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer

DATA = bytes(range(256)) * 16
RANGE = {"Range": "bytes=100-1123"}


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    server.serve("/x", DATA)
    yield server
    server.close()


@dataclass(frozen=True)
class Got:
    status: int
    headers: dict[str, str]
    body: bytes


def get(server: FaultyServer, path: str = "/x", method: str = "GET", **headers: str) -> Got:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=5)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return Got(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        ({}, 200, DATA),
        ({"Range": "bytes=0-0"}, 206, DATA[:1]),
        (RANGE, 206, DATA[100:1124]),
        ({"Range": "bytes=4000-"}, 206, DATA[4000:]),
        ({"Range": "bytes=4000-9999"}, 206, DATA[4000:]),
        ({"Range": "bytes=-10"}, 206, DATA[-10:]),
        ({"Range": "bytes=4096-"}, 416, b""),
        (RANGE | {"If-Match": '"v1"'}, 206, DATA[100:1124]),
        (RANGE | {"If-Match": '"v2"'}, 412, b""),
        (RANGE | {"If-Range": '"v1"'}, 206, DATA[100:1124]),
        (RANGE | {"If-Range": '"v2"'}, 200, DATA),
    ],
)
def test_a_right_answer_follows_the_rfc(server, headers, status, body):
    got = get(server, **headers)
    assert (got.status, got.body, got.headers["ETag"]) == (status, body, '"v1"')
    head = get(server, method="HEAD", **headers)
    assert (head.status, head.headers, head.body) == (status, got.headers, b"")


def test_a_weak_etag_matches_nothing(server):
    server.serve("/x", DATA, etag='W/"v1"')
    assert get(server, If_Match='W/"v1"').status == 412


def test_a_missing_object_is_404(server):
    assert get(server, "/y").status == 404


def test_requests_are_kept(server):
    get(server, "/x?sig=1", **RANGE, If_Match='"v1"')
    (request,) = server.asked("/x")
    assert (request.number, request.path, request.range) == (0, "/x?sig=1", RANGE["Range"])
    assert (request.if_match, request.span) == ('"v1"', (100, 1124))


def test_a_connection_is_kept(server):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=5)
    for _ in range(2):
        connection.request("GET", "/x")
        assert connection.getresponse().read() == DATA
        local = connection.sock.getsockname()
    assert connection.sock.getsockname() == local
    connection.close()


def test_the_first_fitting_fault_is_used_as_often_as_told(server):
    server.fault(faults.status(503, Retry_After="0"), times=2)
    server.fault(faults.status(404), when=lambda request: request.number == 3)
    answers = [get(server) for _ in range(4)]
    assert [answer.status for answer in answers] == [503, 503, 200, 404]
    assert answers[0].headers["Retry-After"] == "0"
    server.fault(faults.status(410))
    server.heal()
    assert get(server).status == 200


BROKEN = {
    "no answer": (faults.no_answer, http.client.RemoteDisconnected),
    "not http": (faults.not_http, http.client.BadStatusLine),
    "cut": (faults.cut, http.client.IncompleteRead),
    "cut late": (faults.cut_before_the_last_byte, http.client.IncompleteRead),
    "cut early": (faults.cut_before_the_body, http.client.IncompleteRead),
    "cut chunks": (faults.cut_chunks, http.client.IncompleteRead),
    "reset": (faults.reset, ConnectionResetError),
    "reset at once": (faults.reset_at_once, ConnectionResetError),
}


@pytest.mark.parametrize(("fault", "error"), BROKEN.values(), ids=BROKEN)
def test_a_connection_breaks_as_told(server, fault, error):
    server.fault(fault)
    with pytest.raises(error):
        get(server)


@pytest.mark.parametrize("fault", [faults.stall, faults.stall_at_once])
def test_a_stalled_answer_ends_with_the_server(server, fault):
    server.fault(fault)
    got: list[object] = []

    def ask() -> None:
        try:
            got.append(get(server))
        except (OSError, http.client.HTTPException) as error:
            got.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert server.stalled.wait(5)
    assert not got
    server.released.set()
    thread.join(5)
    assert isinstance(got[0], (http.client.IncompleteRead, http.client.RemoteDisconnected))


def test_wrong_ranges_are_as_told(server):
    wrong = {
        faults.ignore_range: (200, None, 4096),
        faults.shift_range: (206, "bytes 612-1635/4096", 1024),
        faults.widen_range: (206, "bytes 100-1635/4096", 1536),
        faults.add_bytes: (206, "bytes 100-1123/4096", 1536),
        faults.shorten_range: (206, "bytes 100-611/4096", 512),
        faults.without_headers("Content-Range"): (206, None, 1024),
        faults.with_headers(Content_Range="bytes"): (206, "bytes", 1024),
    }
    for fault in wrong:
        server.fault(fault, times=1)
    answers = [get(server, **RANGE) for _ in wrong]
    found = [(a.status, a.headers.get("Content-Range"), len(a.body)) for a in answers]
    assert found == list(wrong.values())


def test_a_bit_flips(server):
    server.fault(faults.flip_bit, times=1)
    wrong = get(server, **RANGE).body
    assert sum((a ^ b).bit_count() for a, b in zip(wrong, DATA[100:1124], strict=True)) == 1
    assert get(server, **RANGE).body == DATA[100:1124]


def test_other_ways_to_say_the_same(server):
    for fault in (faults.compress, faults.chunk, faults.without_length, faults.lower_case):
        server.fault(fault, times=1)
    packed, chunks, endless, lower = (get(server) for _ in range(4))
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.body != DATA
    for answer in (chunks, endless, lower):
        assert answer.body == DATA
    assert chunks.headers["Transfer-Encoding"] == "chunked"
    assert not {"Content-Length"} & (chunks.headers.keys() | endless.headers.keys())
    assert lower.headers["etag"] == '"v1"'


def test_an_object_is_replaced_at_a_request(server):
    server.fault(faults.doing(lambda: server.serve("/x", b"new", etag='"v2"')), times=1)
    assert get(server).body == DATA
    assert get(server).body == b"new"
    assert get(server, If_Match='"v1"').status == 412


def test_actions_wait_for_their_byte(server):
    done: list[int] = []
    server.when_sent(1000, lambda: done.append(server.sent))
    get(server, Range="bytes=0-99")
    assert (done, server.sent) == ([], 100)
    get(server)
    assert done == [1124]  # bodies go out in slices of 512
    server.when_sent(5, lambda: done.append(5))
    assert done == [1124, 5]
