"""Installs what a lock names: whole and verified at its place, or not there at all."""

import dataclasses
import logging
import shutil
from pathlib import Path

from weights.errors import OperationError, UserError
from weights.fetching.engines import Choice, Engine, choose_engine
from weights.fetching.fetch import fetch_pinned, fetch_unpinned
from weights.fetching.journal import landed_bytes
from weights.fetching.landing_folder import DigestError, Progress
from weights.fetching.settings import FetchSettings
from weights.folder import check_weights_folder, list_files
from weights.install_check import check_install
from weights.lock import Lock, LockedFile, resolve_url, write_lock
from weights.paths import MARKER
from weights.safetensors_header import header_digest
from weights.staging import (
    Place,
    check_destination,
    finish_interrupted,
    locked,
    place_of,
    publish,
    sweep,
    sync_files,
)
from weights.urls import shown_url

_log = logging.getLogger(__name__)

_DEFAULTS = FetchSettings()


def is_install_of(lock: Lock, path: Path) -> bool:
    """Whether what `lock` names is at `path`, whole by the quick check."""
    if not (path / MARKER).is_file():
        return False
    try:
        marker = check_install(path)
    except UserError as error:
        _log.warning("The install at %s is damaged: %s", path, error)
        return False
    if lock.pinned:
        return marker.set_digest == lock.set_digest
    return (marker.name, marker.url) == (lock.name, shown_url(resolve_url(lock)))


def _marked(file: LockedFile, root: Path) -> LockedFile:
    if not file.path.endswith(".safetensors"):
        return file
    return dataclasses.replace(file, header_digest=header_digest(root / file.path))


def _write_marker(lock: Lock, root: Path) -> None:
    """The lock of what was found. A url in it holds no secret."""
    for path in root.glob(f"{MARKER}.tmp.*"):  # of a process that was killed here
        path.unlink()
    files = tuple(_marked(file, root) for file in lock.files)
    write_lock(
        dataclasses.replace(lock, url=shown_url(resolve_url(lock)), files=files), root / MARKER
    )


def _check_fetched(lock: Lock, root: Path) -> None:
    """Whatever the engine: exactly the lock's files, and together a weights folder."""
    found, expected = set(list_files(root)), {file.path for file in lock.files}
    if found != expected:
        raise DigestError(
            f"Of {lock.name} other files came than its lock names: "
            f"{', '.join(sorted(found ^ expected))}.",
            "Exactly its files are expected.",
            "Nothing was installed. Try again.",
        )
    try:
        check_weights_folder(root)
    except UserError as error:
        raise DigestError(
            f"What the lock of {lock.name} names is no weights folder: {error.given}",
            error.expected,
            "Nothing was installed. Pack a weights folder.",
        ) from None


def _install(
    lock: Lock, place: Place, choice: Choice, settings: FetchSettings, progress: Progress
) -> None:
    fetch = fetch_pinned if lock.pinned else fetch_unpinned
    _log.info("Fetching %s with the %s engine: %s.", lock.name, choice.engine, choice.reason)
    try:
        found = fetch(lock, place, choice, settings, progress)
        _check_fetched(found, place.files)
        sync_files(place.files)
        _write_marker(found, place.files)
    except DigestError:
        shutil.rmtree(place.staging)
        raise
    except BaseException:
        _keep_what_landed(lock, place)
        raise
    publish(place)


def _keep_what_landed(lock: Lock, place: Place) -> None:
    landed = landed_bytes(place.journal, lock)
    if not landed:
        shutil.rmtree(place.staging, ignore_errors=True)
        return
    _log.warning(
        "%d of %d bytes are in %s; the next try goes on from there.",
        landed,
        lock.files_size,
        place.staging,
    )


def install(
    lock: Lock,
    destination: Path,
    *,
    engine: Engine | None = None,
    settings: FetchSettings = _DEFAULTS,
    progress: Progress | None = None,
) -> Path:
    """Make `destination` the install that `lock` names, and return it.

    What is there already is kept if it is that install. Another or a damaged install is set aside
    as `DEST.broken.N`. Of processes that do this at once, one does the work and the others wait for
    it. A fetch that broke leaves what it got of a pinned lock in `DEST.partial`; the next one goes
    on from there.

    Args:
        lock: what to install.
        destination: where; a new or empty folder, a mount point, or an earlier install.
        engine: None chooses by the rule of `choose_engine`.
        settings: connections, retries and timeouts.
        progress: called with numbers of bytes: of the files, of an unpinned lock of the tarball.

    Raises:
        UserError: something else is at `destination`, or the lock names no url.
        OperationError: the download failed or is not what the lock says; `destination` is then as
            it was.
    """
    destination = destination.resolve()
    place = place_of(destination)
    if is_install_of(lock, destination):
        sweep(place)
        return destination
    choice = choose_engine(lock, engine)
    try:
        check_destination(place)
        place.lock_file.parent.mkdir(parents=True, exist_ok=True)
        with locked(place):
            finish_interrupted(place)
            if not is_install_of(lock, destination):
                _install(lock, place, choice, settings, progress or (lambda count: None))
            elif place.staging.exists():  # of who was killed after the last rename
                shutil.rmtree(place.staging)
    except OSError as error:
        raise OperationError(
            f"Installing {lock.name} at {destination} failed: {error}.",
            f"{place.staging.parent} must be writable, with space for the weights.",
            "Nothing was installed; correct that and try again.",
        ) from error
    return destination
