"""Weights on this machine: copied from the lock's offsets, verified; a tarball may be consumed."""

import dataclasses
import os
import random
from pathlib import Path
from threading import Event

import pytest

from tests.weights.fetching.hostile_tars import MEMBERS, Files, honest_tar, tar_with
from tests.weights.surroundings import QUICK, check_message, pinned_lock, split_lock
from weights.errors import OperationError
from weights.fetching.journal import landed_bytes
from weights.fetching.landing_folder import DigestError
from weights.fetching.local import _bytes_of, extract, file_chunks, local_path
from weights.fetching.web_reader import StoppedError
from weights.lock import Lock

CHANCE = random.Random(0)
FILES = {"a": CHANCE.randbytes(9000), "b/c": CHANCE.randbytes(300), "b/é d": b"", "z": b"x" * 5000}
SIZE = 14_300
SETTINGS = dataclasses.replace(QUICK, piece_bytes=1000)


@pytest.fixture
def tarball(quick_path) -> Path:
    path = quick_path / "a b.tar"
    path.write_bytes(honest_tar(FILES).data)
    return path


@pytest.fixture
def lock(tarball) -> Lock:
    return pinned_lock(honest_tar(FILES), FILES, tarball.as_uri())


@pytest.fixture
def split(quick_path, lock) -> Lock:
    for path, data in FILES.items():
        (quick_path / "é w" / path).parent.mkdir(parents=True, exist_ok=True)
        (quick_path / "é w" / path).write_bytes(data)
    return split_lock(lock, f"{(quick_path / 'é w').as_uri()}/")


class Extracted:
    """Where the files come to, and what was told of the progress."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.journal = folder / "files", folder / "journal"
        self.steps: list[int] = []

    def extract(self, lock: Lock, **options: Path) -> Files:
        extract(lock, self.folder, self.journal, SETTINGS, self.steps.append, **options)
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def extracted(quick_path) -> Extracted:
    return Extracted(quick_path)


def test_brings_the_files_of_a_tarball_and_leaves_it(lock, tarball, extracted):
    assert extracted.extract(lock) == FILES
    assert sum(extracted.steps) == SIZE
    assert tarball.read_bytes() == honest_tar(FILES).data


def test_brings_single_files(split, extracted):
    assert extracted.extract(split) == FILES
    assert sum(extracted.steps) == SIZE


@pytest.mark.parametrize("name", MEMBERS)
def test_whatever_else_is_in_the_tarball_stays_there(quick_path, extracted, name):
    tar = tar_with(name, FILES, quick_path / "outside")
    (quick_path / "x.tar").write_bytes(tar.data)
    assert extracted.extract(pinned_lock(tar, FILES, (quick_path / "x.tar").as_uri())) == FILES
    assert {path.name for path in quick_path.iterdir()} == {"files", "journal", "x.tar"}


def test_goes_on_with_what_is_missing(lock, tarball, extracted):
    extracted.extract(lock)
    lines = extracted.journal.read_text().splitlines(keepends=True)
    extracted.journal.write_text("".join(lines[:8]))
    landed = landed_bytes(extracted.journal, lock)
    assert 0 < landed < SIZE
    extracted.steps.clear()
    assert extracted.extract(lock) == FILES
    assert extracted.steps[0] == landed
    assert sum(extracted.steps) == SIZE


def test_what_was_left_damaged_comes_again(lock, extracted):
    extracted.extract(lock)
    (extracted.folder / "z").write_bytes(bytes(5000))
    extracted.steps.clear()
    assert extracted.extract(lock) == FILES
    assert -5000 in extracted.steps


def test_a_file_that_is_another_is_an_error(lock, tarball, extracted):
    tarball.write_bytes(honest_tar(FILES | {"z": b"y" * 5000}).data)
    with pytest.raises(DigestError, match=r"tar holds 'z' with the digest sha256:") as caught:
        extracted.extract(lock)
    check_message(caught.value)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_tarball_of_another_size_is_refused_before_anything_is_copied(
    lock, tarball, extracted, change
):
    os.truncate(tarball, lock.size + change)
    with pytest.raises(OperationError, match=rf"has {lock.size + change} bytes.*lock it has") as e:
        extracted.extract(lock)
    check_message(e.value)
    assert not extracted.folder.exists()


def test_a_single_file_of_another_size_is_an_error(split, quick_path, extracted):
    os.truncate(quick_path / "é w" / "z", 4999)
    with pytest.raises(OperationError, match=r"z has 4999 bytes\. By the lock it has 5000"):
        extracted.extract(split)


def test_what_is_not_there_is_said(lock, split, tarball, quick_path, extracted):
    (quick_path / "é w" / "z").unlink()
    tarball.unlink()
    for gone, what in ((lock, r"a b\.tar"), (split, r"é w/z")):
        with pytest.raises(OperationError, match=f"{what} can't be read") as caught:
            extracted.extract(gone)
        check_message(caught.value)


def test_a_folder_in_the_place_of_the_tarball_is_said(lock, tarball, extracted):
    tarball.unlink()
    tarball.mkdir()
    with pytest.raises(OperationError, match="there is no such file"):
        extracted.extract(lock)


def test_a_disk_that_can_not_be_read_is_said():
    """The memory of a process is a file of which the first page can't be read."""
    with pytest.raises(
        OperationError, match=r"/mem can't be read \(Input/output error\)"
    ) as caught:
        list(_bytes_of(Path("/proc/self/mem"), 0, 10, Event()))
    check_message(caught.value)


