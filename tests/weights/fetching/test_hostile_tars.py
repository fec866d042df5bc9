"""Hostile tarballs: a correct install or a clear error, and never a byte outside of the target."""

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.weights.fetching.faulty_server import FaultyServer
from tests.weights.fetching.hostile_tars import (
    MEMBERS,
    SPOILED,
    HostileTar,
    honest_tar,
    tar_through_a_link,
    tar_with,
)
from tests.weights.surroundings import (
    install_or_error,
    pget_on_path,
    pinned_lock,
    unpinned_lock,
)

# How an install gets at the tarball: where it is, and the engine.
WAYS = {"file": None, "builtin": "builtin", "pget": "pget"}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture(params=WAYS)
def way(request, tmp_path: Path) -> Iterator[str]:
    with pget_on_path(tmp_path):
        yield request.param


def at_rest(tar: HostileTar, way: str, tmp_path: Path, server: FaultyServer) -> str:
    """The url of the tarball."""
    if way != "file":
        return server.serve("/x.tar", tar.data)
    (tmp_path / "x.tar").write_bytes(tar.data)
    return (tmp_path / "x.tar").as_uri()


# What pget brings is read as any file is: some are enough for it.
SOME = ("parent", "sibling prefix", "absolute", "symlink and a file through it", "duplicate")


def pairs(way: str, names: Iterable[str]) -> list[tuple[str, str]]:
    return [(way, name) for name in names]


@pytest.mark.parametrize(
    ("way", "name"),
    pairs("file", MEMBERS) + pairs("builtin", MEMBERS) + pairs("pget", SOME),
    indirect=["way"],
)
def test_a_hostile_member_is_refused_where_nothing_is_known(
    around, files, server, tmp_path, way, name
):
    url = at_rest(tar_with(name, files, around.outside), way, tmp_path, server)
    error = install_or_error(around, unpinned_lock(url), files, engine=WAYS[way])
    assert error is not None
    assert re.search(MEMBERS[name][1], str(error))


@pytest.mark.parametrize(
    ("way", "name"),
    pairs("file", MEMBERS) + pairs("builtin", MEMBERS) + pairs("pget", SOME),
    indirect=["way"],
)
def test_a_hostile_member_is_never_read_where_the_files_are_known(
    around, files, server, tmp_path, way, name
):
    tar = tar_with(name, files, around.outside)
    lock = pinned_lock(tar, files, at_rest(tar, way, tmp_path, server))
    assert install_or_error(around, lock, files, engine=WAYS[way]) is None


@pytest.mark.parametrize("pinned", [True, False])
def test_a_link_in_the_place_of_a_folder_is_not_followed(
    around, files, server, tmp_path, way, pinned
):
    tar = tar_through_a_link(files, around.outside)
    url = at_rest(tar, way, tmp_path, server)
    lock = pinned_lock(tar, files, url) if pinned else unpinned_lock(url)
    error = install_or_error(around, lock, files, engine=WAYS[way])
    assert pinned == (error is None)
    assert pinned or "is a link" in str(error)


# What the lock of the right tarball makes of a spoiled one is told by the size alone, and of
# those of the right size by the digests.
SAME_SIZE = {"junk instead of an end mark", "no tar"}
HARMLESS = {"junk instead of an end mark"}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_tarball_is_not_the_one_of_the_lock(around, files, server, tmp_path, way, name):
    right = honest_tar(files)
    spoiled = HostileTar(SPOILED[name](right.data), right.offsets)
    lock = pinned_lock(right, files, at_rest(spoiled, way, tmp_path, server))
    error = install_or_error(around, lock, files, engine=WAYS[way])
    if name in HARMLESS:
        assert error is None
    else:
        expected = r"digest" if name in SAME_SIZE else rf"bytes.*lock it has {len(right.data)}"
        assert re.search(expected, str(error))


@pytest.mark.parametrize(
    ("way", "name"),
    pairs("file", SPOILED)
    + pairs("builtin", SPOILED)
    + pairs("pget", ("no end mark", "no byte", "trailing junk")),
    indirect=["way"],
)
def test_a_spoiled_tarball_is_refused_where_nothing_is_known(
    around, files, server, tmp_path, way, name
):
    spoiled = HostileTar(SPOILED[name](honest_tar(files).data), {})
    url = at_rest(spoiled, way, tmp_path, server)
    error = install_or_error(around, unpinned_lock(url), files, engine=WAYS[way])
    assert re.search(
        r"end mark|goes on after its end|ends within|can't be unpacked|holds no weights folder",
        str(error),
    )


def test_modes_and_owners_of_members_count_for_nothing(around, files, server, tmp_path, way):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.uid, member.mtime = len(data), 0o6777, 12345, 1 << 40
            tar.addfile(member, io.BytesIO(data))
    url = at_rest(HostileTar(buffer.getvalue(), {}), way, tmp_path, server)
    assert install_or_error(around, unpinned_lock(url), files, engine=WAYS[way]) is None
    assert {path.stat().st_uid for path in around.destination.rglob("*")} == {
        around.folder.stat().st_uid
    }


def test_the_corpus_does_escape_from_a_careless_reader(around, files):
    """Or all of the above would prove nothing."""
    for name in ("parent", "symlink and a file through it", "hard link and the file again"):
        target = around.folder / "careless" / name.replace(" ", "-")
        target.mkdir(parents=True)
        data = tar_with(name, files, around.outside).data
        if name == "parent":
            (target.parent / "outside").mkdir()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(target, filter="fully_trusted")
    assert (around.folder / "careless" / "outside" / "evil").read_bytes() == b"evil"
    assert (around.outside / "evil").read_bytes() == b"evil"
    with pytest.raises(AssertionError):
        around.check()
