"""A zip is unpacked once and whole; one that lies or wants out leaves nothing anywhere."""

import io
import os
import stat
import struct
import threading
import zipfile
from collections import namedtuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks.forged_zip import Entry, forge, write
from training.dataset import archive
from training.dataset.archive import dataset_folder
from weights.errors import OperationError, UserError

FILES = {"labels/1.txt": b"a red circle", "videos/1.mp4": bytes(range(256)) * 20}


def zipped(path, files=FILES, **options):
    with zipfile.ZipFile(path, "w", **options) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return path


def forged(path, *entries, **end):
    write(path, forge(list(entries), **end))
    return path


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def place(tmp_path):
    """A workspace in a folder where whatever else appears has escaped."""
    return tmp_path / "around" / "workspace"


def assert_nothing_came(place):
    """Of a refused zip nothing is left but the lock that was held."""
    around = place.parent.parent
    names = [path.name for path in around.rglob("*") if path.is_file()]
    assert sorted(name for name in names if not name.endswith((".zip", ".lock"))) == []
    assert not place.exists() or not [path for path in place.iterdir() if path.is_dir()]


def test_a_folder_is_used_as_it_is(tmp_path, place):
    assert dataset_folder(tmp_path, place) == tmp_path
    assert not place.exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_unpacked_into_the_workspace(method, tmp_path, place):
    path = zipped(tmp_path / "data.zip", compression=method)
    folder = dataset_folder(path, place)
    assert folder.parent == place
    assert contents(folder) == FILES


def test_what_systems_add_to_zips_stays_there(tmp_path, place):
    junk = ["__MACOSX/videos/._1.mp4", "videos/.DS_Store", ".git/config", "__MACOSX/Icon\r"]
    path = zipped(tmp_path / "data.zip", FILES | dict.fromkeys(junk, b"junk"))
    assert contents(dataset_folder(path, place)) == FILES


def test_folders_and_a_dot_before_names_are_taken_as_they_are_meant(tmp_path, place):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as target:
        for folder in ("./", "./labels/", "./empty/"):
            target.writestr(folder, b"")
        target.writestr("./labels/1.txt", b"hi")
    assert contents(dataset_folder(path, place)) == {"labels/1.txt": b"hi"}


def test_the_same_zip_is_unpacked_once_under_any_name(tmp_path, place, monkeypatch):
    folder = dataset_folder(zipped(tmp_path / "data.zip"), place)
    monkeypatch.setattr(archive, "_unpack", None)
    (tmp_path / "data.zip").rename(tmp_path / "renamed")
    assert dataset_folder(tmp_path / "renamed", place) == folder


def test_another_zip_gets_another_folder(tmp_path, place):
    first = dataset_folder(zipped(tmp_path / "1.zip"), place)
    second = dataset_folder(zipped(tmp_path / "2.zip", FILES | {"labels/2.txt": b"more"}), place)
    assert first != second
    assert contents(first) == FILES


def test_what_a_killed_process_left_goes_first(tmp_path, place):
    path = zipped(tmp_path / "data.zip")
    folder = dataset_folder(path, place)
    folder.rename(folder.with_name(f"{folder.name}.partial"))
    (folder.with_name(f"{folder.name}.partial") / "labels" / "1.txt").write_bytes(b"half")
    assert contents(dataset_folder(path, place)) == FILES
    assert [entry.name for entry in place.iterdir() if entry.is_dir()] == [folder.name]


def test_processes_that_want_it_at_once_share_the_work(tmp_path, place, monkeypatch):
    path = zipped(tmp_path / "data.zip")
    began, unpack = [], archive._unpack

    def counted(*arguments):
        began.append(1)
        unpack(*arguments)

    monkeypatch.setattr(archive, "_unpack", counted)
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(dataset_folder(path, place)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == len(began) == 1
    assert contents(folders[0]) == FILES


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "has the part '..'"),
        ("videos/../../evil", "has the part '..'"),
        ("../.evil", "has the part '..'"),
        ("/tmp/evil-of-a-zip", "is absolute"),
        ("videos//evil", "has the part ''"),
        ("C:/evil", "begins with a drive"),
        ("c:evil", "begins with a drive"),
        ("..\\evil", "has a backslash"),
        (b"videos/a\0.mp4", "has a control character"),
        ("videos/\x1b[2J", "has a control character"),
        ("a" * 300, "more than 255 bytes"),
        ("a/" * 600 + "evil", "longer than 1024 bytes"),
    ],
)
def test_names_that_lead_out_or_mislead_are_refused(name, reason, tmp_path, place):
    path = forged(tmp_path / "data.zip", Entry("labels/1.txt", b"hi"), Entry(name, b"evil"))
    with pytest.raises(UserError, match="Nothing was unpacked") as caught:
        dataset_folder(path, place)
    assert reason in str(caught.value)
    assert "data.zip holds " in str(caught.value)
    assert len(str(caught.value)) < 500
    assert_nothing_came(place)