def test_a_stopped_copy_reads_nothing_more(tarball):
    stopped = Event()
    chunks = _bytes_of(tarball, 0, 300_000, stopped)
    next(chunks)
    stopped.set()
    with pytest.raises(StoppedError):
        next(chunks)


# A tarball that is consumed: pget's, which would take the space twice.


def test_a_consumed_tarball_gives_its_space_back(lock, quick_path, extracted):
    fetched = quick_path / "fetched.tar"
    fetched.write_bytes(honest_tar(FILES).data)
    assert extracted.extract(dataclasses.replace(lock, url="gone.tar"), tarball=fetched) == FILES
    assert fetched.stat().st_size == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_it_shrinks_file_by_file_and_never_below_what_is_still_needed(
    lock, quick_path, extracted, monkeypatch, threads
):
    fetched = quick_path / "fetched.tar"
    fetched.write_bytes(honest_tar(FILES).data)
    sizes: list[int] = []
    truncate = os.truncate

    def note(path: Path, size: int) -> None:
        sizes.append(size)
        whole = {file.path for file in lock.files if _is_whole(extracted.folder, file.path)}
        assert all(file.path in whole or file.offset + file.size <= size for file in lock.files)
        truncate(path, size)

    monkeypatch.setattr("os.truncate", note)
    monkeypatch.setattr("weights.fetching.local.THREADS", threads)
    extracted.extract(lock, tarball=fetched)
    if threads == 1:
        ends = sorted((file.offset + file.size for file in lock.files), reverse=True)
        assert sizes == [*ends[1:], 0]
    assert sizes[-1] == 0


def _is_whole(folder: Path, path: str) -> bool:
    return (folder / path).read_bytes() == FILES[path]


def test_a_consumed_tarball_with_a_wrong_file_is_an_error(lock, quick_path, extracted):
    fetched = quick_path / "fetched.tar"
    fetched.write_bytes(honest_tar(FILES | {"b/c": bytes(300)}).data)
    with pytest.raises(DigestError, match="holds 'b/c'"):
        extracted.extract(lock, tarball=fetched)


# One file as a stream.


def test_a_file_comes_in_chunks(quick_path):
    data = CHANCE.randbytes(600_000)
    (quick_path / "x").write_bytes(data)
    chunks = list(file_chunks(quick_path / "x"))
    assert b"".join(chunks) == data
    assert len(chunks) > 1


def test_a_file_that_is_cut_while_it_is_read_is_said(quick_path):
    (quick_path / "x").write_bytes(bytes(600_000))
    chunks = file_chunks(quick_path / "x")
    next(chunks)
    os.truncate(quick_path / "x", 1000)
    with pytest.raises(OperationError, match="ends too early"):
        next(chunks)


@pytest.mark.parametrize("make", ["nothing", "folder"])
def test_a_missing_file_is_said(quick_path, make):
    if make == "folder":
        (quick_path / "x.tar").mkdir()
    with pytest.raises(OperationError, match=r"x\.tar can't be read \(there is no such file\)"):
        list(file_chunks(quick_path / "x.tar"))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b%20c%C3%A9.tar", "/a/b cé.tar"),
        ("file://localhost/a/x.tar", "/a/x.tar"),
        ("file:///a/x%23y.tar", "/a/x#y.tar"),
    ],
)
def test_a_file_url_means_a_path(url, path):
    assert local_path(url) == Path(path)
