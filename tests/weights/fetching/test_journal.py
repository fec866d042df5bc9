"""The journal of a fetch: what it says landed did land, whatever became of its last words."""

import random
import threading
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weights.fetching.journal import FetchJournal, landed_bytes
from weights.fetching.pieces import Piece, plan_pieces
from weights.lock import Lock, LockedFile

DIGEST = f"sha256:{'0' * 64}"


def lock_of(*sizes: int) -> Lock:
    files = tuple(LockedFile(f"f{n}", size, DIGEST) for n, size in enumerate(sizes))
    return Lock(name="x", variant=None, dtype=None, url="x.tar", files=files)


LOCK = lock_of(95, 0, 1000, 1)
PLAN = plan_pieces(LOCK, 10)
# A disk may be slow, and hypothesis runs a test many times with one folder.
ON_DISK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(quick_path):
    return quick_path / "journal"


def written(path, pieces: list[Piece], lock: Lock = LOCK, piece_bytes: int = 10) -> None:
    with closing(FetchJournal(path, lock, piece_bytes)) as journal:
        for piece in pieces:
            journal.add(piece)


def landed(path, lock: Lock = LOCK, piece_bytes: int = 10) -> set[tuple[int, int]]:
    with closing(FetchJournal(path, lock, piece_bytes)) as journal:
        return {(file, n) for file, numbers in enumerate(journal.landed) for n in numbers}


def keys(pieces: list[Piece]) -> set[tuple[int, int]]:
    return {(piece.file, piece.number) for piece in pieces}


def test_a_new_one_says_that_nothing_is_there(path):
    assert landed_bytes(path, LOCK) == 0
    assert landed(path) == set()
    assert landed_bytes(path, LOCK) == 0


def test_it_is_readable(path):
    written(path, [Piece(2, 17, 170, 180), Piece(0, 9, 90, 95)])
    headline, *lines = path.read_text().splitlines()
    assert headline == f'{{"setDigest": "{LOCK.set_digest}", "pieceBytes": 10}}'
    assert lines == ["2 17", "0 9"]


@ON_DISK
@given(st.lists(st.sampled_from(PLAN)))
def test_what_was_added_is_there_after_a_restart_and_after_another(path, pieces):
    path.unlink(missing_ok=True)
    written(path, pieces)
    size = sum(piece.end - piece.start for piece in set(pieces))
    for _ in range(2):
        assert landed_bytes(path, LOCK) == size
        assert landed(path) == keys(pieces)
    written(path, PLAN)
    assert landed_bytes(path, LOCK) == LOCK.files_size


@ON_DISK
@given(st.lists(st.sampled_from(PLAN), unique=True), st.data())
def test_a_torn_journal_names_the_pieces_before_the_tear(path, pieces, data):
    path.unlink(missing_ok=True)
    written(path, pieces)
    text = path.read_bytes()
    kept = text[: data.draw(st.integers(0, len(text)))]
    path.write_bytes(kept)
    whole = max(0, kept.count(b"\n") - 1)  # all lines but the headline
    assert landed(path) == keys(pieces[:whole])


@ON_DISK
@given(st.lists(st.sampled_from(PLAN), unique=True), st.binary(max_size=30))
def test_noise_at_the_end_is_never_a_piece_outside_of_the_files(path, pieces, noise):
    path.unlink(missing_ok=True)
    written(path, pieces)
    with path.open("ab") as file:
        file.write(noise)
    assert keys(pieces) <= landed(path) <= keys(PLAN)


@pytest.mark.parametrize(
    "line",
    ["2 100", "1 0", "4 0", "-1 0", "0", "0 1 2", " 0 1", "0 1 ", "\u0660 1", "0 99999999999"],
)
def test_a_line_that_names_no_piece_is_passed_over(path, line):
    written(path, [Piece(0, 3, 30, 40)])
    with path.open("a", newline="") as file:
        file.write(f"{line}\n2 5\n")
    assert landed(path) == {(0, 3), (2, 5)}


def test_a_carriage_return_is_harmless(path):
    written(path, [Piece(0, 3, 30, 40)])
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert landed(path) <= {(0, 3)}


@pytest.mark.parametrize("other", [lock_of(95, 0, 1000), lock_of(96, 0, 999, 1)])
def test_a_journal_of_another_lock_counts_for_nothing(path, other):
    files = tuple(LockedFile(file.path, file.size, f"sha256:{'1' * 64}") for file in other.files)
    other = Lock(name="x", variant=None, dtype=None, url="x.tar", files=files)
    written(path, plan_pieces(other, 10), other)
    assert landed_bytes(path, LOCK) == 0
    assert landed(path) == set()


def test_pieces_of_another_size_are_there_and_of_no_use(path):
    written(path, [Piece(2, 1, 100, 200)], piece_bytes=100)
    assert landed_bytes(path, LOCK) == 100
    assert landed(path, piece_bytes=10) == set()
    assert landed_bytes(path, LOCK) == 0


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"{}\n", b"\xff\x00", b'{"setDigest": "x"', b"[1]\n0 1\n"]
)
def test_what_is_no_journal_counts_for_nothing(path, text):
    path.write_bytes(text)
    assert landed_bytes(path, LOCK) == 0
    assert landed(path) == set()


def test_threads_may_add_at_once(path):
    pieces = random.Random(0).sample(PLAN, len(PLAN))
    with closing(FetchJournal(path, LOCK, 10)) as journal:
        threads = [
            threading.Thread(target=lambda part=part: [journal.add(piece) for piece in part])
            for part in (pieces[::3], pieces[1::3], pieces[2::3])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert landed(path) == keys(PLAN)


def test_a_journal_that_can_not_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="Is a directory"):
        FetchJournal(tmp_path, LOCK, 10)
