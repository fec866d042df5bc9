"""Packs a weights folder into a tarball: the same folder always gives the same bytes."""

import hashlib
import tarfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from weights.atomic import replacing
from weights.disk_space import check_space
from weights.errors import OperationError, UserError
from weights.lock import Lock, LockedFile
from weights.packing.generator_thread import in_thread
from weights.packing.source import (
    PackSource,
    check_lock_fields,
    check_unchanged,
    default_name,
    read_blocks,
    read_source,
)
from weights.paths import path_problem

# From here on a size does not fit the USTAR header, and some readers take it as 0.
_MEMBER_LIMIT_BYTES = 8 << 30

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class TarMember:
    """One entry of a tarball: its header as it is written, where its payload begins, its bytes."""

    path: str
    header: bytes
    offset: int
    size: int
    is_file: bool


@dataclass(frozen=True, slots=True)
class TarPlan:
    """A tarball before it is written: its members in order, and its size in bytes."""

    members: tuple[TarMember, ...]
    size: int


def _padding(size: int, unit: int) -> int:
    """Bytes from `size` to the next multiple of `unit`."""
    return -size % unit


def _header(path: str, size: int, *, is_file: bool) -> bytes:
    """A header that tells nothing of who packed when; TarInfo's owner and time are zero already."""
    member = tarfile.TarInfo(path)
    member.type = tarfile.REGTYPE if is_file else tarfile.DIRTYPE
    member.size = size
    member.mode = 0o644 if is_file else 0o755
    # PAX puts what is not ASCII into UTF-8 records whatever the encoding; this one is never used.
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def plan_tarball(sizes: Mapping[str, int]) -> TarPlan:
    """The tarball of files of these sizes (bytes, by path) and of the folders they are in."""
    parents = {str(parent) for path in sizes for parent in list(Path(path).parents)[:-1]}
    members = []
    end = 0
    for path in sorted(parents | sizes.keys()):
        is_file = path in sizes
        size = sizes.get(path, 0)
        header = _header(path, size, is_file=is_file)
        members.append(TarMember(path, header, end + len(header), size, is_file))
        end += len(header) + size + _padding(size, tarfile.BLOCKSIZE)
    end += 2 * tarfile.BLOCKSIZE
    return TarPlan(tuple(members), end + _padding(end, tarfile.RECORDSIZE))


def tar_pieces(folder: Path, plan: TarPlan) -> Generator[tuple[str | None, bytes], None, None]:
    """The bytes of the planned tarball in order, in pieces of at most 1 MiB.

    With each piece comes the path of the file in `folder` that it is a part of, None for headers
    and padding.

    Raises:
        OperationError: a file is shorter than planned.
        OSError: a file can't be read.
    """
    end = 0
    for member in plan.members:
        yield None, member.header
        if member.is_file:
            for block in read_blocks(folder / member.path, member.size):
                yield member.path, block
        padding = _padding(member.size, tarfile.BLOCKSIZE)
        yield None, bytes(padding)
        end = member.offset + member.size + padding
    yield None, bytes(plan.size - end)


def _write(
    folder: Path, plan: TarPlan, file: BinaryIO, progress: Progress | None
) -> tuple[str, tuple[LockedFile, ...]]:
    """Write the planned tarball to `file`; return its digest and what the lock says of its files.

    Each block is read once, and what is hashed twice is what is written: lock and tarball agree
    whatever happens to the source. One thread reads and hashes the files, this one hashes the
    tarball and writes, which is half of the work each.
    """
    digests = {member.path: hashlib.sha256() for member in plan.members if member.is_file}

    def hash_files() -> Generator[tuple[str | None, bytes], None, None]:
        for path, data in tar_pieces(folder, plan):
            if path is not None:
                digests[path].update(data)
            yield path, data

    tar_digest = hashlib.sha256()
    with in_thread(hash_files()) as pieces:
        for path, data in pieces:
            tar_digest.update(data)
            file.write(data)
            if path is not None and progress:
                progress(len(data))
    files = tuple(
        LockedFile(
            member.path, member.size, f"sha256:{digests[member.path].hexdigest()}", member.offset
        )
        for member in plan.members
        if member.is_file
    )
    return f"sha256:{tar_digest.hexdigest()}", files


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


def _check_sizes(source: PackSource) -> None:
    for path, file in source.files.items():
        if file.size >= _MEMBER_LIMIT_BYTES:
            raise UserError(
                f"{source.path / path} has {file.size / 2**30:.1f} GiB.",
                "Files of less than 8 GiB are expected: larger ones break some tar readers.",
                "Save the model in shards of at most 5 GB (max_shard_size of save_pretrained).",
            )


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
    of bytes of the files as they are written. On any error `tarball` is as it was before.

    Raises:
        UserError: the folder is no weights folder or can't be packed, or an argument is wrong.
        OperationError: a file can't be read or written or changes meanwhile, or there is no space.
    """
    check_lock_fields(name, url)
    try:
        source = read_source(folder)
        _check_output(folder, tarball)
        _check_sizes(source)
        plan = plan_tarball({path: file.size for path, file in source.files.items()})
        check_space(tarball.parent, plan.size)
        with replacing(tarball) as file:
            digest, files = _write(folder, plan, file, progress)
            check_unchanged(source)
    except OSError as error:
        raise OperationError(
            f"Packing {folder} failed: {error}.",
            f"{folder} must be readable and {tarball.parent} writable, with space for a copy.",
            "Nothing was left behind; correct that and pack again.",
        ) from error
    return Lock(
        name=name or default_name(source, tarball.stem),
        variant=source.folder.variant,
        dtype=source.folder.dtype,
        url=url or tarball.name,
        size=plan.size,
        digest=digest,
        files=files,
        folder=tarball.absolute().parent,
    )
