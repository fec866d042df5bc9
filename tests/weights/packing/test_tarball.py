"""Packing: the same folder always gives the same bytes, and nothing half-written stays."""

import hashlib
import io
import os
import resource
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.weights.packing.interruptions import interrupted_after
from tests.weights.random_folders import PIPELINE, folders, write_folder
from weights.errors import OperationError, UserError
from weights.lock import LockedFile, read_lock, write_lock
from weights.packing.tarball import pack, plan_tarball, tar_pieces

ROOT = Path(__file__).parents[3]


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def payloads(tarball: Path, files: tuple[LockedFile, ...]) -> dict[str, bytes]:
    """What lies in the tarball where the lock says."""
    data = tarball.read_bytes()
    return {file.path: data[file.offset : file.offset + file.size] for file in files}


def test_the_lock_says_what_the_tarball_is(folder, files, tmp_path):
    lock = pack(folder, tmp_path / "my model.tar")
    data = (tmp_path / "my model.tar").read_bytes()
    assert (lock.size, lock.digest) == (len(data), sha256(data))
    assert [(file.path, file.size, file.digest) for file in lock.files] == [
        (path, len(files[path]), sha256(files[path])) for path in sorted(files)
    ]
    assert payloads(tmp_path / "my model.tar", lock.files) == files
    assert (lock.name, lock.variant, lock.dtype) == ("nano", "nano", "float32")
    assert lock.url == "my model.tar"


def reference_tar(files: dict[str, bytes]) -> bytes:
    """The tarball of `files` as Python's tarfile writes it."""
    buffer = io.BytesIO()
    parents = {str(parent) for path in files for parent in list(Path(path).parents)[:-1]}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(parents | files.keys()):
            member = tarfile.TarInfo(path)
            member.mode = 0o755 if path in parents else 0o644
            member.type = tarfile.DIRTYPE if path in parents else tarfile.REGTYPE
            member.size = len(files.get(path, b""))
            tar.addfile(member, io.BytesIO(files.get(path, b"")))
    return buffer.getvalue()


@settings(max_examples=60, deadline=None)
@given(files=folders())
def test_of_any_folder_the_lock_is_right_and_the_bytes_are_tarfiles(files):
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        lock = pack(write_folder(base / "in", files), base / "x.tar")
        data = (base / "x.tar").read_bytes()
        assert data == reference_tar(files)
        assert (lock.size, lock.digest) == (len(data), sha256(data))
        assert payloads(base / "x.tar", lock.files) == files
        assert {file.path: file.digest for file in lock.files} == {
            path: sha256(content) for path, content in files.items()
        }
        write_lock(lock, base / "x.lock.json")
        assert read_lock(base / "x.lock.json") == lock


@settings(max_examples=20, deadline=None)
@given(files=folders())
def test_gnu_tar_lists_and_extracts_any_folder(files):
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        pack(write_folder(base / "in", files), base / "x.tar")
        (base / "out").mkdir()
        tar = ["tar", "--quoting-style=literal", "-f", str(base / "x.tar")]
        listed = subprocess.run([*tar, "-t"], capture_output=True, check=True).stdout.decode()
        held = {line for line in listed.splitlines() if not line.endswith("/")}
        assert held == set(files)
        done = subprocess.run([*tar, "-xC", str(base / "out")], capture_output=True, check=True)
        assert done.stderr == b""
        assert {path: (base / "out" / path).read_bytes() for path in files} == files


def test_the_tarball_is_as_the_design_says(folder, packed, files, tmp_path):
    with tarfile.open(tmp_path / "weights.tar", "r:") as tar:
        members = tar.getmembers()
        held = {m.name: tar.extractfile(m).read() for m in members if m.isfile()}
    assert held == files
    names = [member.name for member in members]
    assert names == sorted(names)
    assert {"transformer", "vae"} <= set(names)
    for member in members:
        assert member.isfile() or member.isdir()
        assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
        assert (member.uname, member.gname) == ("", "")
        assert member.mode == (0o755 if member.isdir() else 0o644)
        assert not member.pax_headers


