"""Between the engines: what is left of a killed fetch, the space that is needed, the progress."""

import dataclasses
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.fetching.hostile_tars import Files, honest_tar
from tests.weights.surroundings import QUICK, in_many_pieces, pget_on_path, pinned_lock
from weights.errors import OperationError
from weights.fetching.engines import Choice
from weights.fetching.fetch import fetch_pinned
from weights.install import install
from weights.lock import Lock
from weights.staging import Place


@pytest.fixture
def files(files: Files) -> Files:
    return in_many_pieces(files)


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def lock(web, files) -> Lock:
    tar = honest_tar(files)
    return pinned_lock(tar, files, web.serve("/w.tar", tar.data))


@pytest.fixture
def place(quick_path) -> Place:
    return Place(quick_path / "w", inside=False)


def fetch(lock: Lock, place: Place, engine: str) -> list[int]:
    """Returns the steps of the progress."""
    steps: list[int] = []
    fetch_pinned(lock, place, Choice(engine, ""), QUICK, steps.append)  # type: ignore[arg-type]
    return steps


def read_files(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("way", ["ok", "exit1", "reset", "stall", "wrong_bytes"])
def test_progress_comes_to_the_size_of_the_files_by_pget_too(lock, place, files, tmp_path, way):
    """Whether it brings the tarball, a part of it, or nothing, and builtin the rest."""
    with pget_on_path(tmp_path, way):
        steps = fetch(lock, place, "pget")
    assert sum(steps) == lock.files_size
    assert read_files(place.files) == files


@pytest.mark.parametrize("engine", ["pget", "builtin"])
def test_the_tarball_of_a_killed_pget_is_removed(lock, place, files, tmp_path, caplog, engine):
    """Some files were out of it: they are kept."""
    fetch(lock, place, "builtin")
    lines = place.journal.read_text().splitlines(keepends=True)
    place.journal.write_text("".join(lines[:3]))
    (place.staging / "weights.tar").write_bytes(b"half")
    with pget_on_path(tmp_path):
        fetch(lock, place, engine)
    assert read_files(place.files) == files
    assert {path.name for path in place.staging.iterdir()} == {"files", "journal"}
    assert "takes over" not in caplog.text


def disk_of(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(free, 0, free))


@pytest.mark.parametrize("threads", [1, 3])
def test_pget_needs_the_tarball_and_the_files_that_are_copied_at_once(
    lock, place, tmp_path, monkeypatch, caplog, threads
):
    monkeypatch.setattr("weights.fetching.local.THREADS", threads)
    largest = sorted(file.size for file in lock.files)[-threads:]
    with pget_on_path(tmp_path) as log:
        disk_of(lock.size + sum(largest) - 1, monkeypatch)
        fetch(lock, place, "pget")
        assert log.read_text() == ""
        assert "The builtin engine takes over" in caplog.text
        disk_of(lock.size + sum(largest), monkeypatch)
        fetch(lock, Place(place.destination.with_name("other"), inside=False), "pget")
        assert log.read_text() != ""


def test_builtin_needs_the_space_of_the_files_that_are_missing(lock, place, files, monkeypatch):
    disk_of(lock.files_size - 1, monkeypatch)
    with pytest.raises(OperationError, match=r"B free\. .*B are needed"):
        fetch(lock, place, "builtin")
    disk_of(lock.files_size, monkeypatch)
    fetch(lock, place, "builtin")
    disk_of(0, monkeypatch)
    fetch(lock, place, "builtin")
    assert read_files(place.files) == files


def test_what_is_left_of_another_lock_goes(lock, place, files):
    fetch(lock, place, "builtin")
    other = dataclasses.replace(lock, files=lock.files[:3])
    fetch(other, place, "builtin")
    assert read_files(place.files) == {file.path: files[file.path] for file in other.files}


def test_a_marker_that_was_half_written_by_a_killed_process_is_not_installed(lock, place, files):
    fetch(lock, place, "builtin")
    (place.files / ".install.json.tmp.12345").write_text("{")
    install(lock, place.destination, settings=QUICK)
    assert read_files(place.destination).keys() == {*files, ".install.json"}
