"""Digests of files, folders and settings, which name what was made from them."""

import hashlib
import json
from functools import cache
from pathlib import Path

from conversion.file_digest import file_digest


def content_digest(path: Path) -> str:
    """The digest of a file, computed once in this process for as long as it does not change.

    Raises:
        OSError: the file can't be read.
    """
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


def folders_digest(*folders: Path) -> str:
    """The digest of all files in folders, with their names.

    Raises:
        OSError: one can't be read.
    """
    return digest_of(
        [
            [folder.name, file.relative_to(folder).as_posix(), content_digest(file)]
            for folder in folders
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]
    )


def digest_of(*parts: object) -> str:
    """The digest, 64 hexadecimal digits, of things that JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# The other arguments tell that a path has another file by now.
@cache
def _digest(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    return file_digest(path)
