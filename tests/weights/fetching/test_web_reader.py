"""Reading from the web: what a new try can mend is tried again, the rest is said, secrets never."""

import select
import socket
import struct
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace

import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.weights.fetching import faults
from tests.weights.fetching.faults import Answer, Fault, Request, with_body
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.surroundings import QUICK, check_message
from weights.errors import OperationError
from weights.fetching.web_reader import CHUNK_BYTES, StoppedError, WebFile, WebReader

DATA = bytes(range(256)) * 50


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    server = FaultyServer()
    server.serve("/x", DATA)
    yield server
    server.close()


@pytest.fixture
def reader() -> WebReader:
    return WebReader(QUICK)


def url(web: FaultyServer) -> str:
    return f"{web.url}/x?sig=SECRET"


def read(reader: WebReader, file: WebFile, start: int = 0, end: int | None = None) -> bytes:
    return b"".join(reader.read(file, start, end))


def read_all(web: FaultyServer, reader: WebReader) -> bytes:
    return read(reader, reader.probe(url(web)))


def failure(web: FaultyServer, reader: WebReader, address: str | None = None) -> str:
    """The message of the error, of which neither it nor its traceback tells the secret."""
    with pytest.raises(OperationError) as caught:
        read(reader, reader.probe(address or url(web)))
    check_message(caught.value, "SECRET")
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def spans(web: FaultyServer) -> list[str | None]:
    return [request.range for request in web.asked()]


# A server that does what it should.


def test_a_probe_learns_size_version_and_that_parts_can_be_had(web, reader):
    assert reader.probe(url(web)) == WebFile(url(web), len(DATA), '"v1"', ranges=True)
    assert spans(web) == ["bytes=0-0"]


def test_any_part_can_be_read(web, reader):
    file = reader.probe(url(web))
    assert read(reader, file, 100, 2000) == DATA[100:2000]
    assert read(reader, file) == DATA
    assert read(reader, file, 5, 5) == b""
    assert spans(web)[1:] == ["bytes=100-1999", f"bytes=0-{len(DATA) - 1}"]


def test_a_query_is_sent(web, reader):
    assert read_all(web, reader) == DATA
    assert {request.path for request in web.asked()} == {"/x?sig=SECRET"}


def test_parts_are_asked_of_the_version_that_was_probed(web, reader):
    assert read_all(web, reader) == DATA
    assert [request.if_match for request in web.asked()] == [None, '"v1"']


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_a_version_that_can_not_be_asked_for_is_not(web, reader, etag):
    web.serve("/x", DATA, etag=etag)
    assert read_all(web, reader) == DATA
    assert [request.if_match for request in web.asked()] == [None, None]


def test_an_empty_file_is_seen_and_not_asked_for_again(web, reader):
    web.serve("/x", b"")
    assert reader.probe(url(web)).size == 0
    assert read_all(web, reader) == b""
    assert len(web.asked()) == 2


def test_a_server_without_ranges_sends_all_and_the_rest_is_skipped(web, reader):
    web.fault(faults.ignore_range)
    file = reader.probe(url(web))
    assert (file.size, file.ranges) == (len(DATA), False)
    assert read(reader, file, 1000, 3000) == DATA[1000:3000]
    assert spans(web) == ["bytes=0-0", None]


@pytest.mark.parametrize("fault", [faults.chunk, faults.without_length])
def test_a_server_that_tells_no_length_is_read_to_the_end(web, reader, fault):
    web.fault(lambda answer, request: fault(faults.ignore_range(answer, request), request))
    file = reader.probe(url(web))
    assert (file.size, file.ranges) == (None, False)
    assert read(reader, file) == DATA
    assert read(reader, file, 10, 20) == DATA[10:20]


def test_a_part_in_chunks_and_headers_in_lower_case_are_fine(web, reader):
    web.fault(faults.chunk, when=with_body)
    web.fault(faults.lower_case)
    assert read_all(web, reader) == DATA


def test_a_large_part_comes_in_small_pieces(web, reader):
    data = DATA * 50
    web.serve("/x", data)
    chunks = list(reader.read(reader.probe(url(web)), 0, None))
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) == CHUNK_BYTES


