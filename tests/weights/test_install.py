"""Installs: whole at their place or not there, once for all who ask, and never at a user's cost."""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest

from weights.errors import OperationError, UserError
from weights.fetching.settings import FetchSettings
from weights.install import install
from weights.install_check import check_install
from weights.lock import Lock, read_lock, write_lock
from weights.packing.tarball import pack

ROOT = Path(__file__).parents[2]
IMPATIENT = FetchSettings(attempts=2, backoff_seconds=0.01)
INSTALL = """
import logging, sys
from pathlib import Path
from weights.install import install
from weights.lock import read_lock
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
install(read_lock(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".install.")
    }


def start_install(lock_file: Path, destination: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", INSTALL, str(lock_file), str(destination)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def unpinned(lock: Lock) -> Lock:
    return dataclasses.replace(lock, size=None, digest=None, files=())


def assert_same(marker: Lock, lock: Lock) -> None:
    """A marker is its lock, and knows the headers of the safetensors files besides."""
    assert (marker.digest, marker.size) == (lock.digest, lock.size)
    plain = tuple(dataclasses.replace(file, header_digest=None) for file in marker.files)
    assert plain == lock.files
    headers = {file.path for file in marker.files if file.header_digest}
    assert headers == {file.path for file in lock.files if file.path.endswith(".safetensors")}


@pytest.fixture
def place(tmp_path) -> Path:
    """Where installs go; everything that an install leaves is in here."""
    place = tmp_path / "place"
    place.mkdir()
    return place


def entries(place: Path) -> set[str]:
    return {entry.name for entry in place.iterdir()} - {".w.lock"}


def test_what_was_packed_is_installed(packed, place, files):
    path = install(packed, place / "w")
    assert path == place / "w"
    assert read_files(path) == files
    marker = check_install(path)
    assert_same(marker, packed)
    assert entries(place) == {"w"}


def test_an_install_packs_to_the_same_tarball(packed, place, tmp_path):
    again = pack(install(packed, place / "w"), tmp_path / "again.tar")
    assert again.digest == packed.digest


def test_installs_from_the_web_once(packed, place, server, tmp_path, files):
    url = server.serve("/w.tar", (tmp_path / "weights.tar").read_bytes())
    lock = dataclasses.replace(packed, url=f"{url}?sig=SECRET")
    steps: list[int] = []
    install(lock, place / "w", progress=steps.append)
    assert sum(steps) == packed.files_size
    asked = len(server.requests)
    install(lock, place / "w")
    assert read_files(place / "w") == files
    assert len(server.requests) == asked
    assert "SECRET" not in (place / "w" / ".install.json").read_text()


def test_makes_missing_folders_and_follows_a_link(packed, tmp_path, files):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    install(packed, tmp_path / "link" / "a" / "w")
    assert read_files(tmp_path / "disk" / "a" / "w") == files


def test_an_empty_folder_is_used(packed, place, files):
    (place / "w").mkdir()
    install(packed, place / "w")
    assert read_files(place / "w") == files


@pytest.mark.parametrize("kind", ["file", "folder", "tree"])
def test_what_a_user_put_there_stays(packed, place, kind):
    target = place / "w" if kind == "file" else place / "w" / "sub" / "notes.txt"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("mine")
    with pytest.raises(UserError, match="was not made by an install"):
        install(packed, place / "w")
    assert target.read_text() == "mine"
    assert entries(place) == {"w"}


@pytest.fixture
def mount_point(place, monkeypatch) -> Path:
    """A folder that can't be renamed to, with what a fresh ext4 volume has at its top."""
    folder = place / "w"
    (folder / "lost+found").mkdir(parents=True)
    ismount = os.path.ismount
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == folder or ismount(path))
    return folder


