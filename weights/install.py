"""Installs what a lock names: whole and verified at its place, or not there at all."""

import dataclasses
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from weights.atomic import sync_folder
from weights.download import open_source
from weights.errors import OperationError, UserError
from weights.folder import check_weights_folder
from weights.lock import Lock, LockedFile, read_lock, resolve_url, write_lock
from weights.paths import MARKER
from weights.safetensors_header import read_header
from weights.untar import Contents, Progress, unpack
from weights.urls import shown_url

_log = logging.getLogger(__name__)

_INDEX = "model_index.json"


def check_install(path: Path) -> Lock:
    """Check that `path` is an install, quickly: its marker, all sizes, all safetensors headers.

    Returns the marker: a pinned lock of the files that are there, of an unpinned lock too.

    Raises:
        UserError: it is not an install, or one that was changed or damaged.
    """
    marker = read_lock(path / MARKER)
    if not marker.pinned:
        raise UserError(
            f"{path / MARKER} has no digests.",
            "An install's marker has them.",
            "Install the weights again.",
        )
    for locked in marker.files:
        file = path / locked.path
        size = file.stat().st_size if file.is_file() else None
        if size != locked.size:
            found = "is missing" if size is None else f"has {size} bytes"
            raise UserError(
                f"{file} {found}.",
                f"It had {locked.size} bytes when it was installed.",
                "Install the weights again.",
            )
        if file.suffix == ".safetensors":
            read_header(file)
    return marker


def _marker(lock: Lock, contents: Contents, files: tuple[LockedFile, ...]) -> Lock:
    """The lock of what was found. A url in it holds no secret."""
    return dataclasses.replace(
        lock,
        url=shown_url(resolve_url(lock)),
        size=contents.size,
        digest=contents.digest,
        files=files,
    )


def _is_install_of(lock: Lock, path: Path) -> bool:
    if not (path / MARKER).is_file():
        return False
    try:
        marker = check_install(path)
    except UserError as error:
        _log.warning("The install at %s is damaged: %s", path, error)
        return False
    if lock.pinned:
        return (marker.digest, marker.set_digest) == (lock.digest, lock.set_digest)
    return (marker.name, marker.url) == (lock.name, shown_url(resolve_url(lock)))


def _siblings(destination: Path, kind: str) -> list[Path]:
    pattern = re.compile(rf"{re.escape(destination.name)}\.{kind}\.[0-9]+")
    return [path for path in destination.parent.iterdir() if pattern.fullmatch(path.name)]


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """Hold the lock of `destination` against other processes; a killed one's is free at once."""
    lock = FileLock(destination.with_name(f".{destination.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info("Another process installs %s; waiting for it.", destination)
        lock.acquire()
    try:
        # With the lock in hand, whoever left these is dead.
        for leftover in _siblings(destination, "tmp"):
            shutil.rmtree(leftover)
        yield
    finally:
        lock.release()


def _check_destination(destination: Path) -> None:
    if not destination.exists():
        return
    empty = destination.is_dir() and not any(destination.iterdir())
    if not empty and not (destination / MARKER).is_file():
        raise UserError(
            f"{destination} is there already and was not made by an install.",
            "A new or empty folder is expected, or an earlier install.",
            "Choose another folder, or move this one away.",
        )
    if os.path.ismount(destination):
        raise UserError(
            f"{destination} is a mount point.",
            "An install comes to its place by a rename, which a mount point does not allow.",
            f"Install into a folder inside it, such as {destination / 'weights'}.",
        )


def _set_aside(destination: Path) -> None:
    """Move an install that is not the right one away; a user's own folder has no marker."""
    if not (destination / MARKER).is_file():
        return
    names = (destination.with_name(f"{destination.name}.broken.{n}") for n in itertools.count())
    aside = next(path for path in names if not path.exists())
    _log.warning("%s is not what the lock names; moved to %s.", destination, aside)
    destination.rename(aside)


def _check_space(folder: Path, needed: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise OperationError(
            f"The disk of {folder} has {free / 1e9:.1f} GB free.",
            f"The weights need {needed / 1e9:.1f} GB.",
            "Free some space, or install on another disk.",
        )


def _root(folder: Path, url: str) -> Path:
    """The weights folder among what was unpacked: at the top, or one folder down."""
    roots = (
        [folder] if (folder / _INDEX).is_file() else [p.parent for p in folder.glob(f"*/{_INDEX}")]
    )
    try:
        if len(roots) != 1:
            raise UserError(f"{len(roots)} folders have a {_INDEX}.", "One is expected.", "")
        check_weights_folder(roots[0])
    except UserError as error:
        given = error.given.replace(f"{folder}{os.sep}", "").replace(str(folder), "its top folder")
        raise OperationError(
            f"The tarball at {url} holds no weights folder: {given}",
            error.expected,
            "Nothing was installed. Check the url, and pack a weights folder.",
        ) from None
    return roots[0]


def _sync(root: Path) -> None:
    """Put an install on disk before the rename makes it visible."""
    for path in root.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(root)


def _fetch(lock: Lock, destination: Path, temporary: Path, progress: Progress | None) -> None:
    """Fill `temporary`, verify it and rename it to `destination`."""
    with open_source(resolve_url(lock)) as source:
        _check_space(temporary, lock.size or source.length)
        contents = unpack(source, temporary, lock, progress=progress)
    root = _root(temporary, source.url)
    prefix = "" if root == temporary else f"{root.name}/"
    files = tuple(
        dataclasses.replace(file, path=file.path.removeprefix(prefix))
        for file in contents.files
        if file.path.startswith(prefix)
    )
    write_lock(_marker(lock, contents, files), root / MARKER)
    _sync(root)
    _set_aside(destination)
    root.rename(destination)
    sync_folder(destination.parent)


def _install(lock: Lock, destination: Path, progress: Progress | None) -> None:
    if not lock.pinned:
        _log.warning(
            "The lock of %s is not pinned: nobody wrote down its digests, so that the download can "
            "only be checked for its structure.",
            lock.name,
        )
    temporary = destination.with_name(f"{destination.name}.tmp.{os.getpid()}")
    try:
        temporary.mkdir()
        _fetch(lock, destination, temporary, progress)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def install(lock: Lock, destination: Path, *, progress: Progress | None = None) -> Path:
    """Make `destination` the install that `lock` names, and return it.

    What is there already is kept if it is that install. Another or a damaged install is set aside
    as `DEST.broken.N`. `progress` is called with numbers of the tarball's bytes. Of processes that
    do this at once, one does the work and the others wait for it.

    Raises:
        UserError: something else is at `destination`, or the lock names no url.
        OperationError: the download failed or is not what the lock says; `destination` is then as
            it was.
    """
    destination = destination.resolve()
    if _is_install_of(lock, destination):
        return destination
    _check_destination(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _locked(destination):
            if not _is_install_of(lock, destination):
                _install(lock, destination, progress)
    except OSError as error:
        raise OperationError(
            f"Installing {lock.name} at {destination} failed: {error}.",
            f"{destination.parent} must be writable, with space for the weights.",
            "Nothing was installed; correct that and try again.",
        ) from error
    return destination
