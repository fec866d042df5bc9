"""The builtin engine: ranges in parallel from the lock's offsets, or one stream without them."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.weights.fetching import faults
from tests.weights.fetching.faults import Request
from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.fetching.hostile_tars import Files, honest_tar
from tests.weights.surroundings import QUICK, pinned_lock, split_lock
from weights.errors import OperationError
from weights.fetching.builtin import _cut, fetch
from weights.fetching.journal import landed_bytes
from weights.fetching.landing_folder import DigestError
from weights.lock import Lock, LockedFile

CHANCE = random.Random(0)
FILES = {"a": CHANCE.randbytes(9000), "b/c": CHANCE.randbytes(300), "b/é d": b"", "z": b"x" * 5000}
SIZE = 14_300


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def lock(web) -> Lock:
    tar = honest_tar(FILES)
    return pinned_lock(tar, FILES, web.serve("/w.tar", tar.data))


@pytest.fixture
def split(web, lock) -> Lock:
    for path, data in FILES.items():
        web.serve(f"/w/{path.replace('é d', '%C3%A9%20d')}", data)
    return split_lock(lock, f"{web.url}/w/")


class Fetched:
    """Where the files come to, and what was told of the progress."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.journal = folder / "files", folder / "journal"
        self.steps: list[int] = []

    def fetch(self, lock: Lock, **numbers: float) -> Files:
        settings = replace(QUICK, **({"piece_bytes": 1000} | numbers))  # type: ignore[arg-type]
        fetch(lock, self.folder, self.journal, settings, self.steps.append)
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def fetched(quick_path) -> Fetched:
    return Fetched(quick_path)


def bodies(web: FaultyServer) -> list[Request]:
    return [request for request in web.asked() if faults.with_body(request)]


