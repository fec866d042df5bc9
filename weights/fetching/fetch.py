"""Brings what a lock names into a folder, verified: by the engine that was chosen."""

import dataclasses
import logging
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from weights.disk_space import check_space
from weights.errors import OperationError, UserError
from weights.fetching import builtin, local, pget
from weights.fetching.engines import Choice
from weights.fetching.journal import landed_bytes
from weights.fetching.landing_folder import Progress
from weights.fetching.object_urls import tarball_url
from weights.fetching.ordered_ranges import read_ahead
from weights.fetching.settings import FetchSettings
from weights.fetching.untar import unpack
from weights.fetching.web_reader import WebReader
from weights.folder import check_weights_folder
from weights.lock import Lock, resolve_url
from weights.staging import Place
from weights.urls import shown_url

_log = logging.getLogger(__name__)

_INDEX = "model_index.json"


def fetch_pinned(
    lock: Lock, place: Place, choice: Choice, settings: FetchSettings, progress: Progress
) -> Lock:
    """Bring the files of a pinned lock into `place.files`; returns the lock.

    What an earlier process left there of the same lock is used.

    Raises:
        UserError: the lock names no place.
        OperationError: the fetch failed or is not what the lock says.
        OSError: the disk refuses it.
    """
    landed = landed_bytes(place.journal, lock)
    if place.staging.exists() and not landed:
        shutil.rmtree(place.staging)
    place.files.mkdir(parents=True, exist_ok=True)
    _tarball(place).unlink(missing_ok=True)  # of a process that was killed
    check_space(place.staging, lock.files_size - landed)
    if choice.engine == "local":
        local.extract(lock, place.files, place.journal, settings, progress)
    elif choice.engine == "builtin" or not _pget(lock, place, settings, progress):
        builtin.fetch(lock, place.files, place.journal, settings, progress)
    return lock


def _tarball(place: Place) -> Path:
    """Where pget puts the tarball."""
    return place.staging / "weights.tar"


def _pget(lock: Lock, place: Place, settings: FetchSettings, progress: Progress) -> bool:
    """Whether the whole way through pget succeeded; a failure of it is logged."""
    tarball = _tarball(place)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(count)

    try:
        # The tarball, and beside it the files that are copied out of its end at a time.
        sizes = sorted((file.size for file in lock.files), reverse=True)
        check_space(place.staging, (lock.size or 0) + sum(sizes[: local.THREADS]))
        pget.download(tarball_url(lock), tarball, settings, advance)
        local.extract(
            lock, place.files, place.journal, settings, lambda count: None, tarball=tarball
        )
        progress(lock.files_size - done)
    except OperationError as error:
        _log.warning("%s The builtin engine takes over.", error)
        progress(-done)
        return False
    finally:
        tarball.unlink(missing_ok=True)
    return True


def fetch_unpinned(
    lock: Lock, place: Place, choice: Choice, settings: FetchSettings, progress: Progress
) -> Lock:
    """Bring the weights folder in the tarball of an unpinned lock into `place.files`.

    Returns the lock with what was seen: size, digest and files. It streams past once, so there is
    nothing to go on with after a break.

    Raises:
        UserError: the lock names no place.
        OperationError: the fetch failed, or the tarball holds no weights folder.
        OSError: the disk refuses it.
    """
    _log.warning(
        "The lock of %s is not pinned: nobody wrote down its digests, so that the download can "
        "only be checked for its structure.",
        lock.name,
    )
    shutil.rmtree(place.staging, ignore_errors=True)
    unpacked = place.staging / "unpacked"
    unpacked.mkdir(parents=True)
    url = shown_url(resolve_url(lock))
    chunks = _chunks(lock, place, choice, settings)
    try:
        contents = unpack(chunks, url, unpacked, progress)
    finally:
        chunks.close()
    root = _root(unpacked, url)
    prefix = "" if root == unpacked else f"{root.name}/"
    files = tuple(
        dataclasses.replace(file, path=file.path.removeprefix(prefix))
        for file in contents.files
        if file.path.startswith(prefix)
    )
    root.rename(place.files)
    return dataclasses.replace(lock, size=contents.size, digest=contents.digest, files=files)


def _chunks(
    lock: Lock, place: Place, choice: Choice, settings: FetchSettings
) -> Generator[bytes, None, None]:
    """The tarball's bytes from start to end."""
    url = tarball_url(lock)
    if choice.engine == "local":
        yield from local.file_chunks(local.local_path(url))
        return
    if choice.engine == "pget":
        tarball = _tarball(place)
        try:
            pget.download(url, tarball, settings, lambda count: None)
        except OperationError as error:
            _log.warning("%s The builtin engine takes over.", error)
            tarball.unlink(missing_ok=True)
        else:
            yield from local.file_chunks(tarball)
            return
    reader = WebReader(settings)
    file = reader.probe(url)
    check_space(place.staging, file.size or 0)
    yield from read_ahead(reader, file, settings)


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
