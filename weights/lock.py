"""The lock: which files a weights folder at rest has, with sizes and digests, and where it is.

At rest a folder is one tarball, or its files one by one below a url (split). docs/weights.md
describes the format.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from weights.atomic import replacing
from weights.errors import UserError
from weights.json_file import read_object
from weights.paths import path_problem
from weights.urls import PLACES, is_relative, url_problem
from weights.variants import VARIANTS, Dtype

VERSION = 1

_FIELDS = ("version", "name", "variant", "dtype", "url", "size", "digest", "setDigest", "files")
_FILE_FIELDS = ("path", "size", "digest")
_OPTIONAL_FILE_FIELDS = ("offset", "headerDigest")
_BLOCK_BYTES = 512
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file: path in the weights folder, size in bytes, `sha256:<hex>`.

    `offset` is where its bytes begin in the tarball, None where there is no tarball.
    `header_digest` is that of a .safetensors file's length field and header; installs know it.
    """

    path: str
    size: int
    digest: str
    offset: int | None = None
    header_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What weights at rest are and where.

    Of an unpinned lock nobody knows the digests: `digest` is None and `files` is empty. Of a split
    one `digest` is None, `url` ends in a slash and the files lie below it. `size` is that of the
    tarball in bytes. A relative `url` starts at `folder`, where the lock was read.
    """

    name: str
    variant: str | None
    dtype: Dtype | None
    url: str | None
    size: int | None = None
    digest: str | None = None
    files: tuple[LockedFile, ...] = ()
    folder: Path | None = field(default=None, compare=False)

    @property
    def pinned(self) -> bool:
        return bool(self.files)

    @property
    def split(self) -> bool:
        return self.pinned and self.digest is None

    @property
    def set_digest(self) -> str | None:
        return set_digest(self.files) if self.pinned else None

    @property
    def files_size(self) -> int:
        """Bytes of all files; 0 of an unpinned lock."""
        return sum(file.size for file in self.files)


class _FieldError(Exception):
    """A field of a lock that is not as it must be."""

    def __init__(self, name: str, found: str, expected: str) -> None:
        self.name, self.found, self.expected = name, found, expected
        super().__init__(name)


def set_digest(files: Iterable[LockedFile]) -> str:
    """The digest of a set of files, by Cog's rule: of the sorted lines `<hex>  <path>`."""
    lines = sorted(f"{file.digest.removeprefix('sha256:')}  {file.path}" for file in files)
    return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _check_fields(
    fields: Any, expected: tuple[str, ...], name: str, optional: tuple[str, ...] = ()
) -> None:
    if not isinstance(fields, dict) or fields.keys() - set(optional) != set(expected):
        found = ", ".join(fields) if isinstance(fields, dict) else _shown(fields)
        raise _FieldError(name, f"has {found or 'nothing'}", f"the fields {', '.join(expected)}")


