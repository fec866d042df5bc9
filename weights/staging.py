"""Where an install is prepared, and how it comes to its place.

Beside its place, as DEST.partial, it comes there by one rename. A mount point can't be renamed to:
there it is prepared inside, as DEST/.install.partial, and comes file by file with the marker last.
Either way a folder with a marker is whole, at every moment.
"""

import contextlib
import errno
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from weights.atomic import sync_folder
from weights.errors import UserError
from weights.lock import read_lock
from weights.paths import MARKER, is_reserved

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """`destination` of an install; `inside`: whether it is prepared inside of it."""

    destination: Path
    inside: bool

    @property
    def lock_file(self) -> Path:
        if self.inside:
            return self.destination / ".install.lock"
        return self.destination.with_name(f".{self.destination.name}.lock")

    @property
    def staging(self) -> Path:
        if self.inside:
            return self.destination / ".install.partial"
        return self.destination.with_name(f"{self.destination.name}.partial")

    @property
    def files(self) -> Path:
        """Where the weights folder grows; with a marker in it, it is whole."""
        return self.staging / "files"

    @property
    def journal(self) -> Path:
        return self.staging / "journal"


def mount_points(mountinfo: bytes) -> set[str]:
    """The paths in /proc/self/mountinfo, where a space is written as `\\040` and so on."""
    fields = [line.split(b" ") for line in mountinfo.split(b"\n") if line]
    return {
        os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), path))
        for _, _, _, _, path, *_ in fields
    }


def _is_mount_point(path: Path) -> bool:
    if os.path.ismount(path):
        return True
    # A folder mounted from the same disk, as containers do, is known to Linux alone.
    try:
        return str(path) in mount_points(Path("/proc/self/mountinfo").read_bytes())
    except OSError:
        return False


def place_of(destination: Path) -> Place:
    """How an install comes to `destination`, a resolved path."""
    inside = destination.is_dir() and (
        _is_mount_point(destination) or not os.access(destination.parent, os.W_OK)
    )
    return Place(destination, inside)


def _may_be_used(place: Place) -> bool:
    """Whether nothing is at the destination that no install put there."""
    folders = [place.destination, place.files] if place.inside else [place.destination]
    if any((folder / MARKER).is_file() for folder in folders):
        return True
    try:
        names = [path.name for path in place.destination.iterdir()]
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
    return not names or (place.inside and all(map(is_reserved, names)))


def check_destination(place: Place) -> None:
    """Refuse a place where something is that no install put there.

    Raises:
        UserError: it is a file, or a folder with files and without a marker.
        OSError: the folder can't be read.
    """
    if _may_be_used(place):
        return
    if place.lock_file.exists():  # another process may be about to bring its install there
        with locked(place):
            if _may_be_used(place):
                return
    raise UserError(
        f"{place.destination} is there already and was not made by an install.",
        "A new or empty folder is expected, or an earlier install.",
        "Choose another folder, or move this one away.",
    )


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Hold a place against other processes; a killed one's is free at once."""
    lock = FileLock(place.lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info("Another process installs %s; waiting for it.", place.destination)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sync_files(root: Path) -> None:
    """Put all below `root` on disk, names included."""
    for path in root.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(root)


def _broken_name(place: Place) -> Path:
    for number in itertools.count():
        name = f"{place.destination.name}.broken.{number}"
        path = place.destination.with_name(name)
        if place.inside:
            path = place.destination / f".install.broken.{number}"
        if not path.exists():
            return path
    raise AssertionError("unreachable")


def _move(path: Path, target: Path) -> None:
    """Rename; a folder that came with a container's image is copied and removed, marker last."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(path, target)
        for child in sorted(path.iterdir(), key=lambda child: child.name == MARKER):
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        path.rmdir()


def _set_aside(place: Place) -> None:
    """Move an install that is not the right one away; a user's own folder has no marker."""
    if (place.destination / MARKER).is_file():
        aside = _broken_name(place)
        _log.warning("%s is not what the lock names; moved to %s.", place.destination, aside)
        _move(place.destination, aside)


def publish(place: Place) -> None:
    """Bring the prepared folder, which has its marker and is on disk, to its place.

    Raises:
        OSError: a rename failed; what is there then has no marker.
    """
    if not place.inside:
        _set_aside(place)
        place.files.rename(place.destination)
        sync_folder(place.destination.parent)
    else:
        _publish_inside(place)
    shutil.rmtree(place.staging, ignore_errors=True)  # or `sweep` does


def _publish_inside(place: Place) -> None:
    _set_contents_aside(place)
    for path in place.files.iterdir():
        if path.name != MARKER:
            path.rename(place.destination / path.name)
    sync_folder(place.destination)
    (place.files / MARKER).rename(place.destination / MARKER)
    sync_folder(place.destination)


def _set_contents_aside(place: Place) -> None:
    """Move what an earlier install left in `destination` away, marker first.

    Also after this was interrupted at any moment: what of the new install is there already, and so
    no longer among the prepared files, stays.
    """
    new = {Path(file.path).parts[0] for file in read_lock(place.files / MARKER).files}
    arrived = new - {path.name for path in place.files.iterdir()}
    old = [
        path
        for path in place.destination.iterdir()
        if path.name == MARKER or not (is_reserved(path.name) or path.name in arrived)
    ]
    if not old:
        return
    aside = _broken_name(place)
    _log.warning("%s is not what the lock names; moved to %s.", place.destination, aside)
    aside.mkdir()
    for path in sorted(old, key=lambda path: path.name != MARKER):
        _move(path, aside / path.name)


def finish_interrupted(place: Place) -> None:
    """Publish what a killed process had prepared wholly.

    Raises:
        OSError: a rename failed.
    """
    if (place.files / MARKER).is_file():
        publish(place)


def sweep(place: Place) -> None:
    """Remove what a process left that was killed after its install was in place."""
    if not place.staging.exists():
        return
    lock = FileLock(place.lock_file)
    with contextlib.suppress(Timeout, OSError):  # somebody works there, or the disk is read-only
        lock.acquire(timeout=0)
        shutil.rmtree(place.staging)
    lock.release()
