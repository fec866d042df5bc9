"""A file that arrives in pieces: whatever the order, bytes and digest are right at the end."""

import hashlib
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weights.fetching.landing import LandingFile
from weights.lock import LockedFile


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def landing(path: Path, data: bytes, piece_bytes: int, landed=()) -> LandingFile:
    return LandingFile(path, LockedFile("f", len(data), sha256(data)), piece_bytes, landed)


def chunks_of(data: bytes, number: int, piece_bytes: int, chunk_bytes: int = 7) -> Iterator[bytes]:
    piece = data[number * piece_bytes : (number + 1) * piece_bytes]
    return iter([piece[at : at + chunk_bytes] for at in range(0, len(piece), chunk_bytes)])


def land(file: LandingFile, data: bytes, number: int, piece_bytes: int) -> int:
    return sum(file.land(number, chunks_of(data, number, piece_bytes)))


@pytest.fixture
def path(quick_path) -> Path:
    return quick_path / "files" / "f"


DATA = random.Random(0).randbytes(1024)
CONTENT = st.integers(0, 300).map(lambda size: DATA[:size])
PIECE_BYTES = st.integers(20, 120)
CHANCE = st.integers(0, 2**32).map(random.Random)
# A disk may be slow, and hypothesis runs a test many times with one folder.
ON_DISK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ON_DISK
@given(CONTENT, PIECE_BYTES, CHANCE)
def test_any_order_gives_the_file_and_its_digest(path, data, piece_bytes, chance):
    path.unlink(missing_ok=True)
    numbers = list(range(-(-len(data) // piece_bytes)))
    with closing(landing(path, data, piece_bytes)) as file:
        for number in chance.sample(numbers, len(numbers)):
            assert file.digest is None
            land(file, data, number, piece_bytes)
        assert file.digest == sha256(data)
        assert file.landed == set(numbers)
    assert path.read_bytes() == data


@ON_DISK
@given(CONTENT, PIECE_BYTES, CHANCE)
def test_so_does_any_interleaving(path, data, piece_bytes, chance):
    """Pieces that land at once, chunk by chunk, whoever is faster."""
    path.unlink(missing_ok=True)
    with closing(landing(path, data, piece_bytes)) as file:
        under_way = [
            file.land(number, chunks_of(data, number, piece_bytes))
            for number in range(-(-len(data) // piece_bytes))
        ]
        while under_way:
            one = chance.choice(under_way)
            if next(one, None) is None:
                under_way.remove(one)
        assert file.digest == sha256(data)
    assert path.read_bytes() == data


@ON_DISK
@given(CONTENT.filter(bool), PIECE_BYTES, CHANCE)
def test_what_is_there_from_before_is_hashed_from_the_disk(path, data, piece_bytes, chance):
    numbers = list(range(-(-len(data) // piece_bytes)))
    before = set(chance.sample(numbers, chance.randrange(len(numbers) + 1)))
    left = bytearray(len(data))
    for number in before:
        start = number * piece_bytes
        left[start : start + piece_bytes] = data[start : start + piece_bytes]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(left)
    with closing(landing(path, data, piece_bytes, before)) as file:
        if chance.random() < 0.5:
            file.hash_landed()
        for number in set(numbers) - before:
            land(file, data, number, piece_bytes)
        file.hash_landed()
        assert file.digest == sha256(data)
    assert path.read_bytes() == data


def test_several_threads_may_land_pieces(path):
    data = random.Random(0).randbytes(100_000)
    numbers = random.Random(1).sample(range(1000), 1000)
    with closing(landing(path, data, 100)) as file:
        parts = [numbers[start::4] for start in range(4)]
        start = threading.Barrier(4)

        def work(part: list[int]) -> None:
            start.wait()
            for number in part:
                land(file, data, number, 100)

        threads = [threading.Thread(target=work, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert file.digest == sha256(data)
    assert path.read_bytes() == data


def test_nobody_waits_for_anothers_hashing(path):
    """The first piece is slow; all others land meanwhile and are hashed when it is there."""
    with closing(landing(path, DATA, 100)) as file:
        first = file.land(0, chunks_of(DATA, 0, 100))
        next(first)
        for number in range(1, 11):
            land(file, DATA, number, 100)
        assert file.digest is None
        for _ in first:
            pass
        assert file.digest == sha256(DATA)


class LockWithAHook:
    """Does something just before it is released for the second time."""

    def __init__(self, hook: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._hooks = iter([lambda: None, hook])

    def acquire(self, blocking: bool) -> bool:
        return self._lock.acquire(blocking)

    def release(self) -> None:
        next(self._hooks, lambda: None)()
        self._lock.release()


def test_a_piece_that_lands_while_another_thread_ends_its_hashing_is_not_forgotten(path):
    with closing(landing(path, DATA, 400)) as file:
        file._hashing = LockWithAHook(lambda: land(file, DATA, 2, 400))
        land(file, DATA, 1, 400)
        land(file, DATA, 0, 400)  # released once after 0, once after 1 was hashed
        assert file.digest == sha256(DATA)


def test_pieces_in_order_are_not_read_back(path, monkeypatch):
    monkeypatch.setattr("os.pread", lambda *_: pytest.fail("read back"))
    with closing(landing(path, DATA, 100)) as file:
        for number in range(11):
            land(file, DATA, number, 100)
        assert file.digest == sha256(DATA)


def test_it_tells_each_chunk(path):
    with closing(landing(path, DATA, 100)) as file:
        assert list(file.land(10, chunks_of(DATA, 10, 100, 10))) == [10, 10, 4]
        assert file.landed == {10}


def test_a_write_that_the_disk_cuts_short_is_continued(path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr("os.pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:3], at))
    with closing(landing(path, DATA, 100)) as file:
        for number in reversed(range(11)):
            land(file, DATA, number, 100)
        assert file.digest == sha256(DATA)
    assert path.read_bytes() == DATA


def test_wrong_bytes_give_another_digest_and_may_come_again(path):
    with closing(landing(path, DATA, 600)) as file:
        for data in (bytes(len(DATA)), DATA):
            assert file.digest is None
            for number in (1, 0):
                land(file, data, number, 600)
            assert file.digest == sha256(data)
            file.start_over()
            assert file.landed == set()
        assert file.digest is None
    assert path.read_bytes() == DATA


def test_a_piece_that_broke_off_is_not_there(path):
    def broken() -> Iterator[bytes]:
        yield DATA[100:150]
        raise RuntimeError("the line broke")

    with closing(landing(path, DATA, 100)) as file:
        with pytest.raises(RuntimeError, match="the line broke"):
            list(file.land(1, broken()))
        assert file.landed == set()
        assert file.digest is None


def test_an_empty_file_is_there_at_once(path):
    with closing(landing(path, b"", 100)) as file:
        assert file.digest == sha256(b"")
    assert path.read_bytes() == b""


def test_a_file_has_its_size_from_the_start_and_is_open_to_others_for_reading(path):
    path.parent.mkdir()
    path.write_bytes(bytes(5000))
    with closing(landing(path, DATA, 100)):
        assert path.stat().st_size == len(DATA)
    path.unlink()
    with closing(landing(path, DATA, 100)):
        assert path.stat().st_size == len(DATA)
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH | 0o111)


def test_a_link_is_not_followed(path, tmp_path):
    path.parent.mkdir()
    (tmp_path / "outside").write_text("kept")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic links"):
        landing(path, DATA, 100)
    assert (tmp_path / "outside").read_text() == "kept"


def test_a_file_that_somebody_cuts_meanwhile_is_an_error(path):
    with closing(landing(path, DATA, 100, range(11))) as file:
        os.truncate(path, 50)
        with pytest.raises(OSError, match="cut short"):
            file.hash_landed()
        assert file.digest is None


def test_it_is_put_on_disk_and_closed(path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        "os.fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink())
    )
    file = landing(path, DATA, 100)
    file.sync()
    assert synced == [path]
    assert str(path) in {opened.path for opened in psutil.Process().open_files()}
    file.close()
    assert str(path) not in {opened.path for opened in psutil.Process().open_files()}
