"""How an install comes to its place: a folder with a marker is whole, at every moment."""

import errno
import hashlib
import logging
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from weights.errors import UserError
from weights.install_check import verify_install
from weights.lock import Lock, LockedFile, write_lock
from weights.paths import MARKER
from weights.staging import (
    Place,
    check_destination,
    finish_interrupted,
    locked,
    mount_points,
    place_of,
    publish,
    sweep,
    sync_files,
)

Files = dict[str, bytes]


class Killed(BaseException):
    """The end of a process, at some moment."""


OLD = {"model_index.json": b"old", "vae/x": b"x", "scheduler/old": b"old", "only old": b"old"}
NEW = {"model_index.json": b"new!", "vae/x": b"y", "scheduler/new": b"new", "only new/a/b": b"new"}


@pytest.fixture
def disk(quick_path) -> Path:
    """Where the installs are; everything that comes beside them is in here."""
    (quick_path / "disk").mkdir()
    return quick_path / "disk"


@pytest.fixture(params=["beside", "inside"])
def place(request, disk) -> Place:
    if request.param == "inside":  # a mount point is there, with what a fresh ext4 has at its top
        (disk / "w" / "lost+found").mkdir(parents=True)
    return Place(disk / "w", request.param == "inside")


@pytest.fixture
def inside(disk) -> Place:
    (disk / "w" / "lost+found").mkdir(parents=True)
    return Place(disk / "w", inside=True)


@pytest.fixture
def beside(disk) -> Place:
    return Place(disk / "w", inside=False)


def marker_of(files: Files) -> Lock:
    locked_files = (
        LockedFile(path, len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
        for path, data in files.items()
    )
    return Lock(
        name="x", variant=None, dtype=None, url="https://example.org/x/", files=tuple(locked_files)
    )


def prepare(place: Place, files: Files) -> None:
    """What a fetch makes before it publishes."""
    for path, data in files.items():
        (place.files / path).parent.mkdir(parents=True, exist_ok=True)
        (place.files / path).write_bytes(data)
    place.journal.write_text("a journal")
    write_lock(marker_of(files), place.files / MARKER)


def put_there(place: Place, files: Files) -> None:
    prepare(place, files)
    publish(place)


def read_files(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def installed(place: Place) -> Files:
    """The files of the install that is there, and whole."""
    assert verify_install(place.destination).set_digest
    files = read_files(place.destination)
    return {path: data for path, data in files.items() if not path.startswith(".install.")}


def set_aside(place: Place) -> list[Path]:
    parent, name = (
        (place.destination, ".install") if place.inside else (place.destination.parent, "w")
    )
    return sorted(parent.glob(f"{name}.broken.*"))


def entries(place: Place) -> set[str]:
    """What is beside the destination, or beside the files in it."""
    folder = place.destination if place.inside else place.destination.parent
    return {path.name for path in folder.iterdir()}


# Where an install is prepared.


def test_beside_its_destination(beside, disk):
    assert beside.lock_file == disk / ".w.lock"
    assert beside.staging == disk / "w.partial"
    assert beside.files == disk / "w.partial" / "files"
    assert beside.journal == disk / "w.partial" / "journal"


def test_or_inside_under_names_that_no_weights_have(inside, disk):
    assert inside.lock_file == disk / "w" / ".install.lock"
    assert inside.staging == disk / "w" / ".install.partial"


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch])
def test_a_new_or_plain_destination_is_come_to_from_beside(disk, make):
    make(disk / "w")
    assert place_of(disk / "w") == Place(disk / "w", inside=False)


def test_a_mount_point_is_filled_from_inside():
    assert place_of(Path("/proc")) == Place(Path("/proc"), inside=True)
    assert place_of(Path("/")) == Place(Path("/"), inside=True)


def test_so_is_a_folder_in_one_that_can_not_be_written(disk, monkeypatch):
    (disk / "w").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: (Path(path), mode) != (disk, os.W_OK))
    assert place_of(disk / "w").inside
    assert not place_of(disk / "new").inside


@pytest.fixture(params=["w", "w é 漢 \\040"])
def bind_mount(request, disk) -> Iterator[Path]:
    """A folder of this disk mounted on another, as containers do; os.path.ismount can't tell."""
    source, target = disk / "source", disk / request.param
    source.mkdir()
    target.mkdir()
    command = ["mount", "--bind", str(source), str(target)]
    if os.geteuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root may mount, and not in each container")
    yield target
    subprocess.run(["umount", str(target)], check=True)


def test_a_bind_mount_is_a_mount_point(bind_mount):
    assert not os.path.ismount(bind_mount)
    assert place_of(bind_mount).inside


