"""The files of a lock on their way into a folder: noted, counted, checked once they are whole."""

import dataclasses
import hashlib
import logging
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.weights.surroundings import check_message
from weights.fetching.journal import landed_bytes
from weights.fetching.landing_folder import DigestError, LandingFolder
from weights.fetching.pieces import Piece, plan_pieces
from weights.lock import Lock, LockedFile

CHANCE = random.Random(0)
FILES = {name: CHANCE.randbytes(size) for name, size in {"a": 250, "b/c": 90, "b/e": 0}.items()}
SIZE = 340
PIECE_BYTES = 100
ALL = {(0, 0), (0, 1), (0, 2), (1, 0)}


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


LOCK = Lock(
    name="x",
    variant=None,
    dtype=None,
    url="https://u:SECRET@example.org/w.tar?sig=SECRET",
    files=tuple(LockedFile(path, len(data), sha256(data)) for path, data in FILES.items()),
)


class Landing:
    """A landing folder below `root`, and what it told of its progress."""

    def __init__(self, root: Path, lock: Lock = LOCK, piece_bytes: int = PIECE_BYTES) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.journal = root / "files", root / "journal"
        self.steps: list[int] = []
        self.folder = LandingFolder(lock, self.root, self.journal, piece_bytes, self.steps.append)

    def __enter__(self) -> "Landing":
        self.folder.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.folder.__exit__(*error)  # type: ignore[arg-type]

    def land(self, piece: Piece, change: Callable[[bytes], bytes] = bytes) -> set[tuple[int, int]]:
        data = list(FILES.values())[piece.file][piece.start : piece.end]
        return keys(self.folder.land(piece, iter([change(data[:30]), data[30:]])))

    def land_all(self) -> None:
        for index in range(len(FILES)):
            self.folder.check_landed(index)
        while missing := self.folder.missing:
            for piece in missing:
                self.land(piece)


def keys(pieces: list[Piece]) -> set[tuple[int, int]]:
    return {(piece.file, piece.number) for piece in pieces}


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def content(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def root(quick_path) -> Path:
    return quick_path / "w.partial"


def test_all_pieces_make_all_files(root):
    with Landing(root) as landing:
        assert landing.folder.missing == plan_pieces(LOCK, PIECE_BYTES)
        landing.land_all()
        assert landing.folder.missing == []
        assert content(landing.root) == FILES
    assert sum(landing.steps) == SIZE
    assert min(landing.steps) > 0
    assert landed_bytes(landing.journal, LOCK) == SIZE


def test_the_pieces_of_one_file_go_from_its_start_to_its_end(root):
    with Landing(root) as landing:
        assert [piece.number for piece in landing.folder.missing_of(0)] == [0, 1, 2]
        landing.land(Piece(0, 1, 100, 200))
        assert [piece.number for piece in landing.folder.missing_of(0)] == [0, 2]
        assert landing.folder.missing_of(2) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(sorted(ALL))), st.sets(st.sampled_from(sorted(ALL))))
def test_the_next_one_goes_on_where_this_one_stopped(root, first, second):
    """What `first` left of is damaged in `second`: both come to the right files."""
    shutil.rmtree(root, ignore_errors=True)
    plan = plan_pieces(LOCK, PIECE_BYTES)
    with Landing(root) as landing:
        for piece in plan:
            if (piece.file, piece.number) in first:
                landing.land(piece)
    for piece in plan:
        if (piece.file, piece.number) in second:
            path = root / "files" / LOCK.files[piece.file].path
            data = bytearray(path.read_bytes())
            data[piece.start] ^= 1
            path.write_bytes(data)
    with Landing(root) as landing:
        assert sum(landing.steps) == sum(
            p.end - p.start for p in plan if (p.file, p.number) in first
        )
        assert keys(landing.folder.missing) == ALL - first
        landing.land_all()
        assert content(landing.root) == FILES
    assert sum(landing.steps) == SIZE


def test_pieces_of_another_size_come_again(root):
    with Landing(root, piece_bytes=50) as landing:
        landing.land_all()
    with Landing(root) as landing:
        assert landing.steps == []
        assert keys(landing.folder.missing) == ALL


