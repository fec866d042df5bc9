"""Things for tests to put into a cache, and other processes that use them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weights.caching.cache import Cache
from weights.caching.entries import list_entries
from weights.caching.holds import hold_path
from weights.caching.use import use_file

ROOT = Path(__file__).parents[3]

HOLD = """
import gc, sys
from pathlib import Path
from weights.caching.cache import Cache
from weights.caching.use import use_file
path = Path(sys.argv[1])
use_file(Cache(path.parent), path.name, None, lambda file: file.write(b"made by the holder"))
gc.collect()
print("held", flush=True)
sys.stdin.read()
"""


def lora(letter: str) -> str:
    """The name of a file in the cache; `letter` is a hexadecimal digit."""
    return f"lora-{letter * 12}.safetensors"


def put_file(root: Path, letter: str, size: int, *, used: float) -> Path:
    """A file of `size` bytes in the cache, last used at `used`."""
    with use_file(Cache(root), lora(letter), size, lambda file: file.write(bytes(size))) as use:
        os.utime(hold_path(use.path), (used, used))
    return use.path


def disk_usage_of(size: int) -> Callable[[Path], tuple[int, int, int]]:
    """A `shutil.disk_usage` of a disk of `size` bytes that has nothing on it but the cache."""
    usage = namedtuple("usage", "total used free")

    def measured(root: Path) -> tuple[int, int, int]:
        on_disk = sum(e.size for e in list_entries(root) if e.kind != "announced")
        return usage(size, on_disk, size - on_disk)

    return measured


def names(root: Path) -> set[str]:
    """What can be seen in the cache."""
    return {path.name for path in root.iterdir() if not path.name.startswith(".")}


def held(root: Path) -> set[str]:
    return {entry.name for entry in list_entries(root) if entry.held}


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `code` in the project's root."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """The process, killed and gone after the block."""
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the file at `path` and does nothing more."""
    with ended(start(HOLD, path)) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process


@contextmanager
def anothers_folder() -> Iterator[Path]:
    """A folder that this process may read and, inside of `as_stranger`, not write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@contextmanager
def as_stranger(folder: Path) -> Iterator[None]:
    """Be one who may not write in `folder`, as root too."""
    if os.geteuid() != 0:
        for path in (folder, *folder.iterdir()):
            path.chmod(path.stat().st_mode & ~0o222)
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
