"""A file on the web as one stream: in order, by several connections, in little memory."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.weights.fetching import faults
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.surroundings import QUICK
from weights.errors import OperationError
from weights.fetching.ordered_ranges import read_ahead
from weights.fetching.web_reader import WebReader

DATA = random.Random(0).randbytes(20_000)


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


def stream(web: FaultyServer, data: bytes, **numbers: float) -> Iterator[bytes]:
    url = web.serve("/x", data)
    reader = WebReader(replace(QUICK, **numbers))
    return read_ahead(reader, reader.probe(url), replace(QUICK, **numbers))


@given(
    size=st.integers(0, len(DATA)),
    piece_bytes=st.integers(500, 30_000),
    connections=st.integers(1, 5),
)
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_all_bytes_come_in_order(web, size, piece_bytes, connections):
    chunks = stream(web, DATA[:size], piece_bytes=piece_bytes, connections=connections)
    assert b"".join(chunks) == DATA[:size]


def test_each_byte_is_fetched_once(web):
    assert b"".join(stream(web, DATA, piece_bytes=3000)) == DATA
    spans = sorted(request.span for request in web.asked()[1:])
    assert spans == [(start, min(start + 3000, len(DATA))) for start in range(0, len(DATA), 3000)]


def test_no_more_is_fetched_ahead_than_two_pieces_a_connection(web, monkeypatch):
    begun: list[object] = []
    submit = ThreadPoolExecutor.submit

    def note(self, *arguments: object) -> Future[object]:
        begun.append(arguments)
        return submit(self, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", note)
    with closing(stream(web, DATA, piece_bytes=500, connections=3)) as chunks:
        for taken in range(10):
            next(chunks)
            assert len(begun) == taken + 2 * 3


def test_several_connections_are_at_work_at_once(web):
    """No answer ends before a second request came."""
    both = threading.Barrier(2, timeout=10)
    web.fault(faults.doing(both.wait), times=2, when=faults.with_body)
    chunks = stream(web, DATA, piece_bytes=3000, connections=2, stall_seconds=60.0, attempts=1)
    assert b"".join(chunks) == DATA


def test_what_breaks_is_tried_again(web):
    web.fault(faults.cut, times=5, when=faults.with_body)
    assert b"".join(stream(web, DATA, piece_bytes=3000)) == DATA


@pytest.mark.parametrize("fault", [faults.ignore_range, faults.chunk])
def test_a_server_without_ranges_or_size_is_read_by_one_connection(web, fault):
    web.fault(lambda answer, request: fault(faults.ignore_range(answer, request), request))
    assert b"".join(stream(web, DATA, piece_bytes=3000)) == DATA
    assert [request.range for request in web.asked()] == ["bytes=0-0", None]


def test_an_error_of_a_piece_comes_after_the_bytes_before_it(web):
    web.fault(faults.status(404), when=lambda request: request.span[0] == 6000)
    chunks = stream(web, DATA, piece_bytes=3000)
    assert next(chunks) + next(chunks) == DATA[:6000]
    with pytest.raises(OperationError, match="HTTP 404"):
        next(chunks)


def test_who_stops_reading_waits_for_nobody(web):
    web.fault(faults.stall, when=lambda request: request.span[0] > 0)
    chunks = stream(web, DATA, piece_bytes=3000, stall_seconds=60.0)
    assert next(chunks) == DATA[:3000]
    assert web.stalled.wait(10)
    chunks.close()
