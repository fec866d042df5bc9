"""Who uses what in the cache: locks that the kernel frees when a process ends, however it ends.

Whoever uses the entry NAME has `.NAME.hold` locked shared; whoever removes the entry needs that
lock alone. The modification time of the hold file is when a process last began to use the entry.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# No size of a file has more digits.
_DIGITS = 20
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def hold_path(path: Path) -> Path:
    """The hold file of the entry at `path`."""
    return path.with_name(f".{path.name}.hold")


def work_path(path: Path) -> Path:
    """The file that is locked while the entry at `path` is made; installs lock the same one."""
    return path.with_name(f".{path.name}.lock")


def _open(path: Path, flags: int) -> int:
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, os.O_RDWR | flags, 0o666)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        try:
            # Another user's file, or a disk that can't be written: a lock needs no more than this.
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise error from None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _lock(path: Path, operation: int) -> int:
    """A descriptor of the file at `path`, which is made if it is not there, locked.

    Raises:
        BlockingIOError: `operation` has LOCK_NB and another has it.
        OSError: it can't be made.
    """
    while True:
        descriptor = _open(path, os.O_CREAT)
        try:
            fcntl.flock(descriptor, operation)
            # A file that was removed between opening and locking guards nothing any more.
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a live process has the file at `path` locked; it is not made if it is not there."""
    try:
        descriptor = _open(path, 0)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have the file at `path` locked alone; wait for whoever has it."""
    descriptor = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def claimed(*paths: Path) -> Iterator[bool]:
    """Whether the files at `paths` are ours alone until the end of the block; never waits."""
    with ExitStack() as stack:
        try:
            for path in paths:
                stack.callback(os.close, _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            free = False
        else:
            free = True
        yield free


@dataclass(slots=True)
class Use:
    """What this process uses in the cache: `path` is not evicted until `release()`.

    Without a release that is until the process ends, even if nothing refers to this object.
    """

    path: Path
    _descriptor: int | None = None

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "Use":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def announce(self, size: int) -> None:
        """Tell other processes how many bytes the entry is going to have; 0 once it has them."""
        assert self._descriptor is not None, "only what is held can be announced"
        # Best effort: into another user's file, or on a full disk, it does not go.
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(size).encode(), 0)


def hold(path: Path) -> Use:
    """Use the entry at `path`, whether it is there already or not.

    Raises:
        OSError: the folder can't be written.
    """
    descriptor = _lock(hold_path(path), fcntl.LOCK_SH)
    # Another user's file stays as old as that user's last use.
    with suppress(PermissionError):
        os.utime(descriptor)
    return Use(path, descriptor)


def read_announcement(file: Path) -> int | None:
    """What a hold file announces, 0 for nothing; None if `file` is not there or users' own."""
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _DIGITS:
            return None
        text = file.read_bytes() or b"0"
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() else None


def announced_size(path: Path) -> int:
    """The bytes that live users of the entry at `path` are going to fill; 0 without such users."""
    file = hold_path(path)
    size = read_announcement(file)
    return size if size and is_locked(file) else 0
