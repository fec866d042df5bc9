"""Packs a weights folder into a tarball: the same folder always gives the same bytes."""

import hashlib
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from weights.atomic import replacing
from weights.errors import OperationError, UserError
from weights.folder import WeightsFolder, check_weights_folder, list_files
from weights.lock import NAME, Lock, LockedFile
from weights.paths import path_problem
from weights.urls import url_problem

CHUNK_BYTES = 1 << 20
# From here on a size does not fit the USTAR header, and some readers take it as 0.
_MEMBER_LIMIT_BYTES = 8 << 30

Progress = Callable[[int], object]


class _HashingWriter:
    """What tarfile writes to: passes on, counts and hashes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size


class _HashingReader:
    """What tarfile copies a member from: passes on, hashes and reports."""

    def __init__(self, file: BinaryIO, progress: Progress | None) -> None:
        self._file = file
        self._progress = progress
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        if self._progress:
            self._progress(len(data))
        return data


def _member(path: str, kind: bytes, size: int = 0) -> tarfile.TarInfo:
    """A header that tells nothing of who packed when; TarInfo's owner and time are zero already."""
    member = tarfile.TarInfo(path)
    member.type = kind
    member.size = size
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return member


def _add(
    tar: tarfile.TarFile, folder: Path, path: str, size: int, progress: Progress | None
) -> LockedFile:
    with (folder / path).open("rb") as file:
        reader = _HashingReader(file, progress)
        tar.addfile(_member(path, tarfile.REGTYPE, size), reader)
        if file.read(1):
            raise OSError(f"{folder / path} grew while it was packed")
    return LockedFile(path, size, f"sha256:{reader.sha256.hexdigest()}")


def _write(
    folder: Path, sizes: dict[str, int], writer: _HashingWriter, progress: Progress | None
) -> tuple[LockedFile, ...]:
    parents = {str(parent) for path in sizes for parent in list(Path(path).parents)[:-1]}
    files = []
    with tarfile.open(
        fileobj=writer,  # type: ignore[call-overload]
        mode="w",
        format=tarfile.PAX_FORMAT,
        copybufsize=CHUNK_BYTES,
    ) as tar:
        for path in sorted(parents | sizes.keys()):
            if path in parents:
                tar.addfile(_member(path, tarfile.DIRTYPE))
            else:
                files.append(_add(tar, folder, path, sizes[path], progress))
    return tuple(files)


def _check_output(folder: Path, tarball: Path) -> None:
    given = f"The tarball would be {tarball}."
    if tarball.suffix != ".tar" or path_problem(tarball.name):
        raise UserError(given, "A plain name that ends in .tar is expected.", "Change the name.")
    if tarball.is_dir() or not tarball.parent.is_dir():
        raise UserError(given, "A file in a folder that exists is expected.", "Change the path.")
    if tarball.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            given, f"A place outside of {folder} is expected.", "Write the tarball beside it."
        )


def _check_lock_fields(name: str | None, url: str | None) -> None:
    if name is not None and not NAME.fullmatch(name):
        raise UserError(
            f"The name {name!r} can't be a lock's.",
            "Letters, digits, dots, dashes and underscores are expected.",
            "Change it, or leave it out to use the variant's.",
        )
    problem = url_problem(url) if url is not None else None
    if problem:
        raise UserError(
            f"The url {problem}.",
            "http(s)://, file:// or a path relative to the lock's folder is expected.",
            "Correct it, or leave it out to use the tarball beside the lock.",
        )


def _sizes(folder: Path) -> dict[str, int]:
    sizes = {path: (folder / path).stat().st_size for path in list_files(folder)}
    for path, size in sizes.items():
        if size >= _MEMBER_LIMIT_BYTES:
            raise UserError(
                f"{folder / path} has {size / 2**30:.1f} GiB.",
                "Files of less than 8 GiB are expected: larger ones break some tar readers.",
                "Save the model in shards of at most 5 GB (max_shard_size of save_pretrained).",
            )
    return sizes


def _default_name(source: WeightsFolder, tarball: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "-", tarball.stem).strip("-")
    return source.variant or plain[:100] or "weights"


def pack(
    folder: Path,
    tarball: Path,
    *,
    url: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Lock:
    """Write the weights folder `folder` as the uncompressed tar `tarball`; return its lock.

    Without `url` the lock points to the tarball beside itself. `progress` is called with numbers
    of bytes as the files are read. On any error `tarball` is as it was before.

    Raises:
        UserError: the folder is no weights folder or can't be packed, or an argument is wrong.
        OperationError: a file can't be read or written.
    """
    source = check_weights_folder(folder)
    _check_output(folder, tarball)
    _check_lock_fields(name, url)
    try:
        sizes = _sizes(folder)
        with replacing(tarball) as file:
            writer = _HashingWriter(file)
            files = _write(folder, sizes, writer, progress)
    except OSError as error:
        raise OperationError(
            f"Packing {folder} failed: {error}.",
            f"{folder} must be readable and {tarball.parent} writable, with space for a copy.",
            "Nothing was left behind; correct that and pack again.",
        ) from error
    return Lock(
        name=name or _default_name(source, tarball),
        variant=source.variant,
        dtype=source.dtype,
        url=url or tarball.name,
        size=writer.size,
        digest=f"sha256:{writer.sha256.hexdigest()}",
        files=files,
        folder=tarball.absolute().parent,
    )
