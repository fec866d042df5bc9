"""Puts installs and LoRA files into the cache, and holds them for as long as they are used."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from weights.atomic import sync_folder
from weights.byte_sizes import shown_size
from weights.caching.cache import LIMIT_VARIABLE, Cache, CacheError, alone
from weights.caching.entries import FILE_NAME, list_entries, remove_entry
from weights.caching.holds import Use, hold, locked, work_path
from weights.caching.room import keep_within_limit, make_room
from weights.errors import OperationError, UserError
from weights.fetching.landing_folder import Progress
from weights.install import install, is_install_of
from weights.lock import Lock, resolve_url
from weights.staging import check_destination, place_of

_log = logging.getLogger(__name__)

Fill = Callable[[BinaryIO], object]

# What a file whose size its filler learns late leaves free on the disk, where others write, too.
SPARE_BYTES = 500_000_000


def use_install(cache: Cache, lock: Lock, *, progress: Progress | None = None) -> Use:
    """Hold the install that `lock` names; it is installed if it is not in the cache.

    Raises:
        UserError: the weights are larger than the limit, or `install` refuses the lock.
        OperationError: no room can be made, or the installation failed.
    """
    # The digest keeps two locks of one name apart; an unpinned lock has none.
    digest = lock.digest or lock.set_digest
    version = digest.removeprefix("sha256:")[:12] if digest else "unpinned"
    path = cache.root / f"{lock.name}-{version}"

    def is_there() -> bool:
        return is_install_of(lock, path)

    if use := _hold_whole(path, is_there):
        return use
    # What `install` would refuse must not cost others their place.
    resolve_url(lock)
    check_destination(place_of(path))
    size = lock.files_size if lock.pinned else None
    return _make(cache, path, size, is_there, lambda: install(lock, path, progress=progress))


def use_file(cache: Cache, name: str, size: int | None, fill: Fill) -> Use:
    """Hold the file `name`, `lora-<hex>.safetensors`; `fill` writes it if it is not in the cache.

    `fill` writes to a temporary file, which becomes the entry when all is there. `size` is how many
    bytes that will be, None if nobody knows: then `fill` calls `reserve` as it gets to know. Of
    processes that do this at once one calls `fill`.

    Raises:
        UserError: the file is larger than the limit.
        OperationError: no room can be made, or `fill` wrote another number of bytes.
        Exception: whatever `fill` raises.
    """
    if not FILE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a file in the cache.")
    path = cache.root / name

    def is_whole() -> bool:
        return path.is_file() and size in (None, path.stat().st_size)

    def make() -> None:
        with locked(work_path(path)):
            if not is_whole():
                _write(path, size, fill)

    return _hold_whole(path, is_whole) or _make(cache, path, size, is_whole, make)


def reserve(cache: Cache, name: str, size: int) -> None:
    """Make room for the file `name`, which the caller is filling, to have `size` bytes.

    Others count them as taken until it is there. May be called again, with another size.

    Raises:
        CacheError: no room can be made.
    """
    with alone(cache):
        make_room(cache, name, size, spare=SPARE_BYTES)
        # The announcement stays with the hold that whoever called `use_file` has.
        with hold(cache.root / name) as use:
            use.announce(size)


def _write(path: Path, size: int | None, fill: Fill) -> None:
    """Write the file beside its place, and rename it there. The caller has its work lock."""
    temporary = path.with_name(f"{path.name}.partial")
    # A killed process may have left one.
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            fill(file)
            file.flush()
            found = os.fstat(file.fileno()).st_size
            if size not in (None, found):
                raise OperationError(
                    f"{path.name} came with {shown_size(found)}.",
                    f"{shown_size(size or 0)} were expected.",
                    "Nothing was kept; try again.",
                )
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _released_on_error(use: Use) -> Iterator[None]:
    try:
        yield
    except BaseException:
        use.release()
        raise


def _hold_whole(path: Path, is_whole: Callable[[], bool]) -> Use | None:
    """Hold `path` if it is there and whole."""
    if not path.exists():
        return None
    try:
        use = hold(path)
    except OSError as error:
        if not is_whole():
            return None
        # Where we can't write, others as we can't evict either: weights in an image, say.
        _log.info("%s is used without a hold: %s.", path, error)
        return Use(path)
    if is_whole():
        return use
    use.release()
    return None


def _make(
    cache: Cache,
    path: Path,
    size: int | None,
    is_whole: Callable[[], bool],
    make: Callable[[], object],
) -> Use:
    """Have `path` made, with room for `size` bytes, and hold it from before it is there."""
    if size is not None and cache.limit is not None and size > cache.limit:
        raise UserError(
            f"{path.name} has {shown_size(size)}, {shown_size(size - cache.limit)} too much for "
            f"the cache {cache.root}.",
            f"Its limit is {shown_size(cache.limit)}.",
            f"Raise {LIMIT_VARIABLE}.",
        )
    with alone(cache):
        # Another process may have made it in the meantime.
        whole = is_whole()
        if not whole:
            make_room(cache, path.name, size or 0)
        use = hold(path)
        use.announce(0 if whole else size or 0)
    with _released_on_error(use):
        make()
        use.announce(0)
        if size is None and cache.limit is not None:
            _fit(cache, use)
    return use


def _fit(cache: Cache, use: Use) -> None:
    """Keep the cache within its limit after something of unknown size came."""
    with alone(cache):
        try:
            keep_within_limit(cache, use.path.name)
        except CacheError:
            use.release()
            for entry in list_entries(cache.root):
                if entry.name == use.path.name:
                    remove_entry(cache.root, entry)
            raise
