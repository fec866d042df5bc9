"""What is recorded of a file: size and sha256."""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A finished file: path relative to the folder, bytes, "sha256:…"."""

    path: str
    size: int
    digest: str


def file_digest(path: Path) -> str:
    """The digest of a file, "sha256:…"."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def written_file(folder: Path, name: str) -> WrittenFile:
    """The record of the file `name` below `folder`."""
    path = folder / name
    return WrittenFile(name, path.stat().st_size, file_digest(path))
