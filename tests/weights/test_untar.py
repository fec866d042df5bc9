"""The attack corpus: tarballs that a careless reader unpacks outside, partly or wrongly."""

import hashlib
import io
import random
import tarfile

import pytest

from weights.download import open_source
from weights.errors import OperationError
from weights.install import install
from weights.lock import Lock, LockedFile
from weights.untar import unpack


def add(tar, name, data=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


def tarball(files, extra=lambda tar: None, format=tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for path, data in files.items():
            add(tar, path, data)
        extra(tar)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def lock_of(path, files, *, pinned=True) -> Lock:
    """An honest lock of `files`, except that the tarball's own digest is whatever it is."""
    fields = {"name": "x", "variant": None, "dtype": None, "url": path.as_uri()}
    if not pinned:
        return Lock(**fields)
    data = path.read_bytes()
    locked = tuple(LockedFile(name, len(files[name]), sha256(files[name])) for name in files)
    return Lock(**fields, size=len(data), digest=sha256(data), files=locked)


def link(kind, target):
    return lambda tar: add(tar, "vae/more", type=kind, linkname=target)


def raw_header(name="vae/x", size=b"00000000000", kind=b"0", data=b""):
    """A header with a field that tarfile would not write, and `data` after it."""

    def write(tar):
        member = tarfile.TarInfo(name)
        member.type = kind
        block = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
        block[124:136] = size.ljust(12, b"\0")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        tar.fileobj.write(block + data)
        tar.offset += len(block) + len(data)

    return write


NEGATIVE = b"\xff" * 10 + (-2048 % (1 << 16)).to_bytes(2, "big")
SPARSE_MAP = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}

# Each adds one wrong thing after the right files, and is refused for its own reason.
EVIL = {
    "parent": (lambda tar: add(tar, "../outside", b"x"), r"has the part '\.\.'"),
    "deep parent": (lambda tar: add(tar, "vae/../../outside", b"x"), r"has the part '\.\.'"),
    "absolute": (lambda tar: add(tar, "/tmp/outside-of-cogvideox", b"x"), "is absolute"),
    "dot": (lambda tar: add(tar, "vae/./x", b"x"), r"has the part '\.'"),
    "backslash": (lambda tar: add(tar, "..\\outside", b"x"), "has a backslash"),
    "control": (lambda tar: add(tar, "a\nb", b"x"), "has a control character"),
    "not utf-8": (lambda tar: add(tar, "a\udcff", b"x"), "not UTF-8"),
    "marker": (lambda tar: add(tar, ".install.json", b"{}"), "an install's marker"),
    "symlink": (link(tarfile.SYMTYPE, "../../outside"), "is a link"),
    "absolute symlink": (link(tarfile.SYMTYPE, "/etc"), "is a link"),
    "hard link": (link(tarfile.LNKTYPE, "model_index.json"), "is a link"),
    "fifo": (link(tarfile.FIFOTYPE, ""), "is a link or a device"),
    "device": (link(tarfile.CHRTYPE, ""), "is a link or a device"),
    "duplicate": (lambda tar: add(tar, "vae/config.json", b"{}"), "twice"),
    "duplicate with a dot": (lambda tar: add(tar, "./vae/config.json", b"{}"), "twice"),
    "file as folder": (
        lambda tar: add(tar, "model_index.json/x", b"x"),
        "names no such file|failed",
    ),
    "odd folder": (lambda tar: add(tar, "../outside", type=tarfile.DIRTYPE), "has the part"),
    "sparse": (
        lambda tar: add(tar, "vae/s", b"x", pax_headers=SPARSE_MAP),
        "stored in an odd way",
    ),
    "old sparse": (raw_header(kind=b"S"), "stored in an odd way"),
    "bad sparse map": (
        lambda tar: add(tar, "vae/s", pax_headers=SPARSE_MAP | {"GNU.sparse.map": "a,b"}),
        "can't be unpacked",
    ),
    "negative size": (raw_header(size=NEGATIVE), "stored in an odd way|can't be unpacked"),
    "negative folder size": (
        raw_header(size=NEGATIVE, kind=b"5"),
        "stored in an odd way|can't be unpacked",
    ),
    "huge header": (
        lambda tar: add(tar, "vae/x", pax_headers={"comment": "x" * (2 << 20)}),
        "a header of 2",
    ),
    "unknown type": (lambda tar: add(tar, "vae/x", type=b"V"), "is a link or a device"),
}


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "unpinned"])
@pytest.mark.parametrize(("extra", "reason"), EVIL.values(), ids=EVIL)
def test_refuses_each_attack_and_leaves_nothing(tmp_path, files, extra, reason, pinned):
    place = tmp_path / "place"
    place.mkdir()
    path = tmp_path / "x.tar"
    path.write_bytes(tarball(files, extra))
    with pytest.raises(OperationError, match=reason):
        install(lock_of(path, files, pinned=pinned), place / "weights")
    assert [entry.name for entry in place.iterdir()] == [".weights.lock"]
    assert {entry.name for entry in tmp_path.iterdir()} == {"place", "x.tar"}


def _without(files):
    return {path: data for path, data in files.items() if path != "vae/config.json"}


