"""Packing file by file: copies with their lock, all or nothing."""

import hashlib
import os
import resource
import shutil
import stat
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.weights.packing.interruptions import interrupted_after
from tests.weights.random_folders import folders, write_folder
from weights.errors import OperationError, UserError
from weights.lock import Lock, read_lock, write_lock
from weights.packing.split import pack_split
from weights.packing.tarball import pack


def held(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def check(lock: Lock, destination: Path, files: dict[str, bytes]) -> None:
    """The copies are the files, and the lock says what they are."""
    assert held(destination) == files
    assert [(file.path, file.size, file.digest) for file in lock.files] == [
        (path, len(files[path]), f"sha256:{hashlib.sha256(files[path]).hexdigest()}")
        for path in sorted(files)
    ]
    assert lock.split
    assert (lock.size, lock.digest) == (None, None)
    assert {file.offset for file in lock.files} == {None}


def test_the_lock_says_what_the_files_are(folder, files, tmp_path):
    lock = pack_split(folder, tmp_path / "my model.1")
    check(lock, tmp_path / "my model.1", files)
    assert (lock.name, lock.variant, lock.dtype) == ("nano", "nano", "float32")
    assert lock.url == "my model.1/"
    write_lock(lock, tmp_path / "x.lock.json")
    assert read_lock(tmp_path / "x.lock.json") == lock


@settings(max_examples=40, deadline=None)
@given(files=folders())
def test_of_any_folder_the_lock_is_right(files):
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        folder = write_folder(base / "in", files)
        lock = pack_split(folder, base / "out")
        check(lock, base / "out", files)
        assert lock.set_digest == pack(folder, base / "x.tar").set_digest


@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_copies_are_files_of_their_own_that_all_can_read(folder, files, tmp_path, umask):
    for path in files:
        (folder / path).chmod(0o400)
    before = os.umask(umask)
    try:
        pack_split(folder, tmp_path / "out")
    finally:
        os.umask(before)
    for entry in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        status = entry.lstat()
        kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
        assert (kind, mode) in ((stat.S_IFDIR, 0o755), (stat.S_IFREG, 0o644))
        assert kind == stat.S_IFDIR or status.st_nlink == 1


def test_an_empty_folder_is_filled(folder, files, tmp_path):
    (tmp_path / "out").mkdir()
    check(pack_split(folder, tmp_path / "out"), tmp_path / "out", files)
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights", "out"}


def _fill(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("")


def _link_to_an_empty_folder(path: Path) -> None:
    path.with_name("empty").mkdir()
    path.symlink_to("empty")


@pytest.mark.parametrize(
    "make",
    [_fill, _link_to_an_empty_folder, Path.touch, lambda path: path.symlink_to("gone")],
)
def test_what_is_there_already_is_refused_and_stays(folder, tmp_path, make):
    make(tmp_path / "out")
    before = {path.lstat() for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match="new folder or an empty one"):
        pack_split(folder, tmp_path / "out")
    assert {path.lstat() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["x.tar", " x", "a\nb", "gone/x", "weights", "weights/x", ".."])
def test_refuses_a_bad_place(folder, tmp_path, name):
    with pytest.raises(UserError, match="The files would be"):
        pack_split(folder, tmp_path / name)
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights"}


@pytest.mark.parametrize("url", ["https://example.com/x", "s3://bucket/x/?y", "x", "ftp://x/", ""])
def test_refuses_a_url_that_names_no_folder(folder, tmp_path, url):
    with pytest.raises(UserError, match="url"):
        pack_split(folder, tmp_path / "out", url=url)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("url", ["https://example.com/x/", "s3://bucket/", "up/there/"])
def test_url_and_name_are_the_users(folder, tmp_path, url):
    lock = pack_split(folder, tmp_path / "out", url=url, name="mine")
    write_lock(lock, tmp_path / "x.lock.json")
    assert (read_lock(tmp_path / "x.lock.json").url, lock.name) == (url, "mine")


def test_refuses_a_symlink(folder, tmp_path):
    (folder / "vae" / "more").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="symbolic link"):
        pack_split(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_space_is_asked_for_before_anything_is_written(folder, tmp_path):
    for number in range(shutil.disk_usage(tmp_path).free // (1 << 40) + 1):
        with (folder / f"{number}.bin").open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(OperationError, match=r"has .* (G|T)B free.*(G|T)B are needed"):
        pack_split(folder, tmp_path / "out", progress=pytest.fail)
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights"}


def test_progress_adds_up(folder, files, tmp_path):
    steps: list[int] = []
    pack_split(folder, tmp_path / "out", progress=steps.append)
    assert sum(steps) == sum(map(len, files.values()))


@pytest.mark.parametrize("change", [b"", b"x" * 3000])
def test_a_file_that_changes_meanwhile_is_an_error(folder, tmp_path, change):
    def change_the_smallest(_: int) -> None:
        (folder / "tokenizer" / "tokenizer_config.json").write_bytes(change)

    with pytest.raises(OperationError, match=r"tokenizer_config\.json changed"):
        pack_split(folder, tmp_path / "out", progress=change_the_smallest)
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights"}


def test_a_file_that_goes_away_meanwhile_is_an_error(folder, tmp_path):
    (folder / "large.bin").write_bytes(bytes(5 << 20))

    def remove(_: int) -> None:
        (folder / "tokenizer" / "tokenizer_config.json").unlink(missing_ok=True)

    with pytest.raises(OperationError, match=r"tokenizer_config\.json"):
        pack_split(folder, tmp_path / "out", progress=remove)
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights"}


def test_a_full_disk_is_an_error(folder, tmp_path):
    (folder / "large.bin").write_bytes(bytes(12_000))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limit[1]))
    try:
        with pytest.raises(OperationError, match="Packing"):
            pack_split(folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights"}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(folder, tmp_path, interruption, wait_for_threads_to_end):
    def interrupt(_: int) -> None:
        raise interruption

    expected = KeyboardInterrupt if interruption is KeyboardInterrupt else OperationError
    with pytest.raises(expected):
        pack_split(folder, tmp_path / "out", progress=interrupt)
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights"}
    wait_for_threads_to_end()


# Interrupted in the middle of starting a thread or opening a file, Python closes it and complains.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_leaves_nothing(folder, files, tmp_path, wait_for_threads_to_end):
    files["large.bin"] = bytes(20 << 20)
    (folder / "large.bin").write_bytes(files["large.bin"])
    start = time.perf_counter()
    pack_split(folder, tmp_path / "out")
    duration = time.perf_counter() - start
    shutil.rmtree(tmp_path / "out")
    interrupted = 0
    for moment in range(1, 41):
        try:
            with interrupted_after(duration * moment / 40):
                pack_split(folder, tmp_path / "out")
        except KeyboardInterrupt:
            interrupted += 1
        wait_for_threads_to_end()
        left = {entry.name for entry in tmp_path.iterdir()} - {"weights"}
        if left:  # the interruption came after the last step, or not at all
            assert left == {"out"}
            assert held(tmp_path / "out") == files
            shutil.rmtree(tmp_path / "out")
    assert interrupted >= 10