def test_the_pieces_are_the_tarball_and_are_small(folder, files, packed, tmp_path):
    (folder / "large.bin").write_bytes(bytes(3 << 20))
    files["large.bin"] = bytes(3 << 20)
    plan = plan_tarball({path: len(content) for path, content in files.items()})
    pieces = list(tar_pieces(folder, plan))
    assert b"".join(data for _, data in pieces) == reference_tar(files)
    assert max(len(data) for _, data in pieces) <= 1 << 20
    for path, content in files.items():
        assert b"".join(data for of, data in pieces if of == path) == content


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_only_the_content_counts(data):
    """The same files made in another order, under another umask, touched and chmodded."""
    files = data.draw(folders())
    order = data.draw(st.permutations(sorted(files)))
    mode, when = data.draw(st.integers(0, 0o777)), data.draw(st.integers(0, 2**33))
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        first = pack(write_folder(base / "one", files), base / "one.tar")
        (base / "one" / "empty folder").mkdir()
        with umask(data.draw(st.sampled_from([0, 0o022, 0o077]))):
            write_folder(base / "two", files, order)
            for path in order:
                (base / "two" / path).chmod(mode | 0o400)
                os.utime(base / "two" / path, (when, when))
            second = pack(base / "two", base / "two.tar")
        again = pack(base / "one", base / "again.tar")
        assert first.digest == second.digest == again.digest
        assert first.set_digest == second.set_digest == again.set_digest
        assert first.files == second.files == again.files
        assert (base / "one.tar").read_bytes() == (base / "two.tar").read_bytes()


def pack_in_another_locale(folder: Path, tarball: Path, locale: dict[str, str]):
    code = "import sys; from pathlib import Path; from weights.packing.tarball import pack\n"
    code += "pack(Path(sys.argv[1]), Path(sys.argv[2]))"
    # Only what Python needs: LANG, LC_ALL and PYTHONUTF8 of this process must not help it.
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **locale}
    command = [sys.executable, "-c", code, str(folder), str(tarball)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace"
    )


@pytest.fixture
def international(tmp_path: Path) -> Path:
    names = ["Ä", "zebra", "É", "a-b", "a/b", "B", "İ", "i", "漢"]
    return write_folder(tmp_path / "in", PIPELINE | {name: name.encode() for name in names})


def test_the_locale_does_not_count(international, tmp_path):
    expected = pack(international, tmp_path / "x.tar")
    for number, locale in enumerate(({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "LANG": "tr_TR.UTF-8"})):
        done = pack_in_another_locale(international, tmp_path / f"{number}.tar", locale)
        assert done.returncode == 0, done.stderr
        assert sha256((tmp_path / f"{number}.tar").read_bytes()) == expected.digest