def test_an_install_comes_to_a_bind_mount(bind_mount):
    place = place_of(bind_mount)
    put_there(place, OLD)
    put_there(place, NEW)
    assert installed(place) == NEW
    assert read_files(set_aside(place)[0]).keys() == {*OLD, MARKER}


def test_mount_points_are_read_as_the_kernel_writes_them():
    text = (
        "22 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"
        "36 35 98:0 /mnt1 /mnt2/a\\040b\\011\\012\\134040 rw,noatime master:1 - ext3 /dev/root rw\n"
        "40 35 98:0 / /mnt/é\r\x0b漢 rw - ext4 /dev/vda rw\n"
    ).encode()
    assert mount_points(text + b"41 35 98:0 / /\xff rw - ext4 /dev/vda rw\n") == {
        "/sys",
        "/mnt2/a b\t\n\\040",
        "/mnt/é\r\x0b漢",
        os.fsdecode(b"/\xff"),
    }


def test_a_system_without_mountinfo_knows_fewer_mount_points(disk, monkeypatch):
    def refuse(path: Path) -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (disk / "w").mkdir()
    assert not place_of(disk / "w").inside


# What may be there.

MAY = {
    "nothing": lambda place: None,
    "an empty folder": lambda place: place.destination.mkdir(exist_ok=True),
    "an install": lambda place: put_there(place, OLD),
    "a damaged install": lambda place: (
        put_there(place, OLD),
        (place.destination / "vae/x").unlink(),
    ),
}


@pytest.mark.parametrize("make", MAY.values(), ids=MAY)
def test_a_place_without_anything_of_a_user_is_fine(place, make):
    make(place)
    check_destination(place)


MAY_NOT = {
    "a file": lambda path: path.write_text("mine"),
    "a folder with a file": lambda path: (path.mkdir(), (path / "x").write_text("mine")),
    "a folder with a folder": lambda path: (path / "x").mkdir(parents=True),
    "a marker that is a folder": lambda path: (path / MARKER).mkdir(parents=True),
}


@pytest.mark.parametrize("make", MAY_NOT.values(), ids=MAY_NOT)
def test_what_a_user_put_there_is_refused(beside, disk, make):
    make(beside.destination)
    with pytest.raises(UserError, match=r"disk/w is there already and was not made by an install"):
        check_destination(beside)
    assert entries(beside) == {"w"}


def test_what_a_user_put_on_a_mount_point_is_refused(inside):
    (inside.destination / "notes").write_text("mine")
    with pytest.raises(UserError, match="was not made by an install"):
        check_destination(inside)
    assert entries(inside) == {"lost+found", "notes"}


@pytest.mark.parametrize("staged", ["", "files/model_index.json", "journal"])
def test_a_fetch_that_broke_off_makes_a_users_files_not_ours(inside, staged):
    (inside.staging / staged).mkdir(parents=True)
    check_destination(inside)
    (inside.destination / "notes").write_text("mine")
    with pytest.raises(UserError, match="was not made by an install"):
        check_destination(inside)


def test_files_that_half_came_to_a_mount_point_are_ours(inside):
    prepare(inside, NEW)
    (inside.files / "vae").rename(inside.destination / "vae")
    check_destination(inside)


def test_a_users_folder_is_refused_whatever_is_prepared_for_it(beside):
    prepare(beside, NEW)
    beside.destination.mkdir()
    (beside.destination / "notes").write_text("mine")
    with pytest.raises(UserError, match="was not made by an install"):
        check_destination(beside)


def test_reserved_names_alone_are_no_mount_points_only(beside):
    """A rename onto them would fail, after the download."""
    (beside.destination / ".install.lock").mkdir(parents=True)
    with pytest.raises(UserError, match="was not made by an install"):
        check_destination(beside)


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