@given(
    sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=5),
    gaps=st.lists(st.integers(1, 3), min_size=5, max_size=5),
    chunks=st.lists(st.integers(1, 1500), min_size=1),
    skipped=st.sets(st.integers(0, 4)),
)
def test_a_stream_is_cut_into_the_files_bytes(sizes, gaps, chunks, skipped):
    """However it comes in, and also if some of the files are not taken."""
    data = random.Random(1).randbytes(sum(sizes) + 5 * 3 * 512 + 512 * 5)
    files, end = [], 0
    for number, (size, gap) in enumerate(zip(sizes, gaps, strict=False)):
        start = -(-end // 512) * 512 + gap * 512
        files.append(LockedFile(str(number), size, "", start))
        end = start + size
    starts = [0]
    while starts[-1] < len(data):
        starts.append(starts[-1] + chunks[len(starts) % len(chunks)])
    stream = (data[a:b] for a, b in itertools.pairwise(starts))
    for file, part in zip(files, _cut(stream, files), strict=True):
        if int(file.path) not in skipped:
            assert b"".join(part) == data[file.offset : file.offset + file.size]


def test_brings_the_files_of_a_tarball_by_ranges(web, lock, fetched):
    assert fetched.fetch(lock) == FILES
    assert sum(fetched.steps) == SIZE
    # Of the tarball, the files' bytes and the one byte of the first look are fetched, each once.
    spans = sorted(request.span for request in bodies(web))
    expected = [
        (file.offset + start, file.offset + min(start + 1000, file.size))
        for file in lock.files
        for start in range(0, file.size, 1000)
    ]
    assert spans == sorted(expected)
    assert len(web.asked()) == len(spans) + 1


def test_brings_single_files_by_ranges(web, split, fetched):
    assert fetched.fetch(split) == FILES
    assert sum(fetched.steps) == SIZE
    assert len(bodies(web)) == 9 + 1 + 5
    assert not web.asked("/w/b/%C3%A9%20d")  # nothing is needed of an empty file


@pytest.mark.parametrize(("connections", "piece_bytes"), [(1, 1000), (30, 1 << 20), (3, 17)])
def test_any_number_of_connections_and_pieces_does(lock, fetched, connections, piece_bytes):
    assert fetched.fetch(lock, connections=connections, piece_bytes=piece_bytes) == FILES


def test_a_tarball_from_a_server_without_ranges_is_one_stream(web, lock, fetched):
    web.fault(faults.ignore_range)
    assert fetched.fetch(lock) == FILES
    assert sum(fetched.steps) == SIZE
    assert [request.range for request in web.asked()] == ["bytes=0-0", None]


def test_single_files_from_a_server_without_ranges_come_whole(web, split, fetched):
    web.fault(faults.ignore_range)
    assert fetched.fetch(split) == FILES
    assert [request.range for request in web.asked("/w/a")] == ["bytes=0-0", None]


def test_a_stream_goes_on_with_the_files_that_are_missing(web, lock, fetched):
    def cut_in_the_last_file(answer: faults.Answer, request: Request) -> faults.Answer:
        whole = faults.ignore_range(answer, request)
        return replace(whole, sent=lock.files[-1].offset + 10, ending="close")

    web.fault(cut_in_the_last_file)
    with pytest.raises(OperationError, match="the connection ended early"):
        fetched.fetch(lock)
    assert landed_bytes(fetched.journal, lock) == SIZE - 5000
    web.heal()
    web.fault(faults.ignore_range)
    fetched.steps.clear()
    assert fetched.fetch(lock) == FILES
    assert fetched.steps[0] == SIZE - 5000
    assert sum(fetched.steps) == SIZE


def test_a_damaged_file_comes_again(web, lock, fetched):
    web.fault(faults.flip_bit, times=1, when=lambda r: r.span[0] == lock.files[-1].offset + 2000)
    assert fetched.fetch(lock) == FILES
    assert sum(fetched.steps) == SIZE
    assert -5000 in fetched.steps
    assert len(bodies(web)) == 9 + 1 + 5 + 5


def test_a_damaged_file_of_a_stream_comes_again(web, lock, fetched):
    """In the middle of the tarball is the largest file."""
    web.fault(faults.ignore_range, times=1)  # the first look
    web.fault(lambda a, r: faults.flip_bit(faults.ignore_range(a, r), r), times=1)
    web.fault(faults.ignore_range)
    assert fetched.fetch(lock) == FILES
    assert sum(fetched.steps) == SIZE
    assert -9000 in fetched.steps
    assert len(web.asked()) == 3


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_is_another_is_an_error(web, lock, fetched, ranges):
    other = FILES | {"z": b"y" * 5000}
    web.serve("/w.tar", honest_tar(other).data)
    if not ranges:
        web.fault(faults.ignore_range)
    with pytest.raises(DigestError, match=r"w\.tar holds 'z' with the digest sha256:"):
        fetched.fetch(lock)


@pytest.mark.parametrize("change", [-1, 1, 512])
def test_a_tarball_of_another_size_is_refused_before_anything_is_fetched(
    web, lock, fetched, change
):
    data = honest_tar(FILES).data
    web.serve("/w.tar", (data + bytes(512))[: len(data) + change])
    with pytest.raises(OperationError, match=rf"has {len(data) + change} bytes.*lock it has"):
        fetched.fetch(lock)
    assert bodies(web) == []


def test_a_single_file_of_another_size_is_an_error(web, split, fetched):
    web.serve("/w/z", b"x" * 4999)
    with pytest.raises(OperationError, match=r"/w/z has 4999 bytes.*lock it has 5000"):
        fetched.fetch(split)


def test_an_error_of_one_thread_ends_the_others(web, lock, fetched):
    """One waits for bytes that never come, the other meets an error: that is the one told."""
    web.fault(faults.stall, times=1, when=faults.with_body)

    def when_one_waits(answer: faults.Answer, request: Request) -> faults.Answer:
        assert web.stalled.wait(10)
        return faults.status(404)(answer, request)

    web.fault(when_one_waits, when=faults.with_body)
    with pytest.raises(OperationError, match="HTTP 404"):
        fetched.fetch(lock, stall_seconds=100.0, connections=2)


def test_what_landed_is_not_fetched_again(web, lock, fetched):
    web.fault(faults.status(404), when=lambda request: len(bodies(web)) > 5)
    with pytest.raises(OperationError, match="HTTP 404"):
        fetched.fetch(lock)
    landed = landed_bytes(fetched.journal, lock)
    assert landed >= 300
    web.heal()
    before = len(bodies(web))
    fetched.steps.clear()
    assert fetched.fetch(lock) == FILES
    assert fetched.steps[0] == landed
    assert sum(fetched.steps) == SIZE
    asked = sum(end - start for start, end in (request.span for request in bodies(web)[before:]))
    assert asked == SIZE - landed


@pytest.mark.parametrize("ranges", [True, False])
def test_what_was_left_damaged_comes_again(web, lock, fetched, ranges):
    if not ranges:
        web.fault(faults.ignore_range)
    fetched.fetch(lock)
    (fetched.folder / "z").write_bytes(b"y" * 5000)
    (fetched.folder / "b" / "é d").write_bytes(b"more")
    before = len(web.asked())
    fetched.steps.clear()
    assert fetched.fetch(lock) == FILES
    assert fetched.steps[:2] == [SIZE, -5000]
    assert sum(fetched.steps) == SIZE
    assert len(web.asked()) - before == 1 + (5 if ranges else 1)


@pytest.mark.parametrize("ranges", [True, False])
def test_only_empty_files_are_there_at_once(web, fetched, ranges):
    if not ranges:
        web.fault(faults.ignore_range)
    files = {"a": b"", "b": b""}
    tar = honest_tar(files)
    lock = pinned_lock(tar, files, web.serve("/w.tar", tar.data))
    assert fetched.fetch(lock) == files
    assert len(web.asked()) == 1
