"""A zip with a dataset: unpacked once, whole or not at all, and never outside of its folder."""

import hashlib
import logging
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from training.dataset.visible_files import is_hidden
from weights.atomic import sync_folder
from weights.byte_sizes import shown_size
from weights.disk_space import check_space
from weights.errors import UserError
from weights.paths import path_problem
from weights.staging import sync_files

MAX_FILES = 200_000
# Videos and pictures don't become smaller in a zip, and texts by a tenth: what grows by more than
# that is no dataset.
MAX_GROWTH = 10
# Of a zip full of texts this much is taken whatever it grows by.
MAX_TEXT_BYTES = 1 << 30

_CHUNK_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SEPARATOR = re.compile(r"[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")
_REMEDY = "Nothing was unpacked. Zip the folder again, with plain files only, and no password."
# What `zipfile` and the decompressors below it raise on bytes that are not what they should be.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Member:
    info: zipfile.ZipInfo
    path: PurePosixPath


class _RefusedError(Exception):
    """The zip is damaged, or holds what a dataset has not."""


def dataset_folder(data: Path, workspace: Path) -> Path:
    """The folder of a dataset: `data` itself, or where the zip `data` is unpacked in `workspace`.

    The place is named for the zip's sha256: the same zip is unpacked there once, by one process.

    Raises:
        UserError: `data` is neither a folder nor a zip, or a zip that can't be unpacked.
        OperationError: the disk has not enough space.
        OSError: a file can't be read or written.
    """
    if data.is_dir():
        return data
    if not data.is_file() or not zipfile.is_zipfile(data):
        raise UserError(
            f"{data} is neither a folder nor a zip." if data.exists() else f"There is no {data}.",
            "A folder with videos and captions is expected, or a zip of one.",
            "Check the path, or zip the folder again.",
        )
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = workspace / digest
    workspace.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace / f"{digest}.lock"):
        if not folder.is_dir():
            _unpack_whole(data, folder)
    return folder


def _unpack_whole(archive: Path, folder: Path) -> None:
    """Unpack beside `folder`, then rename; what a killed process left there goes first."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _unpack(archive, partial)
        sync_files(partial)
        partial.rename(folder)
        sync_folder(folder.parent)
    except _RefusedError as error:
        raise UserError(
            f"{archive} {error}.",
            "A zip of a folder with videos and captions is expected.",
            _REMEDY,
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack(path: Path, folder: Path) -> None:
    with _opened(path) as archive:
        members = list(_members(archive))
        total = sum(member.info.file_size for member in members)
        most = MAX_GROWTH * path.stat().st_size + MAX_TEXT_BYTES
        if total > most:
            raise _RefusedError(
                f"would grow from {shown_size(path.stat().st_size)} to {shown_size(total)}"
            )
        check_space(folder, total)
        _log.info("Unpacking %s: %d files, %s.", path, len(members), shown_size(total))
        folder.mkdir()
        for member in members:
            _write(archive, member, folder)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (*_DAMAGED, NotImplementedError) as error:
        raise _RefusedError(f"can't be opened ({error})") from None


def _members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    """The files to unpack, each checked by what the zip says of it.

    Raises:
        _RefusedError: one is not a plain file with a plain name, or there are too many.
    """
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise _RefusedError(f"holds {len(infos)} files, more than {MAX_FILES}")
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for info in infos:
        # `filename` ends before a null byte, the rest of which `zipfile` would hide.
        name = info.orig_filename.removeprefix("./")
        if not name:
            continue
        path = PurePosixPath(name)
        if is_hidden(path) and ".." not in _SEPARATOR.split(name):
            continue
        _check_member(info, name)
        if info.is_dir():
            continue
        parents = set(path.parents)
        if path in files or path in folders or parents & files:
            raise _RefusedError(f"holds {name!r} twice")
        files.add(path)
        folders |= parents
        yield _Member(info, path)


def _check_member(info: zipfile.ZipInfo, name: str) -> None:
    problem = path_problem(name.removesuffix("/"))
    kind = stat.S_IFMT(info.external_attr >> 16)
    if problem is None and _DRIVE.match(name):
        problem = "begins with a drive"
    if problem is None and kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = "is a link or a device"
    if problem is None and info.flag_bits & 1:
        problem = "is encrypted"
    # Of bzip2 and LZMA `zipfile` unpacks a megabyte at once, which may be gigabytes.
    if problem is None and info.compress_type not in _METHODS:
        problem = "is not compressed by deflate"
    if problem:
        shown = repr(name) if len(name) <= 100 else f"{name[:100]!r}…"
        raise _RefusedError(f"holds {shown}, which {problem}")


def _write(archive: zipfile.ZipFile, member: _Member, folder: Path) -> None:
    """Unpack one file; `zipfile` checks its sum, and gives no more bytes than were announced."""
    target = folder / member.path
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.info.file_size
    with target.open("xb") as file:
        for chunk in _chunks(archive, member):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left:
        raise _RefusedError(f"holds {str(member.path)!r} in another size than it says")


def _chunks(archive: zipfile.ZipFile, member: _Member) -> Iterator[bytes]:
    try:
        with archive.open(member.info) as source:
            while chunk := source.read(_CHUNK_BYTES):
                yield chunk
    except (*_DAMAGED, NotImplementedError, RuntimeError) as error:
        raise _RefusedError(f"is damaged at {str(member.path)!r} ({error})") from None