class Log(logging.Handler):
    """Sets `waits` when somebody waits for another process."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "waiting for it" in record.getMessage():
            self.waits.set()


@pytest.fixture
def log() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger("weights.staging")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_what_another_process_is_just_bringing_is_not_a_users(place, log):
    """It is looked at again when that process is done."""
    with locked(place):
        (place.destination / "vae").mkdir(parents=True)
        thread, errors = in_thread(lambda: check_destination(place))
        assert log.waits.wait(10)
        (place.destination / MARKER).touch()
    thread.join(10)
    assert errors == []


# Coming to the place.


def test_a_prepared_folder_comes_to_its_place(place):
    put_there(place, NEW)
    assert installed(place) == NEW
    assert not place.staging.exists()
    assert entries(place) - {"w", "lost+found"} == (
        {*_tops(NEW), MARKER} if place.inside else set()
    )


def _tops(files: Files) -> set[str]:
    return {path.partition("/")[0] for path in files}


def test_an_empty_folder_is_taken(beside):
    beside.destination.mkdir()
    put_there(beside, NEW)
    assert installed(beside) == NEW
    assert set_aside(beside) == []


def test_another_install_is_set_aside(place, caplog):
    put_there(place, OLD)
    put_there(place, NEW)
    assert installed(place) == NEW
    (aside,) = set_aside(place)
    assert verify_install(aside).files == marker_of(OLD).files
    assert read_files(aside).keys() == {*OLD, MARKER}
    assert [str(aside) in record.getMessage() for record in caplog.records] == [True]


def test_each_set_aside_has_a_name_of_its_own(place):
    for files in (OLD, NEW, OLD, NEW):
        put_there(place, files)
    assert [path.name[-1] for path in set_aside(place)] == ["0", "1", "2"]
    assert [verify_install(path).files for path in set_aside(place)] == [
        marker_of(files).files for files in (OLD, NEW, OLD)
    ]


def test_a_damaged_install_is_set_aside_with_what_is_left_of_it(place):
    put_there(place, OLD)
    (place.destination / "vae" / "x").unlink()
    (place.destination / "added").write_text("mine")
    put_there(place, NEW)
    assert installed(place) == NEW
    assert read_files(set_aside(place)[0]).keys() == {*OLD, MARKER, "added"} - {"vae/x"}


@pytest.fixture
def image(quick_path) -> Iterator[Path]:
    """A file system like a container's: folders of its image can be changed, and not renamed."""
    image = quick_path / "image"
    for name in ("lower", "upper", "work", "root"):
        (image / name).mkdir(parents=True)
    put_there(Place(image / "lower" / "w", inside=False), OLD)
    layers = f"lowerdir={image}/lower,upperdir={image}/upper,workdir={image}/work"
    command = ["mount", "-t", "overlay", "-o", layers, "overlay", str(image / "root")]
    if os.geteuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root may mount, and not in each container")
    yield image / "root"
    subprocess.run(["umount", str(image / "root")], check=True)


@pytest.mark.parametrize("is_inside", [False, True])
def test_an_install_that_came_with_an_image_is_set_aside_too(image, is_inside):
    place = Place(image / "w", is_inside)
    put_there(place, NEW)
    assert installed(place) == NEW
    (aside,) = set_aside(place)
    assert verify_install(aside).files == marker_of(OLD).files


def test_a_set_aside_by_copying_removes_the_marker_last(beside, monkeypatch):
    """Killed before, the old install is seen as damaged and set aside again."""
    put_there(beside, OLD)
    prepare(beside, NEW)
    rename, unlink = Path.rename, Path.unlink

    def refuse(path: Path, target: Path) -> Path:
        if path == beside.destination:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    def die_at_the_marker(path: Path, missing_ok: bool = False) -> None:
        if path.name == MARKER:
            assert list(path.parent.iterdir()) == [path]
            raise Killed
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "rename", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die_at_the_marker)
        with pytest.raises(Killed):
            publish(beside)
    check_destination(beside)
    finish_interrupted(beside)
    assert installed(beside) == NEW
    assert verify_install(set_aside(beside)[0]).files == marker_of(OLD).files


def test_another_error_of_a_rename_is_passed_on(beside, monkeypatch):
    put_there(beside, OLD)
    prepare(beside, NEW)
    refuse = OSError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "rename", lambda path, target: (_ for _ in ()).throw(refuse))
    with pytest.raises(PermissionError):
        publish(beside)
    monkeypatch.undo()
    assert installed(beside) == OLD


def test_what_the_file_system_has_on_a_mount_point_stays(inside):
    (inside.destination / "lost+found" / "#1").write_text("found")
    put_there(inside, OLD)
    put_there(inside, NEW)
    assert (inside.destination / "lost+found" / "#1").read_text() == "found"


def test_on_a_mount_point_the_files_are_on_disk_before_the_marker_comes(inside, monkeypatch):
    events: list[str] = []
    rename = Path.rename

    def note_rename(path: Path, target: Path) -> Path:
        events.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(
        "weights.staging.sync_folder", lambda path: events.append(f"sync {path.name}")
    )
    put_there(inside, NEW)
    assert events[-3:] == ["sync w", MARKER, "sync w"]
    assert set(events[:-3]) - {MARKER} == _tops(NEW)


def test_beside_it_the_new_name_is_put_on_disk(beside, monkeypatch):
    synced: list[Path] = []
    prepare(beside, NEW)
    monkeypatch.setattr("weights.staging.sync_folder", synced.append)
    publish(beside)
    assert synced == [beside.destination.parent]