@pytest.fixture
def sockets(monkeypatch) -> list[socket.socket]:
    """Those of the reader's connections, in order."""
    found: list[socket.socket] = []
    connect = urllib3.util.connection.create_connection

    def note(*arguments: object, **options: object) -> socket.socket:
        found.append(connect(*arguments, **options))
        return found[-1]

    monkeypatch.setattr("urllib3.util.connection.create_connection", note)
    return found


def test_a_thread_keeps_its_connection_from_part_to_part(web, reader, sockets):
    file = reader.probe(url(web))
    read(reader, file, 0, 1000)
    before = len(sockets)
    for start in range(0, 5000, 1000):
        assert read(reader, file, start, start + 1000) == DATA[start : start + 1000]
    assert len(sockets) == before


# What a new try mends.

MENDABLE = {
    f"status {code}": faults.status(code) for code in (408, 425, 429, 500, 502, 503, 504)
} | {
    fault.__name__: fault
    for fault in (
        faults.no_answer,
        faults.not_http,
        faults.cut,
        faults.cut_before_the_last_byte,
        faults.cut_before_the_body,
        faults.cut_chunks,
        faults.reset,
        faults.reset_at_once,
        faults.stall,
        faults.stall_at_once,
        faults.junk_after,
    )
}


@pytest.mark.parametrize("fault", MENDABLE.values(), ids=MENDABLE)
def test_what_a_new_try_can_mend_is_tried_again(web, reader, fault):
    web.fault(fault, times=QUICK.attempts - 1, when=with_body)
    file = reader.probe(url(web))
    assert read(reader, file, 0, 9000) == DATA[:9000]
    assert read(reader, file, 9000, None) == DATA[9000:]


@pytest.mark.parametrize("code", [429, 503])
def test_a_probe_is_tried_again_too(web, reader, code):
    web.fault(faults.status(code), times=QUICK.attempts - 1)
    assert reader.probe(url(web)).size == len(DATA)


def test_a_whole_file_instead_of_a_part_is_tried_again(web, reader):
    web.fault(faults.ignore_range, times=1, when=with_body)
    assert read_all(web, reader) == DATA


def test_a_new_try_goes_on_after_the_last_byte_that_came(web, reader):
    web.fault(faults.cut, times=1, when=with_body)
    assert read(reader, reader.probe(url(web)), 1000, 5000) == DATA[1000:5000]
    assert spans(web)[1:] == ["bytes=1000-4999", "bytes=3000-4999"]


def test_a_new_try_without_ranges_skips_what_came(web, reader):
    web.fault(faults.ignore_range, times=1)  # the probe
    cut = lambda answer, request: replace(answer, sent=1000, ending="close")  # noqa: E731
    web.fault(cut, times=1)
    steps = list(reader.read(reader.probe(url(web)), 500, 2000))
    assert b"".join(steps) == DATA[500:2000]
    assert len(steps) > 1


def test_only_failures_without_a_new_byte_count(web, reader):
    """Each answer brings half of what is left: far more breaks than attempts."""
    web.fault(faults.cut, when=lambda request: request.span[1] - request.span[0] > 1)
    assert read_all(web, reader) == DATA
    assert len(web.asked()) > 2 * QUICK.attempts


@given(
    start=st.integers(0, len(DATA)),
    length=st.integers(0, len(DATA)),
    wrong=st.lists(st.sampled_from([faults.cut, faults.reset, faults.status(503)]), max_size=2),
)
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_part_is_right_whatever_breaks_on_the_way(web, start, length, wrong):
    end = min(start + length, len(DATA))
    web.heal()
    for fault in wrong:
        web.fault(fault, times=1, when=with_body)
    reader = WebReader(QUICK)
    assert read(reader, reader.probe(url(web)), start, end) == DATA[start:end]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (faults.status(503), "HTTP 503"),
        (faults.cut_before_the_body, "the connection ended early"),
        (faults.reset_at_once, "Connection reset"),
        (faults.stall_at_once, "no byte for too long"),
        (faults.ignore_range, "the whole file instead of a part"),
    ],
)
def test_after_the_last_attempt_it_says_what_broke(web, reader, fault, words):
    web.fault(fault, when=with_body)
    message = failure(web, reader)
    assert words in message
    assert f"{web.url}/x broke" in message
    assert len(web.asked()) == 1 + QUICK.attempts


