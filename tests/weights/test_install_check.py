"""What the quick check of an install sees, and what only reading every byte does."""

import dataclasses
import io
import json
import os
import random
import shutil
import threading
from pathlib import Path

import pytest

from tests.weights.conftest import safetensors_bytes, shard, write_files
from tests.weights.surroundings import check_message
from weights.errors import UserError
from weights.install import install
from weights.install_check import check_install, verify_install
from weights.lock import Lock, read_lock, write_lock
from weights.packing.tarball import pack

SHARD = "transformer/model-1.safetensors"
CONFIG = "vae/config.json"


@pytest.fixture
def packed(files, quick_path) -> Lock:
    write_files(quick_path / "weights", files)
    return pack(quick_path / "weights", quick_path / "weights.tar")


@pytest.fixture
def installed(packed, quick_path) -> Path:
    return install(packed, quick_path / "installed")


def refusal(check, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        check(folder)
    check_message(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def refused_by_both(folder: Path) -> str:
    message = refusal(check_install, folder)
    assert refusal(verify_install, folder) == message
    return message


def test_a_whole_install_passes_and_gives_its_marker(installed, packed):
    marker = check_install(installed)
    assert marker == read_lock(installed / ".install.json")
    assert marker.set_digest == packed.set_digest
    assert verify_install(installed) == marker


def test_the_quick_check_reads_no_tensor(installed, monkeypatch):
    """Of a .safetensors file nothing is asked for that is not its header."""
    shards = sorted(installed.rglob("*.safetensors"))
    headers = {8 + int.from_bytes(path.read_bytes()[:8], "little") for path in shards}
    ends: list[int] = []

    class Noting(io.BufferedReader):
        def close(self) -> None:
            if not self.closed:
                ends.append(self.tell())
            super().close()

    _open = Path.open

    def note(path: Path, *arguments: object, **options: object) -> object:
        if path in shards:
            return Noting(_open(path, "rb", buffering=0))
        return _open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", note)
    check_install(installed)
    assert len(ends) == len(shards)
    assert set(ends) == headers


@pytest.mark.parametrize("path", [SHARD, CONFIG])
def test_a_missing_file_is_seen(installed, path):
    (installed / path).unlink()
    assert f"installed/{path} is missing" in refused_by_both(installed)


@pytest.mark.parametrize("path", [SHARD, CONFIG])
def test_a_folder_or_a_dangling_link_in_the_place_of_a_file_is_seen(installed, path):
    (installed / path).unlink()
    (installed / path).mkdir()
    assert f"{path} is missing" in refused_by_both(installed)
    (installed / path).rmdir()
    (installed / path).symlink_to("nowhere")
    assert f"{path} is missing" in refused_by_both(installed)


@pytest.mark.parametrize("path", [SHARD, CONFIG])
@pytest.mark.parametrize("change", [-1, 1])
def test_another_size_is_seen(installed, path, change):
    size = (installed / path).stat().st_size
    os.truncate(installed / path, size + change)
    message = refused_by_both(installed)
    assert f"{path} has {size + change} bytes. It had {size} bytes" in message


def test_a_tensor_renamed_to_one_of_the_same_length_is_seen(installed):
    """Size and spans are as they were."""
    assert len(shard("c")) == len((installed / SHARD).read_bytes())
    (installed / SHARD).write_bytes(shard("c"))
    assert f"{SHARD} has another header" in refused_by_both(installed)


def test_a_transposed_tensor_is_seen(installed):
    data = (installed / SHARD).read_bytes()
    assert b"[2, 3]" in data
    (installed / SHARD).write_bytes(data.replace(b"[2, 3]", b"[3, 2]"))
    assert f"{SHARD} has another header" in refused_by_both(installed)


@pytest.mark.parametrize("byte", [0, 7, 8, 20])
def test_a_flipped_bit_in_a_header_is_seen(installed, byte):
    data = bytearray((installed / SHARD).read_bytes())
    data[byte] ^= 1
    (installed / SHARD).write_bytes(data)
    assert SHARD in refused_by_both(installed)


def test_a_flipped_bit_elsewhere_is_seen_by_the_full_check_alone(installed):
    for path in (SHARD, CONFIG):
        data = bytearray((installed / path).read_bytes())
        data[-1] ^= 1
        (installed / path).write_bytes(data)
    check_install(installed)
    message = refusal(verify_install, installed)
    assert f"these files have other bytes or can't be read: {SHARD}, {CONFIG}." in message


def test_any_flipped_bit_is_seen_by_the_full_check(installed):
    chance = random.Random(0)
    marker = check_install(installed)
    for _ in range(50):
        locked = chance.choice(marker.files)
        path = installed / locked.path
        right = path.read_bytes()
        wrong = bytearray(right)
        wrong[chance.randrange(len(wrong))] ^= 1 << chance.randrange(8)
        path.write_bytes(wrong)
        assert locked.path in refusal(verify_install, installed)
        path.write_bytes(right)
    verify_install(installed)


@pytest.mark.parametrize("path", ["vae/more.safetensors", "notes.txt", "new/folder/x"])
def test_an_added_file_is_seen_by_the_full_check_alone(installed, path):
    (installed / path).parent.mkdir(parents=True, exist_ok=True)
    (installed / path).write_text("mine")
    check_install(installed)
    message = refusal(verify_install, installed)
    assert f"holds files that were not installed: {path}." in message
    assert "Move them away" in message


def test_what_belongs_to_the_install_is_not_added(installed):
    (installed / ".install.lock").touch()
    (installed / ".install.broken.0").mkdir()
    (installed / ".install.broken.0" / "x").touch()
    verify_install(installed)


def test_a_file_that_can_not_be_read_any_more_is_named(installed, monkeypatch):
    def fail(path: Path, *arguments: object, **options: object) -> object:
        if path.name == "config.json" and path.parent.name == "vae":
            raise OSError(5, "Input/output error")
        return _open(path, *arguments, **options)

    _open = Path.open
    monkeypatch.setattr(Path, "open", fail)
    assert f"can't be read: {CONFIG}." in refusal(verify_install, installed)


def test_a_header_that_can_not_be_read_any_more_is_said(installed, monkeypatch):
    def fail(path: Path, *arguments: object, **options: object) -> object:
        if path.suffix == ".safetensors":
            raise OSError(5, "Input/output error")
        return _open(path, *arguments, **options)

    _open = Path.open
    monkeypatch.setattr(Path, "open", fail)
    assert "can't be read (Input/output error)" in refused_by_both(installed)


def test_progress_is_told_of_all_bytes(installed):
    steps: list[int] = []
    mutex = threading.Lock()

    def tell(count: int) -> None:
        with mutex:
            steps.append(count)

    marker = verify_install(installed, progress=tell)
    assert sum(steps) == marker.files_size


# The marker.


def test_a_folder_without_a_marker_is_no_install(installed, quick_path):
    (installed / ".install.json").unlink()
    assert "is not an install. A folder with a .install.json is expected" in refused_by_both(
        installed
    )
    assert "x is not a folder" in refused_by_both(quick_path / "x")
    assert "weights.tar is not a folder" in refused_by_both(quick_path / "weights.tar")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff"])
def test_a_damaged_marker_is_said(installed, text):
    (installed / ".install.json").write_text(text, encoding="latin-1")
    assert ".install.json" in refused_by_both(installed)


def test_a_marker_cut_anywhere_is_said(installed):
    text = (installed / ".install.json").read_bytes()
    for end in range(0, len(text) - 1, 37):
        (installed / ".install.json").write_bytes(text[:end])
        refusal(check_install, installed)


def test_a_marker_whose_digests_do_not_fit_together_is_said(installed):
    fields = json.loads((installed / ".install.json").read_text())
    fields["files"][0]["digest"] = f"sha256:{'0' * 64}"
    (installed / ".install.json").write_text(json.dumps(fields))
    assert "setDigest" in refused_by_both(installed)


def test_an_unpinned_marker_is_no_marker(installed, packed):
    unpinned = dataclasses.replace(packed, size=None, digest=None, files=())
    write_lock(unpinned, installed / ".install.json")
    assert "has no digests" in refused_by_both(installed)


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "vae/../../outside"])
def test_a_marker_that_names_files_outside_is_refused(installed, path):
    (installed.parent / "outside").write_text("x")
    fields = json.loads((installed / ".install.json").read_text())
    fields["files"][0]["path"] = path
    (installed / ".install.json").write_text(json.dumps(fields))
    assert "files[0].path" in refused_by_both(installed)


def without_header_digests(folder: Path) -> Lock:
    """A marker as another tool would write it: a plain lock."""
    marker = read_lock(folder / ".install.json")
    files = tuple(dataclasses.replace(file, header_digest=None) for file in marker.files)
    return dataclasses.replace(marker, files=files)


def test_a_marker_without_header_digests_will_do(installed):
    write_lock(without_header_digests(installed), installed / ".install.json")
    check_install(installed)
    verify_install(installed)
    (installed / SHARD).write_bytes(shard("c"))
    check_install(installed)
    assert SHARD in refusal(verify_install, installed)


def test_without_header_digests_the_spans_are_checked(installed):
    write_lock(without_header_digests(installed), installed / ".install.json")
    span = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 24]}
    data = safetensors_bytes({"a": span, "__metadata__": {"format": "pt"}}, bytes(range(24)))
    assert len(data) == (installed / SHARD).stat().st_size
    (installed / SHARD).write_bytes(data)
    assert f"{SHARD} is not a whole .safetensors file" in refused_by_both(installed)


def test_an_install_may_be_moved(installed, tmp_path):
    shutil.move(installed, tmp_path / "elsewhere")
    verify_install(tmp_path / "elsewhere")
