"""Packs a weights folder file by file, for readers that take single files out of a bucket."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event

from weights.atomic import sync_folder
from weights.disk_space import check_space
from weights.errors import OperationError, UserError
from weights.lock import Lock, LockedFile
from weights.packing.source import (
    PackSource,
    check_lock_fields,
    check_unchanged,
    default_name,
    read_blocks,
    read_source,
)
from weights.paths import path_problem
from weights.side_by_side import run_side_by_side

Progress = Callable[[int], object]


class _StoppedError(Exception):
    """Another file failed, or the user interrupted: this one is no longer wanted."""


def _check_output(folder: Path, destination: Path) -> None:
    given = f"The files would be in {destination}."
    if destination.suffix == ".tar" or path_problem(destination.name):
        raise UserError(given, "A folder with a plain name is expected.", "Change the name.")
    if not destination.parent.is_dir():
        raise UserError(given, "A place in a folder that exists is expected.", "Change the path.")
    if destination.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            given, f"A place outside of {folder} is expected.", "Write the files beside it."
        )
    if os.path.lexists(destination) and not _is_empty_folder(destination):
        raise UserError(
            given,
            "A new folder or an empty one is expected.",
            "Move what is there away, or choose another name.",
        )


def _is_empty_folder(path: Path) -> bool:
    """Whether `path` is a directory that a rename can replace."""
    real = path.is_dir() and not path.is_symlink() and not path.is_mount()
    return real and not any(path.iterdir())


def _check_url(url: str | None) -> None:
    if url is not None and not url.endswith("/"):
        raise UserError(
            "The url of the split files does not end in a slash.",
            "The url of a folder is expected: the path of each file is put behind it.",
            "Add the slash, or leave the url out to use the files beside the lock.",
        )


@contextmanager
def _replacing_folder(destination: Path) -> Iterator[Path]:
    """A new temporary sibling to fill; it becomes `destination` at the end, or is removed."""
    temporary = destination.with_name(f"{destination.name}.tmp.{os.getpid()}")
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(destination)
        sync_folder(destination.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_empty(target: Path, paths: Iterable[str]) -> list[Path]:
    """Make the files, empty, and the folders they are in; return the folders, deepest last.

    Threads that fill them create nothing, so that `target` can be removed at any moment.
    """
    folders = sorted({target / parent for path in paths for parent in Path(path).parents})
    for folder in folders:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    for path in paths:
        (target / path).touch()
        (target / path).chmod(0o644)
    return folders


def _copy(source: Path, target: Path, size: int, progress: Progress, stopped: Event) -> str:
    """Copy one file and return its digest: that of what is written, whatever `source` becomes."""
    sha256 = hashlib.sha256()
    with target.open("r+b") as file:
        for block in read_blocks(source, size):
            if stopped.is_set():
                raise _StoppedError
            sha256.update(block)
            file.write(block)
            progress(len(block))
        file.flush()
        os.fsync(file.fileno())
    return f"sha256:{sha256.hexdigest()}"


def _copy_all(source: PackSource, target: Path, progress: Progress) -> tuple[LockedFile, ...]:
    """Copy the files side by side, the largest first; the first error of any ends all of them."""
    folders = _make_empty(target, source.files)
    by_size = sorted(source.files.items(), key=lambda entry: -entry[1].size)
    stopped = Event()
    tasks = [
        partial(_copy, source.path / path, target / path, file.size, progress, stopped)
        for path, file in by_size
    ]
    threads = len(os.sched_getaffinity(0))
    digests = run_side_by_side(tasks, threads, stopped.set, _StoppedError)
    for folder in folders:
        sync_folder(folder)
    digest_of = dict(zip((path for path, _ in by_size), digests, strict=True))
    return tuple(
        LockedFile(path, file.size, digest_of[path]) for path, file in source.files.items()
    )


def pack_split(
    folder: Path,
    destination: Path,
    *,
    url: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Lock:
    """Copy the files of the weights folder `folder` into the new folder `destination`.

    Returns the lock, without offsets and without the digest of a tarball. Without `url`, which must
    end in a slash, it points to `destination` beside itself. `progress` is called from any thread
    with numbers of bytes as they are written. On any error `destination` is as it was before.

    Raises:
        UserError: the folder is no weights folder or can't be packed, or an argument is wrong.
        OperationError: a file can't be read or written or changes meanwhile, or there is no space.
    """
    check_lock_fields(name, url)
    _check_url(url)
    try:
        source = read_source(folder)
        _check_output(folder, destination)
        check_space(destination.parent, source.size)
        with _replacing_folder(destination) as target:
            files = _copy_all(source, target, progress or (lambda count: None))
            check_unchanged(source)
    except OSError as error:
        raise OperationError(
            f"Packing {folder} failed: {error}.",
            f"{folder} must be readable and {destination.parent} writable, with space for a copy.",
            "Nothing was left behind; correct that and pack again.",
        ) from error
    return Lock(
        name=name or default_name(source, destination.name),
        variant=source.folder.variant,
        dtype=source.folder.dtype,
        url=url or f"{destination.name}/",
        files=files,
        folder=destination.absolute().parent,
    )