# Each is a whole, harmless tar that is not the one the lock names.
OTHER = {
    "extra file": (lambda files: tarball({**files, "more": b"x"}), "holds 'more'"),
    "missing file": (lambda files: tarball(_without(files)), "does not hold 'vae/config.json'"),
    "another size": (lambda files: tarball({**files, "vae/config.json": b"{ }"}), "with 3 bytes"),
    "wrong bytes": (lambda files: tarball({**files, "vae/config.json": b"[]"}), "with the digest"),
    "empty": (lambda files: tarball({}), "does not hold"),
}


@pytest.mark.parametrize(("make", "reason"), OTHER.values(), ids=OTHER)
def test_refuses_anything_but_the_locks_files(tmp_path, files, make, reason):
    path = tmp_path / "x.tar"
    path.write_bytes(make(files))
    with pytest.raises(OperationError, match=reason):
        install(lock_of(path, files), tmp_path / "weights")
    assert {entry.name for entry in tmp_path.iterdir()} == {".weights.lock", "x.tar"}


def _end_of_files(data: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.getmembers()
        return tar.offset


# Each spoils a right tarball; all but the last two keep every file whole.
SPOILED = {
    "cut before the end mark": lambda data: data[: _end_of_files(data)],
    "half an end mark": lambda data: data[: _end_of_files(data) + 512],
    "cut between two blocks of it": lambda data: data[: _end_of_files(data) + 700],
    "junk instead of an end mark": lambda data: data[: _end_of_files(data)] + b"x" * 1024,
    "one block of junk, then zeros": (
        lambda data: data[: _end_of_files(data)] + b"x" * 512 + bytes(2048)
    ),
    "junk after the end": lambda data: data + b"x",
    "a second archive": lambda data: data + data,
    "cut at a member": lambda data: data[: data.index(b"vae/config.json")],
    "cut within a file": lambda data: data[: len(data) // 3],
}


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "unpinned"])
@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_refuses_a_spoiled_tarball(tmp_path, files, spoil, pinned):
    path = tmp_path / "x.tar"
    path.write_bytes(spoil(tarball(files)))
    with pytest.raises(OperationError, match=r"x\.tar"):
        install(lock_of(path, files, pinned=pinned), tmp_path / "weights")
    assert {entry.name for entry in tmp_path.iterdir()} == {".weights.lock", "x.tar"}


@pytest.mark.parametrize("field", ["size", "digest"])
def test_refuses_a_tarball_of_another_size_or_digest(tmp_path, files, field):
    path = tmp_path / "x.tar"
    path.write_bytes(tarball(files))
    lock = lock_of(path, files)
    path.write_bytes(path.read_bytes() + bytes(512) if field == "size" else _with_owner(path))
    with pytest.raises(OperationError, match="lock"):
        install(lock, tmp_path / "weights")


def test_stops_where_a_pinned_tarball_should_end(tmp_path, files):
    path = tmp_path / "x.tar"
    path.write_bytes(tarball(files))
    lock = lock_of(path, files)
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + (8 << 20))
    steps: list[int] = []
    with pytest.raises(OperationError, match="goes on after its end"):
        install(lock, tmp_path / "weights", progress=steps.append)
    assert sum(steps) <= lock.size


def _with_owner(path) -> bytes:
    """The same files in a tar that differs in a header only."""
    buffer = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old:
            data = old.extractfile(member)
            member.uid = 7
            new.addfile(member, data)
    return buffer.getvalue()


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("dot", ["", "./"])
def test_unpacks_what_others_packed(tmp_path, format, dot):
    files = {"d" * 90 + "/" + "n" * 90: b"deep", "a": b"", "b": bytes(512), "c": bytes(3 << 20)}
    path = tmp_path / "x.tar"
    path.write_bytes(tarball({f"{dot}{name}": data for name, data in files.items()}, format=format))
    (tmp_path / "out").mkdir()
    steps: list[int] = []
    with open_source(path.as_uri()) as source:
        contents = unpack(source, tmp_path / "out", lock_of(path, files), progress=steps.append)
    assert {file.path: file.digest for file in contents.files} == {
        name: sha256(data) for name, data in files.items()
    }
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in files.items())
    assert sum(steps) == contents.size == path.stat().st_size


@pytest.mark.parametrize("data", [b"", b"not a tar" * 1000, b"\x1f\x8b" + bytes(2000)])
def test_refuses_what_is_no_tar(tmp_path, files, data):
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(OperationError):
        install(lock_of(path, files, pinned=False), tmp_path / "weights")


def test_noise_is_an_error_or_harmless(tmp_path, files):
    """Flipped header bytes: whatever tarfile makes of them, it ends in our error or in files."""
    whole = tarball(files)
    chance = random.Random(0)
    path = tmp_path / "x.tar"
    for number in range(300):
        noisy = bytearray(whole)
        for _ in range(3):
            position = 512 * chance.randrange(len(files)) + chance.randrange(512)
            noisy[position] = chance.randrange(256)
        # With the checksum put right the flipped fields are believed.
        for start in range(0, len(noisy), 512):
            block = noisy[start : start + 512]
            if block[257:262] == b"ustar":
                block[148:156] = b" " * 8
                noisy[start + 148 : start + 156] = b"%06o\0 " % sum(block)
        path.write_bytes(noisy)
        (tmp_path / f"out{number}").mkdir()
        with open_source(path.as_uri()) as source:
            try:
                unpack(source, tmp_path / f"out{number}", lock_of(path, files, pinned=False))
            except (OperationError, FileExistsError, NotADirectoryError):
                continue
    assert {p.name.rstrip("0123456789") for p in tmp_path.iterdir()} == {"x.tar", "out"}
