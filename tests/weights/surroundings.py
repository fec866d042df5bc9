"""A destination with neighbours, and what must hold around it whatever an install meets."""

import copy
import dataclasses
import hashlib
import os
import random
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.weights.conftest import safetensors_bytes
from tests.weights.fetching.hostile_tars import Files, HostileTar
from weights.errors import UserError
from weights.fetching.settings import FetchSettings
from weights.install import install
from weights.install_check import verify_install
from weights.lock import Lock, LockedFile

# Small enough that the small files of the tests come in many pieces, and that failures are quick.
QUICK = FetchSettings(
    connections=3,
    piece_bytes=4096,
    attempts=3,
    connect_seconds=5.0,
    stall_seconds=0.15,
    backoff_seconds=0.005,
    longest_pause_seconds=0.02,
)
STAND_IN = Path(__file__).parent / "fetching" / "pget_stand_in.py"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pinned_lock(tar: HostileTar, files: Files, url: str) -> Lock:
    """The lock that the maker of `tar` would publish: exactly `files`, where they are in it."""
    locked = (
        LockedFile(path, len(data), sha256(data), tar.offsets[path]) for path, data in files.items()
    )
    return Lock(
        name="x",
        variant=None,
        dtype=None,
        url=url,
        size=len(tar.data),
        digest=sha256(tar.data),
        files=tuple(sorted(locked, key=lambda file: file.path)),
    )


def in_many_pieces(files: Files) -> Files:
    """The same weights folder with more bytes in its tensors, so that files have several pieces."""
    chance = random.Random(0)
    sizes = iter((6_000, 20_000, 5_000, 9_000))

    def larger(path: str, data: bytes) -> bytes:
        if not path.endswith(".safetensors"):
            return data
        count = next(sizes)
        span = {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}
        return safetensors_bytes({Path(path).stem: span}, chance.randbytes(count))

    return {path: larger(path, data) for path, data in files.items()}


def split_lock(lock: Lock, url: str) -> Lock:
    files = tuple(dataclasses.replace(file, offset=None) for file in lock.files)
    return dataclasses.replace(lock, url=url, size=None, digest=None, files=files)


def unpinned_lock(url: str) -> Lock:
    return Lock(name="x", variant=None, dtype=None, url=url)


def snapshot(folder: Path, without: tuple[str, ...] = ()) -> dict[str, object]:
    """Everything below `folder`: kind, mode, size, content, target of links, number of names."""
    found: dict[str, object] = {}
    for directory, subfolders, names in os.walk(folder):
        at = Path(directory)
        if at == folder:
            subfolders[:] = [name for name in subfolders if name not in without]
            names = [name for name in names if name not in without]
        for entry in (at / name for name in subfolders + names):
            status = entry.lstat()
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = status.st_nlink, entry.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = entry.readlink()
            found[str(entry.relative_to(folder))] = status.st_mode, content
    return found


def read_files(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".install.")
    }


class Surroundings:
    """`destination` is free; around it are files of others that nobody may touch."""

    ours = ("w", "w.partial", ".w.lock")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.destination = folder / "w"
        self.outside = folder / "outside"
        for name in ("outside", "w-evil", "w.partial-evil", "w.broken.note"):
            (folder / name).mkdir(parents=True)
            (folder / name / "kept").write_text(f"kept in {name}")
        (folder / "w.txt").write_text("a neighbour")
        self._before = snapshot(folder)

    def check(self) -> None:
        """Nothing but ours came, went or changed."""
        assert snapshot(self.folder, self.ours) == self._before

    def check_installed(self, files: Files) -> None:
        """Exactly `files` are at the destination, and no leftover beside it."""
        self.check()
        self._check_files(files)
        assert self.leftovers() <= {"w", ".w.lock"}

    def check_installed_inside(self, files: Files) -> None:
        """The same of a mount point, where all that is ours is inside."""
        self.check()
        self._check_files(files)
        assert self.leftovers() == {"w"}
        inside = {path.name for path in self.destination.glob(".install*")}
        assert inside <= {".install.json", ".install.lock"}

    def take_what_was_set_aside(self) -> Files:
        """The files of the install that was there before; they are removed.

        Inside of a mount point, each kill while they are moved begins another folder.
        """
        found: Files = {}
        for pattern in ("w.broken.[0-9]", "w/.install.broken.[0-9]"):
            for aside in self.folder.glob(pattern):
                files = read_files(aside)
                assert not files.keys() & found.keys()
                found |= files
                shutil.rmtree(aside)
        return found

    def seen_from(self, root: Path) -> "Surroundings":
        """As processes with other mounts see it."""
        other = copy.copy(self)
        for name in ("folder", "destination", "outside"):
            setattr(other, name, root / str(getattr(self, name)).lstrip("/"))
        return other

    def _check_files(self, files: Files) -> None:
        assert read_files(self.destination) == files
        marker = verify_install(self.destination)
        assert {file.path: file.digest for file in marker.files} == {
            path: sha256(data) for path, data in files.items()
        }
        for path in self.destination.rglob("*"):
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                assert stat.S_ISREG(status.st_mode)
                assert status.st_nlink == 1
                assert not status.st_mode & 0o7111, f"{path} has the mode {status.st_mode:o}"

    def check_nothing_installed(self) -> None:
        """The destination is not there; what a next try could use may be."""
        self.check()
        assert self.leftovers() <= {"w.partial", ".w.lock"}

    def leftovers(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.name in self.ours}


def check_message(error: UserError, *secrets: str) -> None:
    """Three sentences, one printable line, and no secret in it."""
    assert all((error.given, error.expected, error.remedy))
    assert str(error).isprintable()
    assert len(str(error)) < 2000
    assert not [secret for secret in secrets if secret in str(error)]


@contextmanager
def pget_on_path(folder: Path, way: str = "ok") -> Iterator[Path]:
    """Put the stand-in on PATH as `pget`; yields the file with the arguments of each run."""
    (folder / "bin").mkdir(exist_ok=True)
    program, log = folder / "bin" / "pget", folder / "pget.log"
    # -I -S: no site-packages, which take most of the time to start.
    lines = STAND_IN.read_text().splitlines(keepends=True)
    program.write_text("".join([f"#!{sys.executable} -IS\n", *lines[1:]]))
    program.chmod(0o755)
    log.touch()
    before = dict(os.environ)
    os.environ |= {
        "PATH": f"{program.parent}:{before['PATH']}",
        "PGET_STAND_IN": way,
        "PGET_STAND_IN_LOG": str(log),
    }
    try:
        yield log
    finally:
        os.environ.clear()
        os.environ.update(before)


def real_pget() -> str | None:
    """Replicate's program where it is on PATH; PyPI's of that name is a script."""
    program = shutil.which("pget")
    if program is None or Path(program).read_bytes()[:4] != b"\x7fELF":
        return None
    return program


def install_or_error(
    around: Surroundings,
    lock: Lock,
    files: Files,
    *secrets: str,
    engine: str | None = None,
    settings: FetchSettings = QUICK,
) -> UserError | None:
    """Install; a correct install or a clear error comes of it, and the error is returned."""
    try:
        path = install(lock, around.destination, engine=engine, settings=settings)  # type: ignore[arg-type]
    except UserError as error:
        check_message(error, *secrets)
        around.check_nothing_installed()
        return error
    assert path == around.destination
    around.check_installed(files)
    return None
