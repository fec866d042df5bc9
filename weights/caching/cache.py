"""A directory of installs and LoRA files that processes share, with a limit to its size.

`weights.caching.use` puts things in, `weights.caching.room` takes them out to make room.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weights.byte_sizes import parse_size
from weights.caching.entries import Entry, list_entries, remove_entry, sweep
from weights.caching.holds import locked
from weights.errors import OperationError, UserError

FOLDER_VARIABLE = "COGVIDEOX_CACHE"
LIMIT_VARIABLE = "COGVIDEOX_CACHE_LIMIT"


class CacheError(OperationError):
    """The cache can't be used, or has no room. For the operator: it names paths and entries."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache directory, which need not be there yet, and how many bytes may be in it.

    Without a `limit` it may fill the disk.
    """

    root: Path
    limit: int | None = None


def cache_from_environment(
    default_root: Path, environment: Mapping[str, str] = os.environ
) -> Cache:
    """The cache that COGVIDEOX_CACHE and COGVIDEOX_CACHE_LIMIT describe.

    Raises:
        UserError: the limit is not a size.
    """
    root = environment.get(FOLDER_VARIABLE)
    limit = environment.get(LIMIT_VARIABLE)
    return Cache(
        (Path(root) if root else default_root).resolve(),
        parse_size(limit, LIMIT_VARIABLE) if limit else None,
    )


@contextmanager
def alone(cache: Cache) -> Iterator[None]:
    """Look at the cache, and remove from it, while no other process does; waits for those that do.

    Raises:
        CacheError: the folder can't be used; also for an OSError inside of the block.
    """
    try:
        cache.root.mkdir(parents=True, exist_ok=True)
        with locked(cache.root / ".lock"):
            sweep(cache.root)
            yield
    except OSError as error:
        raise CacheError(
            f"The cache {cache.root} can't be used: {error}.",
            "A folder is expected that can be read and written.",
            f"Correct that, or set {FOLDER_VARIABLE} to another folder.",
        ) from error


def used_bytes(entries: Iterable[Entry]) -> int:
    """The bytes that count against the limit."""
    return sum(entry.size for entry in entries)


def read_cache(cache: Cache) -> list[Entry]:
    """Everything in the cache, by name.

    Raises:
        CacheError: the folder can't be used.
    """
    if not cache.root.exists():
        return []
    # Where we can't write we can't take part in the order of things, and change nothing either.
    if not os.access(cache.root, os.W_OK):
        return list_entries(cache.root)
    with alone(cache):
        return list_entries(cache.root)


def remove(cache: Cache, names: Sequence[str]) -> list[Entry]:
    """Remove entries by name; returns them.

    Raises:
        UserError: one is not in the cache, or not ours; nothing was removed.
        OperationError: a live process holds one, or one can't be removed.
    """
    if not cache.root.exists():
        raise _unknown(cache, names[0])
    with alone(cache):
        entries = {entry.name: entry for entry in list_entries(cache.root)}
        for name in names:
            if name not in entries:
                raise _unknown(cache, name)
            _check_removable(cache, entries[name])
        removed = [entries[name] for name in dict.fromkeys(names)]
        for entry in removed:
            if not remove_entry(cache.root, entry):
                raise _held(entry.name)
    return removed


def _check_removable(cache: Cache, entry: Entry) -> None:
    if entry.kind == "not ours":
        raise UserError(
            f"{cache.root / entry.name} was not put there by the cache.",
            "The cache removes its own entries only.",
            "Remove it yourself if it is not needed.",
        )
    if entry.held:
        raise _held(entry.name)


def _held(name: str) -> OperationError:
    return OperationError(
        f"A live process uses {name}.",
        "Only what nobody uses can be removed.",
        "End that process first; `cogvideox cache ls` shows what is held.",
    )


def _unknown(cache: Cache, name: str) -> UserError:
    return UserError(
        f"There is no {name!r} in the cache {cache.root}.",
        "The name of an entry is expected.",
        "`cogvideox cache ls` lists them.",
    )