def test_a_mount_point_gets_the_files_one_by_one_and_the_marker_last(
    packed, files, mount_point, monkeypatch
):
    order: list[str] = []
    rename = Path.rename

    def record(self: Path, target: Path) -> Path:
        order.append(Path(target).name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", record)
    assert install(packed, mount_point) == mount_point
    assert order[-1] == ".install.json"
    assert read_files(mount_point) == files
    check_install(mount_point)
    assert not (mount_point / ".install.partial").exists()
    assert entries(mount_point.parent) == {"w"}


def test_an_install_on_a_mount_point_is_replaced_whole(
    packed, folder, files, mount_point, tmp_path
):
    install(packed, mount_point)
    (folder / "vae" / "config.json").write_text('{"new": 1}')
    newer = pack(folder, tmp_path / "newer.tar")
    install(newer, mount_point)
    assert check_install(mount_point).digest == newer.digest
    assert check_install(mount_point / ".install.broken.0").digest == packed.digest
    assert (mount_point / "lost+found").is_dir()


def test_an_install_on_a_mount_point_packs_to_the_same_tarball(packed, mount_point, tmp_path):
    install(packed, mount_point)
    (mount_point / "lost+found").rmdir()
    assert pack(mount_point, tmp_path / "again.tar").digest == packed.digest


@pytest.mark.parametrize("moved", range(7))
def test_a_kill_while_the_files_come_to_a_mount_point_is_mended(
    packed, files, mount_point, monkeypatch, moved
):
    rename, renames = Path.rename, 0

    def die_after(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames > moved:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die_after)
    with pytest.raises(KeyboardInterrupt):
        install(packed, mount_point)
    assert not (mount_point / ".install.json").exists()
    monkeypatch.setattr(Path, "rename", rename)
    lost = dataclasses.replace(packed, url="gone.tar")
    install(lost, mount_point)  # without a download: all was there
    assert read_files(mount_point) == files
    assert not (mount_point / ".install.partial").exists()


def test_an_install_on_a_read_only_disk_is_used(packed, place, monkeypatch):
    install(packed, place / "w")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("mkdir", "open", "rename", "unlink"):
        monkeypatch.setattr(f"os.{name}", refuse)
    assert install(packed, place / "w") == place / "w"


@pytest.mark.parametrize(
    "damage",
    [
        lambda w: (w / "vae" / "config.json").unlink(),
        lambda w: (w / "vae" / "config.json").write_text("{     }"),
        lambda w: (w / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 120),
        lambda w: (w / ".install.json").write_text("{"),
        lambda w: shutil.rmtree(w / "transformer"),
    ],
)
def test_a_damaged_install_is_set_aside_and_made_anew(packed, place, files, damage):
    for number in range(2):
        install(packed, place / "w")
        damage(place / "w")
        with pytest.raises(UserError):
            check_install(place / "w")
        install(packed, place / "w")
        assert read_files(place / "w") == files
        assert (place / f"w.broken.{number}").is_dir()
    assert entries(place) == {"w", "w.broken.0", "w.broken.1"}


def test_a_header_of_the_right_size_but_damaged_is_seen(packed, place):
    shard = install(packed, place / "w") / "transformer" / "model-1.safetensors"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    with pytest.raises(UserError, match=r"model-1\.safetensors"):
        check_install(place / "w")


def test_another_lock_replaces_the_install_and_keeps_it_aside(packed, folder, place, tmp_path):
    install(packed, place / "w")
    (folder / "vae" / "config.json").write_text('{"new": 1}')
    newer = pack(folder, tmp_path / "newer.tar")
    install(newer, place / "w")
    assert check_install(place / "w").digest == newer.digest
    assert check_install(place / "w.broken.0").digest == packed.digest


def test_a_failed_replacement_leaves_the_old_install(packed, folder, place, tmp_path):
    install(packed, place / "w")
    (folder / "vae" / "config.json").write_text('{"new": 1}')
    newer = pack(folder, tmp_path / "newer.tar")
    (tmp_path / "newer.tar").write_bytes(b"damaged")
    with pytest.raises(OperationError):
        install(newer, place / "w")
    assert check_install(place / "w").digest == packed.digest
    assert entries(place) == {"w"}


def test_a_plain_weights_folder_is_no_install(folder):
    with pytest.raises(UserError, match=r"\.install\.json"):
        check_install(folder)


def test_a_marker_without_digests_is_refused(packed, place):
    write_lock(unpinned(packed), install(packed, place / "w") / ".install.json")
    with pytest.raises(UserError, match="no digests"):
        check_install(place / "w")


def test_everything_is_on_disk_before_the_rename(packed, place, files, monkeypatch):
    synced: set[str] = set()
    fsync = os.fsync

    def record(descriptor: int) -> None:
        assert not (place / "w").exists() or synced >= set(files)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(place / "w.partial" / "files"):
            synced.add(path.relative_to(place / "w.partial" / "files").as_posix())
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", record)
    install(packed, place / "w")
    assert {*files, ".", "vae", "transformer"} <= synced
    assert any(name.startswith(".install.json") for name in synced)


def test_a_cut_download_leaves_only_what_the_next_one_uses(packed, place, server, tmp_path, files):
    data = (tmp_path / "weights.tar").read_bytes()
    url = server.serve("/w.tar", data[: len(data) // 2], announce=len(data))
    lock = dataclasses.replace(packed, url=url)
    with pytest.raises(OperationError, match=r"/w\.tar broke \(the connection ended early\)"):
        install(lock, place / "w", settings=IMPATIENT)
    assert entries(place) == {"w.partial"}
    server.serve("/w.tar", data)
    steps: list[int] = []
    install(lock, place / "w", progress=steps.append)
    assert read_files(place / "w") == files
    assert steps[0] > max(file.size for file in packed.files)  # what was there, at once
    assert sum(steps) == packed.files_size
    assert entries(place) == {"w"}


def test_an_interruption_leaves_nothing(packed, place):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(packed, place / "w", progress=interrupt)
    assert entries(place) == set()


def test_a_full_disk_is_said_before_the_download(packed, place, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(1, 1, packed.files_size - 1))
    with pytest.raises(OperationError, match=r"B free\. .*B are needed"):
        install(packed, place / "w", progress=lambda _: pytest.fail("it began"))
    assert entries(place) == set()


def test_a_disk_error_is_an_operation_error(packed, place, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OperationError, match="No space left"):
        install(packed, place / "w")
    assert entries(place) <= {"w.partial"}


def test_a_lock_without_url_is_refused(packed, place):
    with pytest.raises(UserError, match="where its tarball is"):
        install(dataclasses.replace(packed, url=None), place / "w")
    assert entries(place) == set()


# Unpinned locks: nothing is known beforehand.


def test_an_unpinned_lock_warns_and_writes_down_what_it_saw(packed, place, files, caplog):
    install(unpinned(packed), place / "w")
    assert [r.levelno for r in caplog.records if "not pinned" in r.message] == [logging.WARNING]
    assert read_files(place / "w") == files
    marker = check_install(place / "w")
    assert_same(marker, packed)


def test_an_unpinned_install_is_kept_while_name_and_url_are_the_same(
    packed, place, server, tmp_path
):
    url = server.serve("/w.tar", (tmp_path / "weights.tar").read_bytes())
    lock = dataclasses.replace(unpinned(packed), url=url)
    install(lock, place / "w")
    asked = len(server.requests)
    install(lock, place / "w")
    assert len(server.requests) == asked
    other = server.serve("/other.tar", (tmp_path / "weights.tar").read_bytes())
    install(dataclasses.replace(lock, url=other), place / "w")
    assert set(server.requests) == {"/w.tar", "/other.tar"}


def test_a_folder_in_the_tarball_is_lifted(folder, files, place, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(folder, "./some model")
        tar.add(folder / "vae" / "config.json", "README")
    lock = Lock(name="x", variant=None, dtype=None, url="x.tar", folder=tmp_path)
    install(lock, place / "w")
    assert read_files(place / "w") == files
    assert {file.path for file in check_install(place / "w").files} == set(files)
    assert entries(place) == {"w"}


@pytest.mark.parametrize("top", ["one/two", "one|two", "photos"])
def test_a_tarball_without_one_weights_folder_is_refused(folder, place, tmp_path, top):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in top.split("|"):
            tar.add(folder if top != "photos" else folder / "vae", name)
    lock = Lock(name="x", variant=None, dtype=None, url="x.tar", folder=tmp_path)
    with pytest.raises(OperationError, match="holds no weights folder"):
        install(lock, place / "w")
    assert entries(place) == set()


def test_an_incomplete_weights_folder_is_refused_by_its_own_names(folder, place, tmp_path):
    (folder / "vae" / "config.json").unlink()
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(folder, ".")
    lock = Lock(name="x", variant=None, dtype=None, url="x.tar", folder=tmp_path)
    with pytest.raises(OperationError, match=r"There is no vae/config\.json"):
        install(lock, place / "w")
    assert entries(place) == set()


# Two processes, and killed ones.


def test_two_at_once_do_the_work_once(packed, place, server, tmp_path, files):
    data = (tmp_path / "weights.tar").read_bytes()
    url, halfway, go_on = server.serve_halves("/w.tar", data)
    lock_file = tmp_path / "w.lock.json"
    write_lock(dataclasses.replace(packed, url=url), lock_file)
    first = start_install(lock_file, place / "w")
    assert halfway.wait(60)
    second = start_install(lock_file, place / "w")
    assert "waiting for it" in second.stderr.readline()
    asked = len(server.requests)
    go_on.set()
    for process in (first, second):
        _, messages = process.communicate(timeout=60)
        assert process.returncode == 0, messages
    assert len(server.requests) == asked
    assert read_files(place / "w") == files
    assert entries(place) == {"w"}


def test_a_killed_install_counts_for_nothing(packed, place, server, tmp_path, files):
    data = (tmp_path / "weights.tar").read_bytes()
    url, halfway, go_on = server.serve_halves("/w.tar", data)
    lock_file = tmp_path / "w.lock.json"
    write_lock(dataclasses.replace(packed, url=url), lock_file)
    process = start_install(lock_file, place / "w")
    assert halfway.wait(60)
    process.kill()
    process.communicate(timeout=60)
    go_on.set()
    assert entries(place) == {"w.partial"}
    (place / "w.partial.notes").write_text("mine")

    install(read_lock(lock_file), place / "w")
    assert read_files(place / "w") == files
    assert entries(place) == {"w", "w.partial.notes"}


def test_the_one_who_waits_takes_over_from_a_killed_one(packed, place, server, tmp_path, files):
    data = (tmp_path / "weights.tar").read_bytes()
    url, halfway, go_on = server.serve_halves("/w.tar", data)
    lock_file = tmp_path / "w.lock.json"
    write_lock(dataclasses.replace(packed, url=url), lock_file)
    first = start_install(lock_file, place / "w")
    assert halfway.wait(60)
    second = start_install(lock_file, place / "w")
    assert "waiting for it" in second.stderr.readline()
    first.kill()
    first.communicate(timeout=60)
    go_on.set()
    _, messages = second.communicate(timeout=60)
    assert second.returncode == 0, messages
    assert read_files(place / "w") == files
    assert entries(place) == {"w"}


def test_a_marker_of_an_unknown_version_is_another_install(packed, place):
    marker = install(packed, place / "w") / ".install.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"version": 2}))
    install(packed, place / "w")
    assert entries(place) == {"w", "w.broken.0"}