@settings(deadline=None, max_examples=30)
@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "a", "", "/", "C:", "a.txt"]), min_size=1, max_size=4
    )
)
def test_no_name_writes_outside(parts, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("zip")
    path = forged(tmp_path / "data.zip", Entry("/".join(parts), b"x"))
    place = tmp_path / "around" / "workspace"
    try:
        folder = dataset_folder(path, place)
    except UserError:
        assert_nothing_came(place)
    else:
        outside = [f for f in tmp_path.rglob("*") if f.is_file() and folder not in f.parents]
        assert {f.suffix for f in outside} <= {".zip", ".lock"}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(stat.S_IFLNK, "link"), (stat.S_IFIFO, "link or a device"), (stat.S_IFCHR, "device")],
)
def test_links_and_devices_are_refused(kind, reason, tmp_path, place):
    link = Entry("videos", b"/etc", central={"external": (kind | 0o777) << 16, "made_by": 3 << 8})
    path = forged(tmp_path / "data.zip", link, Entry("videos/passwd", b"evil"))
    with pytest.raises(UserError, match=f"'videos', which is .*{reason}"):
        dataset_folder(path, place)
    assert_nothing_came(place)


@pytest.mark.parametrize(
    "names", [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["a/b/c", "a"], ["./a", "a"]]
)
def test_what_is_there_twice_is_refused(names, tmp_path, place):
    path = forged(tmp_path / "data.zip", *(Entry(name, b"x") for name in names))
    with pytest.raises(UserError, match="twice"):
        dataset_folder(path, place)
    assert_nothing_came(place)


def test_a_password_is_refused(tmp_path, place):
    entry = Entry("labels/1.txt", b"secret", local={"flags": 1}, central={"flags": 1})
    with pytest.raises(UserError, match="which is encrypted"):
        dataset_folder(forged(tmp_path / "data.zip", entry), place)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_only_what_is_unpacked_in_small_steps_is_unpacked(method, tmp_path, place):
    path = zipped(tmp_path / "data.zip", {"1.mp4": bytes(1 << 20)}, compression=method)
    with pytest.raises(UserError, match="is not compressed by deflate"):
        dataset_folder(path, place)


def test_too_many_files_are_refused(tmp_path, place, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    path = zipped(tmp_path / "data.zip", {str(number): b"" for number in range(4)})
    with pytest.raises(UserError, match="holds 4 files, more than 3"):
        dataset_folder(path, place)
    assert_nothing_came(place)


@pytest.fixture
def no_texts(monkeypatch):
    """A limit of ten times the zip, so that a bomb need not be large."""
    monkeypatch.setattr(archive, "MAX_TEXT_BYTES", 0)


@pytest.mark.usefixtures("no_texts")
def test_a_bomb_is_refused(tmp_path, place):
    path = zipped(
        tmp_path / "data.zip", {"1.mp4": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(UserError, match=r"would grow from 1\.\d kB to 1\.0 MB"):
        dataset_folder(path, place)
    assert_nothing_came(place)


@pytest.mark.usefixtures("no_texts")
def test_entries_that_share_their_bytes_count_each(tmp_path, place):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("0", bytes(100_000))
    data = buffer.getvalue()
    start = data.index(b"PK\1\2")
    entry = bytearray(data[start : data.index(b"PK\5\6")])
    directory = b"".join(bytes(entry[:-1]) + b"%d" % digit for digit in range(10))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 10, 10, len(directory), start, 0)
    (tmp_path / "data.zip").write_bytes(data[:start] + directory + end)
    with pytest.raises(UserError, match=r"would grow from \d+ bytes to 1\.0 MB"):
        dataset_folder(tmp_path / "data.zip", place)


@pytest.mark.parametrize("announced", [10, 100_000, 0])
def test_a_bomb_that_announces_another_size_gets_no_further(announced, tmp_path, place):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("1.mp4", bytes(50_000))
    data = bytearray(buffer.getvalue())
    struct.pack_into("<L", data, data.index(b"PK\1\2") + 24, announced)
    (tmp_path / "data.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"1\.mp4.*Nothing was unpacked"):
        dataset_folder(tmp_path / "data.zip", place)
    assert_nothing_came(place)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_changed_bytes_are_found(method, tmp_path, place):
    path = zipped(tmp_path / "data.zip", compression=method)
    data = bytearray(path.read_bytes())
    data[data.index(b"videos/1.mp4") + 40] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is damaged at 'videos/1\.mp4'"):
        dataset_folder(path, place)
    assert_nothing_came(place)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_zip_without_its_end_is_refused(share, tmp_path, place):
    path = zipped(tmp_path / "data.zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        dataset_folder(path, place)


def test_a_directory_that_is_nonsense_is_refused(tmp_path, place):
    path = zipped(tmp_path / "data.zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") : data.index(b"PK\1\2") + 4] = b"\0\0\0\0"
    path.write_bytes(data)
    with pytest.raises(UserError, match="can't be opened"):
        dataset_folder(path, place)


@pytest.mark.parametrize("data", [b"", b"no zip"])
def test_other_files_are_refused(data, tmp_path, place):
    (tmp_path / "data.zip").write_bytes(data)
    with pytest.raises(UserError, match="is neither a folder nor a zip"):
        dataset_folder(tmp_path / "data.zip", place)
    with pytest.raises(UserError, match=r"There is no .*missing\.zip"):
        dataset_folder(tmp_path / "missing.zip", place)


def test_a_disk_without_room_is_found_before_unpacking(tmp_path, place, monkeypatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr("weights.disk_space.shutil.disk_usage", lambda _: usage(10, 10, 0))
    path = zipped(tmp_path / "data.zip")
    with pytest.raises(OperationError, match=r"5\.1 kB are needed"):
        dataset_folder(path, place)
    assert_nothing_came(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_workspace_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        dataset_folder(zipped(tmp_path / "data.zip"), tmp_path / "locked" / "workspace")