def _size(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise _FieldError(name, f"is {_shown(value)}", "a number of bytes")
    return value


def _digest(value: Any, name: str) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise _FieldError(name, f"is {_shown(value)}", "sha256: and 64 hexadecimal digits")
    return value


def _one_of(value: Any, choices: Iterable[str], name: str) -> Any:
    if value is not None and value not in tuple(choices):
        raise _FieldError(name, f"is {_shown(value)}", f"null or one of {', '.join(choices)}")
    return value


def _url(value: Any) -> str | None:
    if value is None:
        return None
    problem = url_problem(value) if isinstance(value, str) else "is not a string"
    if problem:
        raise _FieldError("url", problem, f"null, {PLACES}")
    return str(value)


def _file(fields: Any, name: str) -> LockedFile:
    _check_fields(fields, _FILE_FIELDS, name, _OPTIONAL_FILE_FIELDS)
    path = fields["path"]
    problem = path_problem(path) if isinstance(path, str) else "is not a string"
    if problem:
        raise _FieldError(f"{name}.path", f"{_shown(path)} {problem}", "a path inside the folder")
    offset, header_digest = fields.get("offset"), fields.get("headerDigest")
    return LockedFile(
        path,
        _size(fields["size"], f"{name}.size"),
        _digest(fields["digest"], f"{name}.digest"),
        None if offset is None else _size(offset, f"{name}.offset"),
        None if header_digest is None else _digest(header_digest, f"{name}.headerDigest"),
    )


def _files(value: Any) -> tuple[LockedFile, ...]:
    if not isinstance(value, list):
        raise _FieldError("files", f"is {_shown(value)}", "a list")
    files = tuple(_file(fields, f"files[{number}]") for number, fields in enumerate(value))
    paths: set[str] = set()
    for file in files:
        if file.path in paths:
            raise _FieldError("files", f"has {file.path!r} twice", "each path once")
        paths.add(file.path)
    for file in files:
        for parent in map(str, list(Path(file.path).parents)[:-1]):
            if parent in paths:
                raise _FieldError(
                    "files", f"has {parent!r} as a file and as a folder", "one of them"
                )
    return files


def _check_offsets(lock: Lock) -> None:
    """Of a tarball's files each has its own bytes, after a header of at least one block."""
    end = 0
    for file in sorted(lock.files, key=lambda file: (file.offset or 0, file.path)):
        if file.offset is None or file.offset < end + _BLOCK_BYTES or file.offset % _BLOCK_BYTES:
            raise _FieldError(
                "files",
                f"has {file.path!r} at the offset {file.offset}",
                "for each file a multiple of 512, with a header between it and the file before",
            )
        end = file.offset + file.size
    if lock.size is None or end > lock.size:
        raise _FieldError("size", f"is {lock.size}", f"at least {end}, where the last file ends")


def _check_kind(lock: Lock) -> None:
    """A lock is of a tarball, split, or unpinned, and its fields fit together."""
    if lock.digest is not None and not lock.files:
        raise _FieldError("files", "is empty", "files with a digest")
    if lock.digest is not None:
        _check_offsets(lock)
    elif lock.files:
        if any(file.offset is not None for file in lock.files) or lock.size is not None:
            raise _FieldError("digest", "is null", "the tarball's digest with its size and offsets")
        if lock.url is not None and not lock.url.endswith("/"):
            raise _FieldError("url", "names no folder", "a url that ends in / where digest is null")


def _lock(fields: dict[str, Any], folder: Path) -> Lock:
    version = fields.get("version")
    if type(version) is not int or version != VERSION:
        raise _FieldError("version", f"is {_shown(version)}", f"version {VERSION}")
    _check_fields(fields, _FIELDS, "it")
    name, digest, size, files = fields["name"], fields["digest"], fields["size"], fields["files"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _FieldError(
            "name", f"is {_shown(name)}", "letters, digits, dots, dashes, underscores"
        )
    lock = Lock(
        name=name,
        variant=_one_of(fields["variant"], VARIANTS, "variant"),
        dtype=_one_of(fields["dtype"], get_args(Dtype), "dtype"),
        url=_url(fields["url"]),
        size=None if size is None and digest is None else _size(size, "size"),
        digest=None if digest is None else _digest(digest, "digest"),
        files=_files(files),
        folder=folder,
    )
    _check_kind(lock)
    if fields["setDigest"] != lock.set_digest:
        raise _FieldError("setDigest", f"is {_shown(fields['setDigest'])}", f"{lock.set_digest}")
    return lock


def read_lock(path: Path) -> Lock:
    """Read and check a lock.

    Raises:
        UserError: there is none, or a field of it is not as it must be; the message names both.
    """
    try:
        return _lock(read_object(path), path.absolute().parent)
    except _FieldError as problem:
        raise UserError(
            f"The lock {path} is not valid: {problem.name} {problem.found}.",
            f"Expected: {problem.expected}.",
            "Get the lock again from where it was published, or make it with `cogvideox pack`.",
        ) from None


def lock_fields(lock: Lock) -> dict[str, Any]:
    """A lock as it stands in its file."""
    files = [
        {"path": file.path, "size": file.size, "digest": file.digest}
        | ({} if file.offset is None else {"offset": file.offset})
        | ({} if file.header_digest is None else {"headerDigest": file.header_digest})
        for file in lock.files
    ]
    return {
        "version": VERSION,
        "name": lock.name,
        "variant": lock.variant,
        "dtype": lock.dtype,
        "url": lock.url,
        "size": lock.size,
        "digest": lock.digest,
        "setDigest": lock.set_digest,
        "files": files,
    }


def write_lock(lock: Lock, path: Path) -> None:
    """Write a lock: the same lock gives the same bytes, and `path` is never half a lock.

    Raises:
        OSError: the file can't be written.
    """
    text = json.dumps(lock_fields(lock), indent=2, ensure_ascii=False)
    with replacing(path) as file:
        file.write(f"{text}\n".encode())


def resolve_url(lock: Lock) -> str:
    """The absolute URL of a lock's tarball, or of the folder of a split one.

    Raises:
        UserError: the lock names no place.
    """
    if lock.url is None or (is_relative(lock.url) and lock.folder is None):
        raise UserError(
            f"The lock of {lock.name} does not say where its tarball is.",
            f"A url is expected: {PLACES}.",
            "Write it into the lock, or pack again with --url.",
        )
    if is_relative(lock.url) and lock.folder is not None:
        slash = "/" if lock.url.endswith("/") else ""
        return (lock.folder / lock.url).resolve().as_uri() + slash
    return lock.url
