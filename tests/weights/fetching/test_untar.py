"""Unpacking a tarball of which nothing is known: what it held is told, and odd ones are refused."""

import hashlib
import io
import random
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.weights.fetching.hostile_tars import (
    MEMBERS,
    SPOILED,
    Files,
    Writer,
    honest_tar,
    tar_with,
)
from tests.weights.random_folders import folders
from tests.weights.surroundings import check_message, snapshot
from weights.errors import OperationError
from weights.fetching.untar import Contents, unpack
from weights.packing.tarball import pack


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def in_chunks(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = start + next(sizes)
        yield data[start:end]
        start = end


def unpacked(data: bytes, folder: Path, chunk_bytes: int = 1000) -> Contents:
    folder.mkdir(exist_ok=True)
    chunks = in_chunks(data, iter(lambda: chunk_bytes, 0))
    return unpack(chunks, "https://example.org/x.tar", folder, lambda count: None)


def refusal(data: bytes, folder: Path) -> str:
    with pytest.raises(OperationError) as caught:
        unpacked(data, folder)
    check_message(caught.value)
    assert "https://example.org/x.tar" in str(caught.value)
    return str(caught.value)


def read_files(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def tarball(files: Files, format: int) -> bytes:
    writer = Writer()
    for path, data in files.items():
        writer.add(path, data, format=format)
    return bytes(writer.data) + bytes(1024)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("dot", ["", "./"])
def test_unpacks_what_others_packed(quick_path, format, dot):
    files = {"d" * 90 + "/" + "n" * 90: b"deep", "a": b"", "b": bytes(512), "c": bytes(3 << 20)}
    data = tarball({f"{dot}{name}": data for name, data in files.items()}, format)
    contents = unpacked(data, quick_path / "out", 1 << 20)
    assert read_files(quick_path / "out") == files
    assert (contents.size, contents.digest) == (len(data), sha256(data))
    assert {file.path: (file.size, file.digest) for file in contents.files} == {
        name: (len(content), sha256(content)) for name, content in files.items()
    }
    for file in contents.files:
        assert data[file.offset : file.offset + file.size] == files[file.path]


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(folders(), st.lists(st.integers(1, 3000), min_size=1))
def test_what_was_packed_is_told_as_its_lock_tells_it(quick_path, files, sizes):
    """However the bytes come in."""
    root = Path(tempfile.mkdtemp(dir=quick_path))
    for path, content in files.items():
        (root / "w" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "w" / path).write_bytes(content)
    lock = pack(root / "w", root / "w.tar")
    data = (root / "w.tar").read_bytes()
    (root / "out").mkdir()
    steps: list[int] = []
    chunks = in_chunks(data, iter([*sizes, *[1000] * len(data)]))
    contents = unpack(chunks, "x", root / "out", steps.append)
    assert read_files(root / "out") == files
    assert (contents.size, contents.digest) == (lock.size, lock.digest)
    assert contents.files == lock.files
    assert sum(steps) == lock.size


def test_files_are_told_in_order_of_their_paths(quick_path):
    data = tarball({"b": b"", "a": b"", "c/a": b""}, tarfile.PAX_FORMAT)
    assert [file.path for file in unpacked(data, quick_path / "out").files] == ["a", "b", "c/a"]


def test_more_zeros_after_the_end_are_fine(quick_path, files):
    data = honest_tar(files).data + bytes(100_000)
    assert unpacked(data, quick_path / "out").size == len(data)


def test_folders_are_named_for_nothing(quick_path):
    writer = Writer()
    for name in ("./", "empty", "vae/"):
        writer.add(name, type=tarfile.DIRTYPE)
    writer.add("vae/x", b"x")
    assert [file.path for file in unpacked(bytes(writer.data) + bytes(1024), quick_path).files] == [
        "vae/x"
    ]
    assert read_files(quick_path) == {"vae/x": b"x"}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_hostile_member_is_refused_and_nothing_is_outside(quick_path, files, name):
    for neighbour in ("outside", "w-evil"):
        (quick_path / neighbour).mkdir()
    (quick_path / "outside" / "kept").write_text("kept")
    before = snapshot(quick_path, ("w",))
    message = refusal(tar_with(name, files, quick_path / "outside").data, quick_path / "w")
    assert re.search(MEMBERS[name][1], message)
    assert snapshot(quick_path, ("w",)) == before


@pytest.mark.parametrize("name", ["vae/./x", "vae//x", "vae/x/.", " x", "../w/x"])
def test_a_name_that_is_not_plain_is_refused(quick_path, name):
    assert "which has" in refusal(tarball({name: b"x"}, tarfile.PAX_FORMAT), quick_path / "w")


@pytest.mark.parametrize(
    "name", SPOILED.keys() - {"only an end mark", "cut before a member, with an end mark"}
)
def test_a_spoiled_tarball_is_refused(quick_path, files, name):
    message = refusal(SPOILED[name](honest_tar(files).data), quick_path / "w")
    assert re.search("end mark|goes on after its end|ends within|can't be unpacked", message)


@pytest.mark.parametrize("data", [b"", b"not a tar" * 1000, b"\x1f\x8b" + bytes(2000)])
def test_what_is_no_tar_is_refused(quick_path, data):
    refusal(data, quick_path / "w")


def test_every_cut_is_refused(quick_path):
    """At each block; a cut after the end mark is none."""
    data = tarball({"a": b"x" * 700, "b": b"", "c": b"y" * 512}, tarfile.GNU_FORMAT)
    for end in range(0, len(data), 512):
        refusal(data[:end], quick_path / f"w{end}")


def test_an_error_while_bytes_come_is_passed_on(quick_path, files):
    def breaking() -> Iterator[bytes]:
        yield honest_tar(files).data[:2000]
        raise OperationError("It broke.", "", "")

    with pytest.raises(OperationError, match=r"^It broke\.$"):
        unpack(breaking(), "x", quick_path, lambda count: None)


def test_noise_is_an_error_or_harmless(quick_path, files):
    """Flipped header bytes: whatever tarfile makes of them, it ends in our error or in files."""
    whole = honest_tar(files).data
    chance = random.Random(0)
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
        try:
            unpacked(bytes(noisy), quick_path / f"out{number}")
        except OperationError:
            continue
    assert {path.name.rstrip("0123456789") for path in quick_path.iterdir()} == {"out"}


def test_what_is_unpacked_is_what_tarfile_extracts(quick_path, files):
    data = honest_tar(files).data
    unpacked(data, quick_path / "ours")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(quick_path / "theirs", filter="data")
    assert read_files(quick_path / "ours") == read_files(quick_path / "theirs")
