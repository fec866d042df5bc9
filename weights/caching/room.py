"""Makes room in the cache: leftovers go first, then what was least recently used.

What a live process holds never goes, and neither does what is not the cache's own.
"""

import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence

from weights.byte_sizes import shown_size
from weights.caching.cache import (
    FOLDER_VARIABLE,
    LIMIT_VARIABLE,
    Cache,
    CacheError,
    alone,
    used_bytes,
)
from weights.caching.entries import Entry, list_entries, remove_entry

_log = logging.getLogger(__name__)

# How many bytes too few there are with these entries in the cache.
Lacking = Callable[[Sequence[Entry]], int]


def make_room(cache: Cache, name: str, size: int, *, spare: int = 0) -> None:
    """Evict until the entry `name` can grow to `size` bytes, within the limit and on the disk.

    The caller has the cache alone and does not hold the entry where it is there: it is damaged.

    Args:
        spare: bytes that have to stay free on the disk.

    Raises:
        CacheError: there is no room without what live processes hold; nothing was evicted.
    """
    entries = list_entries(cache.root)
    growing = [e for e in entries if e.owner == name and e.kind in ("unfinished", "announced")]
    extra = max(0, size - used_bytes(growing))

    def lacking(entries: Sequence[Entry]) -> int:
        coming = used_bytes(e for e in entries if e.kind == "announced")
        on_disk = extra + coming + spare - shutil.disk_usage(cache.root).free
        return max(on_disk, _excess(cache, entries) + extra)

    others = [entry for entry in entries if entry not in growing]
    kept = _evict(cache, others, lambda others: lacking([*others, *growing]), worthless=name)
    if (missing := lacking([*kept, *growing])) > 0:
        raise _no_room(cache, name, size, missing, kept)


def keep_within_limit(cache: Cache, name: str) -> None:
    """Evict until the cache is within its limit again, after `name` grew by nobody knew how much.

    The caller has the cache alone, and may hold the entry.

    Raises:
        CacheError: it is not possible; nothing was evicted.
    """
    kept = _evict(cache, list_entries(cache.root), lambda entries: _excess(cache, entries))
    if (missing := _excess(cache, kept)) > 0:
        size = used_bytes(entry for entry in kept if entry.name == name)
        others = [entry for entry in kept if entry.name != name]
        raise _no_room(cache, name, size, missing, others)


def prune(cache: Cache) -> tuple[list[Entry], list[Entry]]:
    """Remove leftovers that no live process works on, and evict to the limit as far as that goes.

    Returns what was removed and what remains.

    Raises:
        CacheError: the folder can't be used.
    """
    if not cache.root.exists():
        return [], []
    with alone(cache):
        entries = list_entries(cache.root)
        kept = [e for e in entries if not (e.leftover and e.removable and _removed(cache, e))]
        # As far as it goes: what can't be removed is not lacking.
        fixed = [entry for entry in kept if not entry.removable]
        over = max(0, _excess(cache, fixed))
        kept = _evict(cache, kept, lambda entries: _excess(cache, entries) - over)
    return [entry for entry in entries if entry not in kept], kept


def _excess(cache: Cache, entries: Iterable[Entry]) -> int:
    """How many bytes `entries` are over the limit; negative below it."""
    return used_bytes(entries) - (sys.maxsize if cache.limit is None else cache.limit)


def _evict(
    cache: Cache, entries: Sequence[Entry], lacking: Lacking, *, worthless: str | None = None
) -> list[Entry]:
    """Remove entries until nothing is `lacking` with those that remain, which it returns.

    Leftovers and the entry `worthless` go first. If removing all that can be would not be enough,
    nothing is removed.
    """

    def turn(entry: Entry) -> tuple[bool, float]:
        return not (entry.leftover or entry.name == worthless), entry.last_used or 0.0

    kept = list(entries)
    candidates = [entry for entry in kept if entry.removable]
    if lacking(kept) > used_bytes(candidates):
        return kept
    for entry in sorted(candidates, key=turn):
        if lacking(kept) <= 0:
            break
        if _removed(cache, entry):
            kept.remove(entry)
    return kept


def _removed(cache: Cache, entry: Entry) -> bool:
    try:
        removed = remove_entry(cache.root, entry)
    except OSError as error:
        _log.warning("%s can't be removed from the cache: %s.", entry.name, error)
        return False
    if removed:
        _log.info("Removed %s (%s) from the cache.", entry.name, shown_size(entry.size))
    return removed


def _no_room(
    cache: Cache, name: str, size: int, missing: int, others: Iterable[Entry]
) -> CacheError:
    others = list(others)
    held = ", ".join(f"{e.name} ({shown_size(e.size)})" for e in others if e.held)
    evictable = used_bytes(entry for entry in others if entry.removable)
    # What is still there and could go was kept because it would not have been enough.
    missing -= evictable if missing > evictable else 0
    limit = f" has a limit of {shown_size(cache.limit)} and" if cache.limit is not None else ""
    free = shown_size(shutil.disk_usage(cache.root).free)
    return CacheError(
        f"There is no room for {name}{f' ({shown_size(size)})' if size else ''} in the cache "
        f"{cache.root}: {shown_size(missing)} more would be needed.",
        f"The cache{limit} is on a disk with {free} free; live processes hold {held or 'nothing'}.",
        f"End processes that hold something, raise {LIMIT_VARIABLE}, free space on the disk, or "
        f"set {FOLDER_VARIABLE} to a folder on another one.",
    )
