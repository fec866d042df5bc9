"""Packing: the same folder always gives the same bytes, and nothing half-written stays."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weights.errors import OperationError, UserError
from weights.lock import LockedFile
from weights.tarball import pack


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_the_lock_says_what_the_tarball_is(folder, files, tmp_path):
    lock = pack(folder, tmp_path / "my model.tar")
    data = (tmp_path / "my model.tar").read_bytes()
    assert (lock.size, lock.digest) == (len(data), sha256(data))
    assert lock.files == tuple(
        LockedFile(path, len(files[path]), sha256(files[path])) for path in sorted(files)
    )
    assert (lock.name, lock.variant, lock.dtype) == ("nano", "nano", "float32")
    assert lock.url == "my model.tar"


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


def test_gnu_tar_reads_it(folder, packed, files, tmp_path):
    (tmp_path / "out").mkdir()
    command = ["tar", "-xf", str(tmp_path / "weights.tar"), "-C", str(tmp_path / "out")]
    subprocess.run(command, check=True)
    assert {path: (tmp_path / "out" / path).read_bytes() for path in files} == files


def _copy_differently(folder: Path, copy: Path, order: list[str], mode: int, time: int) -> None:
    """The same files, made in another order and with other modes and times."""
    for path in order:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, copy / path)
        (copy / path).chmod(mode | 0o400)
        os.utime(copy / path, (time, time))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_only_the_content_counts(data):
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        extra = data.draw(
            st.dictionaries(
                st.from_regex(r"[a-zé]{1,3}(/[A-Z0-9 -~é]{1,120})?", fullmatch=True).filter(
                    lambda path: "\\" not in path and path.count("/") < 2 and path[-1:] != " "
                ),
                st.binary(max_size=2000),
                max_size=4,
            )
        )
        contents = {"model_index.json": b'{"_class_name": "P", "s": ["d", "XScheduler"]}'}
        contents |= {"s/scheduler_config.json": b"{}"}
        for path, content in (contents | extra).items():
            target = base / "one" / path
            if not any(part.startswith(" ") for part in target.parts):
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
                except OSError:  # a file where another path wants a folder
                    continue
        (base / "one" / "empty folder").mkdir()
        held = [p for p in (base / "one").rglob("*") if p.is_file()]
        paths = [path.relative_to(base / "one").as_posix() for path in held]
        order = data.draw(st.permutations(paths))
        mode = data.draw(st.integers(0, 0o777))
        time = data.draw(st.integers(0, 2**33))
        umask = os.umask(data.draw(st.sampled_from([0, 0o022, 0o077])))
        try:
            _copy_differently(base / "one", base / "two", order, mode, time)
            first = pack(base / "one", base / "one.tar")
            second = pack(base / "two", base / "two.tar")
        finally:
            os.umask(umask)
        assert first.digest == second.digest
        assert first.set_digest == second.set_digest
        assert (base / "one.tar").read_bytes() == (base / "two.tar").read_bytes()
        assert {file.path for file in first.files} == set(paths)


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


def test_refuses_a_symlink(folder, tmp_path):
    (folder / "vae" / "more").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="symbolic link"):
        pack(folder, tmp_path / "x.tar")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_the_old_tarball(folder, tmp_path, interruption):
    (tmp_path / "x.tar").write_text("old")

    def interrupt(_: int) -> None:
        raise interruption

    expected = KeyboardInterrupt if interruption is KeyboardInterrupt else OperationError
    with pytest.raises(expected):
        pack(folder, tmp_path / "x.tar", progress=interrupt)
    assert (tmp_path / "x.tar").read_text() == "old"
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights", "x.tar"}


@pytest.mark.parametrize("change", [b"", b"longer than it was before, by far" * 100])
def test_a_file_that_changes_meanwhile_is_an_error(folder, tmp_path, change):
    def change_the_last(_: int) -> None:
        (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(change)

    with pytest.raises(OperationError, match="Packing"):
        pack(folder, tmp_path / "x.tar", progress=change_the_last)
    assert not (tmp_path / "x.tar").exists()


def test_progress_adds_up(folder, files, tmp_path):
    steps: list[int] = []
    pack(folder, tmp_path / "x.tar", progress=steps.append)
    assert sum(steps) == sum(map(len, files.values()))