@pytest.mark.skipif(
    not Path("/usr/share/i18n/charmaps").is_dir() or not shutil.which("localedef"),
    reason="the system has no sources of locales",
)
def test_where_names_are_not_utf_8_they_are_refused(tmp_path):
    """Else the tarball would hold names that nobody gave."""
    folder = write_folder(tmp_path / "in", PIPELINE | {"é": b""})
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / "en_US.ISO-8859-1"]
    subprocess.run(command, check=True, capture_output=True)
    locale = {"LC_ALL": "en_US.ISO-8859-1", "LOCPATH": str(tmp_path)}
    done = pack_in_another_locale(folder, tmp_path / "x.tar", locale)
    assert "PYTHONUTF8=1" in done.stderr
    assert not (tmp_path / "x.tar").exists()
    done = pack_in_another_locale(folder, tmp_path / "x.tar", locale | {"PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr


def test_another_byte_gives_another_tarball(folder, packed, tmp_path):
    (folder / "vae" / "config.json").write_text('{"a":0}')
    changed = pack(folder, tmp_path / "other.tar")
    assert changed.digest != packed.digest
    assert changed.set_digest != packed.set_digest


def test_the_bytes_never_change(folder, packed):
    """A release that packs differently breaks every published digest: this one is written down."""
    known = "47f40e4d5e5700176ee8b3eda5d77073df7b174aea3987842812bd586b6ff766"
    assert packed.digest == f"sha256:{known}"


def test_a_large_tensor_file_is_refused_before_anything_is_written(folder, tmp_path):
    with (folder / "huge.bin").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(UserError, match="shards"):
        pack(folder, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_the_largest_member_still_has_a_plain_header():
    plan = plan_tarball({"a": (8 << 30) - 1, "b": 0})
    assert [(member.offset, len(member.header)) for member in plan.members] == [
        (512, 512),
        (512 + (8 << 30) + 512, 512),
    ]


def test_space_for_the_whole_tarball_is_asked_for_before_anything_is_written(folder, tmp_path):
    """With files that are holes: they take no space and pretend to fill the disk."""
    for number in range(shutil.disk_usage(tmp_path).free // (7 << 30) + 1):
        with (folder / f"{number}.bin").open("wb") as file:
            file.truncate(7 << 30)
    with pytest.raises(OperationError, match=r"has .* (G|T)B free.*(G|T)B are needed"):
        pack(folder, tmp_path / "x.tar", progress=pytest.fail)
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights"}


@pytest.mark.parametrize("name", ["x.tgz", "x", " .tar", "a\nb.tar", "gone/x.tar", "weights/x.tar"])
def test_refuses_a_bad_place(folder, tmp_path, name):
    with pytest.raises(UserError, match="The tarball would be"):
        pack(folder, tmp_path / name)


def test_refuses_a_place_inside_by_another_name(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="outside"):
        pack(folder, tmp_path / "link" / "x.tar")


@pytest.mark.parametrize("arguments", [{"url": "ftp://x/y"}, {"url": ""}, {"name": "a b"}])
def test_refuses_a_lock_that_could_not_be_read(folder, tmp_path, arguments):
    with pytest.raises(UserError):
        pack(folder, tmp_path / "x.tar", **arguments)
    assert not (tmp_path / "x.tar").exists()


def test_refuses_what_is_no_weights_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="not a weights folder"):
        pack(tmp_path / "photos", tmp_path / "x.tar")


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to("/etc/hostname"), "symbolic link"),
        (lambda path: path.symlink_to("/etc"), "symbolic link"),
        (os.mkfifo, "device"),
        (_make_socket, "device"),
        (lambda path: (path.parent / "a\nb").write_text(""), "control character"),
        (lambda path: (path.parent / "a\\b").write_text(""), "backslash"),
        (lambda path: Path(os.fsdecode(bytes(path.parent) + b"/\xff")).write_text(""), "UTF-8"),
    ],
)
def test_refuses_what_is_odd_and_says_why(folder, tmp_path, make, reason):
    make(folder / "vae" / "odd")
    with pytest.raises(UserError, match=reason):
        pack(folder, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_the_old_tarball(
    folder, tmp_path, interruption, wait_for_threads_to_end
):
    (tmp_path / "x.tar").write_text("old")

    def interrupt(_: int) -> None:
        raise interruption

    expected = KeyboardInterrupt if interruption is KeyboardInterrupt else OperationError
    with pytest.raises(expected):
        pack(folder, tmp_path / "x.tar", progress=interrupt)
    assert (tmp_path / "x.tar").read_text() == "old"
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights", "x.tar"}
    wait_for_threads_to_end()


# Interrupted between opening a file and the `with` that closes it, Python closes it and complains.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_leaves_nothing(folder, tmp_path, wait_for_threads_to_end):
    (folder / "large.bin").write_bytes(bytes(20 << 20))
    start = time.perf_counter()
    expected = pack(folder, tmp_path / "x.tar").digest
    duration = time.perf_counter() - start
    (tmp_path / "x.tar").unlink()
    interrupted = 0
    for moment in range(1, 41):
        try:
            with interrupted_after(duration * moment / 40):
                pack(folder, tmp_path / "x.tar")
        except KeyboardInterrupt:
            interrupted += 1
        left = {entry.name for entry in tmp_path.iterdir()} - {"weights"}
        wait_for_threads_to_end()
        if left:  # the interruption came after the last step, or not at all
            assert left == {"x.tar"}
            assert sha256((tmp_path / "x.tar").read_bytes()) == expected
            (tmp_path / "x.tar").unlink()
    assert interrupted >= 10


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes(byte ^ 1 for byte in data))


def _replace(path: Path) -> None:
    path.with_name("new").write_bytes(bytes(path.stat().st_size))
    path.with_name("new").replace(path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("change", [_append, _flip, _replace, _empty, Path.unlink])
@pytest.mark.parametrize("file", ["conversion.json", "vae/diffusion_pytorch_model.safetensors"])
def test_a_file_that_changes_meanwhile_is_an_error(folder, tmp_path, change, file):
    """The first file of the tarball and the last one, changed when the first is packed."""
    changes = iter([change])

    def change_once(_: int) -> None:
        for once in changes:
            once(folder / file)

    with pytest.raises(OperationError, match=r"Packing|changed while it was packed"):
        pack(folder, tmp_path / "x.tar", progress=change_once)
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights"}


def test_a_file_that_appears_meanwhile_is_an_error(folder, tmp_path):
    with pytest.raises(OperationError, match=r"new\.json changed while it was packed"):
        pack(
            folder,
            tmp_path / "x.tar",
            progress=lambda _: (folder / "vae" / "new.json").write_text(""),
        )
    assert not (tmp_path / "x.tar").exists()


def test_a_full_disk_is_an_error(folder, tmp_path):
    (tmp_path / "x.tar").write_text("old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limit[1]))
    try:
        with pytest.raises(OperationError, match="Packing"):
            pack(folder, tmp_path / "x.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "x.tar").read_text() == "old"
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights", "x.tar"}


def test_progress_adds_up(folder, files, tmp_path):
    steps: list[int] = []
    pack(folder, tmp_path / "x.tar", progress=steps.append)
    assert sum(steps) == sum(map(len, files.values()))