def test_staging_that_can_not_be_removed_is_left_to_the_sweep(place, monkeypatch):
    prepare(place, NEW)
    with monkeypatch.context() as patch:
        patch.setattr("os.rmdir", lambda *_, **__: (_ for _ in ()).throw(OSError(16, "Busy")))
        publish(place)
        assert place.staging.exists()
    sweep(place)
    assert not place.staging.exists()
    assert installed(place) == NEW


# Killed at any moment: the renames are the steps between which that can happen.


class DyingRename:
    """Path.rename that works some times; before each, a folder with a marker is whole."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        self._place, self._rename, self._left = place, Path.rename, 0
        monkeypatch.setattr(Path, "rename", lambda path, target: self._step(path, target))

    def _step(self, path: Path, target: Path) -> Path:
        if (self._place.destination / MARKER).is_file():
            verify_install_of_its_marker(self._place)
        if self._left == 0:
            raise Killed
        self._left -= 1
        return self._rename(path, target)

    def run(self, work: Callable[[Place], object], steps: int) -> bool:
        """Whether `work` ended before it was killed."""
        self._left = steps
        with suppress(Killed):
            work(self._place)
            self._left = 1000
            return True
        self._left = 1000
        return False


def verify_install_of_its_marker(place: Place) -> None:
    from weights.install_check import check_install

    check_install(place.destination)


def all_files(folder: Path) -> set[tuple[str, bytes]]:
    """Name and content of all files, wherever they were moved."""
    return {(path.name, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("old", [{}, OLD], ids=["first", "another there"])
@pytest.mark.parametrize("steps", range(10))
def test_a_publication_that_was_killed_is_finished_by_the_next_process(
    place, disk, monkeypatch, old, steps
):
    if old:
        put_there(place, old)
    before = all_files(disk)
    prepare(place, NEW)
    renames = DyingRename(place, monkeypatch)
    ended = renames.run(publish, steps)
    if not ended:
        check_destination(place)
        assert place.staging.is_dir()
    finish_interrupted(place)
    sweep(place)
    assert installed(place) == NEW
    assert all_files(disk) >= before
    assert not place.staging.exists()


@pytest.mark.parametrize("seed", range(20))
def test_so_it_is_however_often_it_is_killed(place, disk, monkeypatch, seed):
    chance = random.Random(seed)
    put_there(place, OLD)
    before = all_files(disk)
    prepare(place, NEW)
    renames = DyingRename(place, monkeypatch)
    done = renames.run(publish, chance.randrange(4))
    while not done:
        check_destination(place)
        done = renames.run(finish_interrupted, chance.randrange(1, 4))
    sweep(place)
    assert installed(place) == NEW
    assert all_files(disk) >= before


def test_the_test_before_does_kill_at_every_step(inside, monkeypatch):
    """Five entries go aside, five come."""
    put_there(inside, OLD)
    prepare(inside, NEW)
    renames = DyingRename(inside, monkeypatch)
    assert not renames.run(publish, 9)
    assert (inside.files / MARKER).is_file()
    assert renames.run(finish_interrupted, 1)


def test_a_fetch_that_was_killed_is_not_published(place):
    prepare(place, NEW)
    (place.files / MARKER).unlink()
    finish_interrupted(place)
    assert not (place.destination / MARKER).exists()
    assert place.files.is_dir()


def test_without_anything_prepared_nothing_is_done(place):
    before = entries(place)
    finish_interrupted(place)
    sweep(place)
    assert entries(place) == before


# Several processes.


def test_a_place_is_held_by_one_at_a_time(place, log):
    place.destination.mkdir(exist_ok=True)
    came: list[str] = []

    def work() -> None:
        with locked(place):
            came.append("second")

    with locked(place):
        thread, errors = in_thread(work)
        assert log.waits.wait(10)
        came.append("first")
    thread.join(10)
    assert (came, errors) == (["first", "second"], [])


def test_what_another_process_prepares_is_not_swept(place):
    place.destination.mkdir(exist_ok=True)
    with locked(place):
        prepare(place, NEW)
        thread, errors = in_thread(lambda: sweep(place))
        thread.join(10)
        assert place.files.is_dir()
    assert errors == []
    sweep(place)
    assert not place.staging.exists()


def test_everything_below_a_folder_is_put_on_disk(tmp_path, monkeypatch):
    for path in ("a", "b/c", "b/d/e"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    synced: set[Path] = set()
    monkeypatch.setattr("os.fsync", lambda fd: synced.add(Path(f"/proc/self/fd/{fd}").readlink()))
    sync_files(tmp_path)
    assert synced == {tmp_path, *tmp_path.rglob("*")}