def test_a_chunked_answer_that_ends_early_is_called_that(web, reader):
    web.fault(
        lambda answer, request: replace(faults.chunk(answer, request), sent=0, ending="close")
    )
    web.fault(faults.cut_chunks)
    file = WebFile(url(web), len(DATA), None, ranges=True)
    with pytest.raises(OperationError, match="the connection ended early"):
        read(reader, file)


def pauses(web: FaultyServer, fault: Fault, monkeypatch, **numbers: float) -> list[float]:
    """How long a reader would wait between its attempts."""
    reader = WebReader(replace(QUICK, **numbers))
    waited: list[float] = []
    monkeypatch.setattr(reader._stopped, "wait", waited.append)
    web.fault(fault)
    failure(web, reader)
    return waited


def test_pauses_double_up_to_the_longest(web, monkeypatch):
    waited = pauses(
        web,
        faults.status(503),
        monkeypatch,
        attempts=8,
        backoff_seconds=1.0,
        longest_pause_seconds=10.0,
    )
    assert len(waited) == 7
    for number, pause in enumerate(waited):
        assert min(10, 0.75 * 2**number) <= pause <= min(10, 1.25 * 2**number)


@pytest.mark.parametrize(("asked", "waited"), [("7", 7.0), ("3600", 10.0)])
def test_a_server_that_says_when_to_come_back_is_heard_up_to_the_longest_pause(
    web, monkeypatch, asked, waited
):
    fault = faults.status(503, Retry_After=asked)
    assert pauses(web, fault, monkeypatch, longest_pause_seconds=10.0) == [waited, waited]


def test_a_date_to_come_back_is_not_understood_and_harmless(web, monkeypatch):
    fault = faults.status(503, Retry_After="Fri, 31 Dec 2100 23:59:59 GMT")
    assert max(pauses(web, fault, monkeypatch)) <= QUICK.longest_pause_seconds


# What no new try mends.


@pytest.mark.parametrize("code", [401, 403, 404, 410, 501])
def test_an_answer_that_stays_the_same_is_an_error_at_once(web, reader, code):
    web.fault(faults.status(code))
    message = failure(web, reader)
    assert f"{web.url}/x can't be read (HTTP {code}" in message
    assert len(web.asked()) == 1


@pytest.mark.parametrize("code", [403, 404, 416])
def test_so_it_is_after_the_probe(web, reader, code):
    web.fault(faults.status(code), when=with_body)
    assert f"(HTTP {code}" in failure(web, reader)
    assert len(web.asked()) == 2


def test_a_file_that_changed_is_an_error(web, reader):
    file = reader.probe(url(web))
    web.serve("/x", DATA, etag='"v2"')
    with pytest.raises(OperationError, match=r"/x changed while it was downloaded") as caught:
        read(reader, file)
    check_message(caught.value, "SECRET")
    assert len(web.asked()) == 2


def test_a_file_that_changed_is_seen_at_a_server_that_does_not_know_if_match(web, reader):
    file = reader.probe(url(web))
    web.serve("/x", DATA, etag='"v2"')
    web.fault(lambda answer, request: faults.right_answer(replace(request, if_match=None)))
    with pytest.raises(OperationError, match="changed"):
        read(reader, file)


def test_another_size_is_a_change_where_no_version_is_told(web, reader):
    web.serve("/x", DATA, etag=None)
    file = reader.probe(url(web))
    web.serve("/x", DATA + b"more", etag=None)
    with pytest.raises(OperationError, match="changed"):
        read(reader, file, 0, 100)


def test_the_change_is_seen_between_two_tries(web, reader):
    file = reader.probe(url(web))
    web.fault(faults.cut, times=1)
    web.when_sent(web.sent + 100, lambda: web.serve("/x", bytes(len(DATA)), etag='"v2"'))
    with pytest.raises(OperationError, match="changed"):
        read(reader, file)


@pytest.mark.parametrize(
    "fault",
    [faults.shift_range, faults.without_headers("Content-Range"), faults.widen_range],
    ids=["another range", "no word of the range", "a wider range"],
)
def test_other_bytes_than_asked_for_are_an_error(web, reader, fault):
    web.fault(fault, when=with_body)
    file = reader.probe(url(web))
    with pytest.raises(OperationError, match=r"bytes from 100, it sends others") as caught:
        read(reader, file, 100, 200)
    check_message(caught.value, "SECRET")
    assert len(web.asked()) == 2