def test_a_file_that_comes_damaged_comes_again_once(root, caplog):
    with Landing(root) as landing:
        landing.land(Piece(0, 0, 0, 100), flip)
        assert landing.land(Piece(0, 1, 100, 200)) == set()
        assert landing.land(Piece(0, 2, 200, 250)) == {(0, 0), (0, 1), (0, 2)}
        assert sum(landing.steps) == 0
        assert [record.getMessage() for record in caplog.records] == [
            "a is damaged; fetching it again."
        ]
        landing.land_all()
        assert content(landing.root) == FILES
    assert sum(landing.steps) == SIZE


def test_a_file_that_comes_damaged_twice_is_an_error(root):
    with Landing(root) as landing:
        assert landing.land(Piece(1, 0, 0, 90), flip) == {(1, 0)}
        with pytest.raises(DigestError, match=r"example\.org/w\.tar holds 'b/c'") as caught:
            landing.land(Piece(1, 0, 0, 90), flip)
    check_message(caught.value, "SECRET")
    assert sha256(flip(FILES["b/c"][:30]) + FILES["b/c"][30:]) in str(caught.value)
    assert LOCK.files[1].digest in str(caught.value)


def test_what_was_left_damaged_may_come_again_and_then_not(root, caplog):
    with Landing(root) as landing:
        landing.land_all()
    (landing.root / "b" / "c").write_bytes(bytes(90))
    with Landing(root) as landing:
        assert landing.folder.check_landed(0) == []
        assert keys(landing.folder.check_landed(1)) == {(1, 0)}
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        with pytest.raises(DigestError):
            landing.land(Piece(1, 0, 0, 90), flip)


def test_a_part_of_a_file_is_not_judged(root):
    with Landing(root) as landing:
        landing.land(Piece(0, 0, 0, 100), flip)
    with Landing(root) as landing:
        assert landing.folder.check_landed(0) == []


def test_an_empty_file_of_another_digest_is_an_error(root):
    wrong = dataclasses.replace(LOCK.files[2], digest=sha256(b"x"))
    lock = dataclasses.replace(LOCK, files=(wrong,))
    with Landing(root, lock) as landing, pytest.raises(DigestError, match="holds 'b/e'"):
        landing.folder.check_landed(0)


def test_a_piece_that_broke_off_is_not_noted(root):
    def broken():
        yield FILES["a"][:50]
        raise RuntimeError("the line broke")

    with Landing(root) as landing, pytest.raises(RuntimeError, match="the line broke"):
        landing.folder.land(Piece(0, 0, 0, 100), broken())
    assert landed_bytes(landing.journal, LOCK) == 0


def test_each_file_is_put_on_disk_when_it_is_whole(root, monkeypatch):
    synced: list[str] = []
    monkeypatch.setattr(
        "os.fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
    )
    with Landing(root) as landing:
        landing.folder.check_landed(2)
        assert synced == ["e"]
        for piece in plan_pieces(LOCK, PIECE_BYTES)[:-1]:
            landing.land(piece)
        assert synced == ["e", "a"]
        landing.land_all()
        assert synced == ["e", "a", "c"]


def test_the_files_are_closed_at_the_end(root):
    with Landing(root):
        assert any(file.path.startswith(str(root)) for file in psutil.Process().open_files())
    assert not any(file.path.startswith(str(root)) for file in psutil.Process().open_files())


def test_several_threads_bring_a_folder_with_some_damage(root):
    """Each file is judged once, whoever ends it, and progress is told by one thread at a time."""
    files = {f"f{n}": CHANCE.randbytes(1000) for n in range(20)}
    lock = dataclasses.replace(
        LOCK, files=tuple(LockedFile(path, 1000, sha256(data)) for path, data in files.items())
    )
    damaged = {(n, n % 10) for n in range(0, 20, 3)}
    with Landing(root, lock) as landing, ThreadPoolExecutor(4) as pool:

        def bring(piece: Piece) -> None:
            data = files[f"f{piece.file}"][piece.start : piece.end]
            if (piece.file, piece.number) in damaged:
                damaged.discard((piece.file, piece.number))
                data = flip(data)
            for again in landing.folder.land(piece, iter([data[:40], data[40:]])):
                bring(again)

        for _ in pool.map(bring, landing.folder.missing):
            pass
        assert landing.folder.missing == []
        assert content(landing.root) == files
    assert sum(landing.steps) == 20_000
    assert landing.steps.count(-1000) == 7
