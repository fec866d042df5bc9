"""What lies in a cache directory, and how it is removed.

`NAME` is an entry: an install, or a LoRA's file. `NAME.partial` is on its way in, or was when its
process was killed, `NAME.broken.N` an install that was set aside, `.NAME.gone.RANDOM` on its way
out; `.NAME.hold` and `.NAME.lock` are locks. All else is somebody else's, and is left alone. Links
are never followed.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weights.caching.holds import (
    announced_size,
    claimed,
    hold_path,
    is_locked,
    read_announcement,
    work_path,
)
from weights.paths import MARKER

_log = logging.getLogger(__name__)

# `announced` is no file yet: the bytes that a live process is about to add to the entry `name`.
Kind = Literal["install", "file", "unfinished", "broken", "announced", "not ours"]

FILE_NAME = re.compile(r"lora-[0-9a-f]{12,64}\.safetensors")
_LEFTOVER = re.compile(r"(?P<owner>.+)\.(?:(?P<broken>broken\.[0-9]+)|partial)")
_GONE = re.compile(r"\..+\.gone\.[0-9a-f]{8}")
_HOLD = re.compile(r"\.(?P<owner>.+)\.hold")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the cache.

    `owner` is the entry that it is a leftover of, else its own name; `size` is in bytes on disk, 0
    of what is not ours; `last_used` is in seconds since 1970, None where nobody knows; `held` says
    that a live process uses or makes it.
    """

    name: str
    kind: Kind
    owner: str
    size: int
    last_used: float | None
    held: bool

    @property
    def leftover(self) -> bool:
        return self.kind in ("unfinished", "broken")

    @property
    def removable(self) -> bool:
        return not self.held and self.kind != "not ours"


def owner_of(name: str) -> str:
    """The entry that something of this name belongs to."""
    leftover = _LEFTOVER.fullmatch(name)
    return leftover["owner"] if leftover else name


def _kind(path: Path) -> Kind:
    leftover = _LEFTOVER.fullmatch(path.name)
    owner = path.with_name(owner_of(path.name))
    # Who puts something into the cache holds it before, and the hold file stays with it.
    known = read_announcement(hold_path(owner)) is not None
    try:
        if path.is_symlink():
            return "not ours"
        if leftover and not leftover["broken"] and known:
            return "unfinished"
        if (path / MARKER).is_file():
            return "broken" if leftover else "install"
        if FILE_NAME.fullmatch(path.name) and path.is_file() and known:
            return "file"
    except PermissionError:  # another user's folder
        pass
    return "not ours"


def _disk_bytes(path: Path) -> int:
    """Bytes of the file or of all files below the folder, without an install's marker."""
    if path.is_dir():
        files = [
            Path(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if name != MARKER
        ]
    else:
        files = [path]
    total = 0
    for file in files:
        try:
            status = file.lstat()
        except FileNotFoundError:  # an install may be at work in there
            continue
        # An unfinished file has holes, and only its blocks take room.
        total += min(status.st_size, status.st_blocks * 512)
    return total


def _locks(path: Path, kind: Kind) -> tuple[Path, ...]:
    """What must be ours alone before `path` may go."""
    # Whoever uses an entry has no use for a broken one of that name.
    owner = path.with_name(owner_of(path.name))
    return (work_path(owner),) if kind == "broken" else (hold_path(owner), work_path(owner))


def _last_used(path: Path, kind: Kind) -> float | None:
    """When it was last used; of a leftover, and of what has no hold file yet, when it was made."""
    if kind == "not ours":
        return None
    for place in (path,) if _LEFTOVER.fullmatch(path.name) else (hold_path(path), path):
        try:
            return place.lstat().st_mtime
        except FileNotFoundError:
            continue
    return None


def _entry(path: Path) -> Entry:
    kind = _kind(path)
    ours = kind != "not ours"
    return Entry(
        name=path.name,
        kind=kind,
        owner=owner_of(path.name) if ours else path.name,
        size=_disk_bytes(path) if ours else 0,
        last_used=_last_used(path, kind),
        held=ours and any(map(is_locked, _locks(path, kind))),
    )


def _names(root: Path) -> set[str]:
    """What of the cache is to be seen: not the locks, and not what is on its way out."""
    return {path.name for path in root.iterdir() if not path.name.startswith(".")}


def _announcements(root: Path) -> dict[str, int]:
    owners = [match["owner"] for path in root.iterdir() if (match := _HOLD.fullmatch(path.name))]
    return {owner: size for owner in owners if (size := announced_size(root / owner))}


def _coming(owner: str, size: int, entries: list[Entry]) -> Entry | None:
    """What is still to come of the announced `size`, if anything."""
    if any(entry.name == owner and entry.size >= size for entry in entries):
        return None
    landed = sum(e.size for e in entries if e.owner == owner and e.kind == "unfinished")
    return Entry(owner, "announced", owner, max(0, size - landed), last_used=None, held=True)


def list_entries(root: Path) -> list[Entry]:
    """Everything in the cache at `root`, by name, and what is announced."""
    # First, so that what comes to its name while we look is seen as the one or the other.
    announcements = _announcements(root)
    entries = [
        entry
        for name in sorted(_names(root))
        if (entry := _entry(root / name)) and os.path.lexists(root / name)
    ]
    coming = [_coming(owner, size, entries) for owner, size in announcements.items()]
    return entries + [entry for entry in coming if entry]


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        _log.warning("%s can't be deleted: %s. The next prune tries again.", path, error)


def remove_entry(root: Path, entry: Entry) -> bool:
    """Remove an entry at once and for all who look; False if a live process began to use it.

    Raises:
        OSError: it can't be moved.
    """
    path = root / entry.name
    gone = root / f".{entry.name}.gone.{secrets.token_hex(4)}"
    with claimed(*_locks(path, entry.kind)) as free:
        if free:
            # A leftover may have become an entry since it was listed.
            with contextlib.suppress(FileNotFoundError):
                path.rename(gone)
    # Deleting takes time, and nobody has to wait for it.
    if gone.exists():
        _delete(gone)
    return free


def sweep(root: Path) -> None:
    """Finish removals that a crash cut short, and drop the locks of entries that are no more.

    Two processes must not do this at once.
    """
    owners = set(map(owner_of, _names(root)))
    for path in list(root.iterdir()):
        if _GONE.fullmatch(path.name):
            _delete(path)
        elif (match := _HOLD.fullmatch(path.name)) and match["owner"] not in owners:
            _drop_locks(root, match["owner"])


def _drop_locks(root: Path, owner: str) -> None:
    locks = (hold_path(root / owner), work_path(root / owner))
    if read_announcement(locks[0]) is None:
        return
    with claimed(*locks) as free:
        # A process may have made the entry just now, and ended.
        if free and owner not in map(owner_of, _names(root)):
            for lock in locks:
                lock.unlink()