def test_bytes_after_those_asked_for_are_not_read(web, reader):
    web.fault(faults.add_bytes, when=with_body)
    assert read_all(web, reader) == DATA


def test_no_compression_is_asked_for(server, reader):
    asked: list[str | None] = []
    url = server.serve("/x", DATA)
    answer = server.answers["/x"]
    server.answers["/x"] = lambda handler: (
        asked.append(handler.headers["Accept-Encoding"]),
        answer(handler),
    )
    assert read(reader, reader.probe(url)) == DATA
    assert asked == ["identity", "identity"]


def test_a_compressed_answer_is_refused(web, reader):
    web.fault(faults.compress)
    assert "compressed" in failure(web, reader)


def test_a_redirect_on_the_web_is_followed(web, reader):
    web.serve("/y", DATA)
    web.fault(faults.redirect("/y"), when=lambda request: request.path.startswith("/x"))
    assert read_all(web, reader) == DATA


@pytest.mark.parametrize("to", ["file:///etc/hostname", "/x", "http://[oops/", "ftp://127.0.0.1/x"])
def test_a_redirect_to_nowhere_is_an_error(web, reader, to):
    web.fault(faults.redirect(to))
    assert "can't be read" in failure(web, reader)


def test_a_refused_connection_is_said(web, reader):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://user:SECRET@127.0.0.1:{unused.getsockname()[1]}/x?sig=SECRET"
        assert "Connection refused" in failure(web, reader, address)


# Stopping.


def background(work) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


PATIENT = replace(QUICK, stall_seconds=60.0, backoff_seconds=60.0, longest_pause_seconds=60.0)


def test_a_thread_that_waits_for_bytes_is_stopped(web):
    reader = WebReader(PATIENT)
    file = reader.probe(url(web))
    web.fault(faults.stall)
    thread, errors = background(lambda: read(reader, file))
    assert web.stalled.wait(10)
    reader.stop()
    thread.join(10)
    assert [type(error) for error in errors] == [StoppedError]


def test_a_thread_that_pauses_is_stopped(web, monkeypatch):
    reader = WebReader(PATIENT)
    waiting = threading.Event()
    wait = reader._stopped.wait

    def note(seconds: float) -> bool:
        waiting.set()
        return wait(seconds)

    monkeypatch.setattr(reader._stopped, "wait", note)
    web.fault(faults.status(503))
    thread, errors = background(lambda: reader.probe(url(web)))
    assert waiting.wait(10)
    reader.stop()
    thread.join(10)
    assert [type(error) for error in errors] == [StoppedError]


def test_stopping_is_fine_while_the_last_bytes_are_in_use(web, reader):
    """The connection is then no longer the answer's: there is nothing to shut down."""
    chunks = reader.read(reader.probe(url(web)), 0, None)
    assert b"".join([next(chunks)]) == DATA
    reader.stop()
    with pytest.raises(StopIteration):
        next(chunks)


def test_stopping_is_fine_when_the_server_hung_up(reader, sockets):
    size, read_one = 4 * CHUNK_BYTES, threading.Event()
    head = f"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-{size - 1}/{size}\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_and_reset() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(head + bytes(CHUNK_BYTES))
                read_one.wait(10)
                lingering = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)

        thread, errors = background(answer_and_reset)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        chunks = reader.read(WebFile(address, size, None, ranges=True), 0, None)
        assert len(next(chunks)) == CHUNK_BYTES
        read_one.set()
        thread.join()
        arrived = select.poll()
        arrived.register(sockets[-1], 0)
        assert arrived.poll(10_000)
        reader.stop()
        with pytest.raises(StoppedError):
            next(chunks)
    assert not errors


def test_nothing_is_read_after_a_stop(web, reader):
    file = reader.probe(url(web))
    reader.stop()
    for work in (lambda: reader.probe(url(web)), lambda: read(reader, file)):
        with pytest.raises(StoppedError):
            work()
    assert len(web.asked()) == 1


def test_an_answer_that_begins_just_after_a_stop_is_not_waited_for(web):
    reader = WebReader(PATIENT)
    file = reader.probe(url(web))

    def stop_and_stall(answer: Answer, request: Request) -> Answer:
        reader.stop()
        return faults.stall(answer, request)

    web.fault(stop_and_stall)
    thread, errors = background(lambda: read(reader, file))
    thread.join(10)
    assert [type(error) for error in errors] == [StoppedError]
