"""Digests follow what is in files, and are computed as seldom as may be."""

import hashlib
import json
import os

import pytest

from training.finetuning import content_digests
from training.finetuning.content_digests import content_digest, digest_of, folders_digest


@pytest.fixture
def reads(monkeypatch):
    """The files that were read, one after the other."""
    done = []
    digest = content_digests.file_digest

    def recorded(path):
        done.append(path.name)
        return digest(path)

    monkeypatch.setattr(content_digests, "file_digest", recorded)
    return done


def test_a_file_is_read_once_until_it_changes(tmp_path, reads):
    path = tmp_path / "a"
    path.write_bytes(b"first")
    first = content_digest(path)
    assert first == f"sha256:{hashlib.sha256(b'first').hexdigest()}"
    assert content_digest(path) == first
    assert reads == ["a"]
    path.write_bytes(b"other")
    os.utime(path, ns=(1, 1))
    assert content_digest(path) == f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    assert reads == ["a", "a"]


def test_another_file_in_the_same_place_is_read_though_it_looks_alike(tmp_path, reads):
    path, other = tmp_path / "a", tmp_path / "b"
    for each, content in ((path, b"first"), (other, b"other")):
        each.write_bytes(content)
        os.utime(each, ns=(1, 1))
    before = content_digest(path)
    other.replace(path)
    assert content_digest(path) != before


def test_equal_content_has_equal_digests_under_any_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")


def test_a_folder_is_all_of_its_files_and_their_names(tmp_path):
    folder = tmp_path / "vae"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "weights").write_bytes(b"1")
    seen = {folders_digest(folder)}
    (folder / "deep" / "weights").write_bytes(b"22")
    seen.add(folders_digest(folder))
    (folder / "deep" / "weights").rename(folder / "deep" / "weights2")
    seen.add(folders_digest(folder))
    (folder / "more").write_bytes(b"")
    seen.add(folders_digest(folder))
    assert len(seen) == 4
    assert folders_digest(folder) in seen
    folder.rename(tmp_path / "other")
    (tmp_path / "moved").mkdir()
    (tmp_path / "other").rename(tmp_path / "moved" / "vae")
    assert folders_digest(tmp_path / "moved" / "vae") in seen


def test_two_folders_are_not_one_with_the_files_of_both(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "file").write_text("x")
    first = folders_digest(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "file").rename(tmp_path / "b" / "file")
    assert folders_digest(tmp_path / "a", tmp_path / "b") != first


def test_the_digest_of_settings_is_that_of_their_json():
    parts = [1, "a", ["b", 2], {"c": True}]
    expected = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    assert digest_of(*parts) == expected
    assert digest_of("ab") != digest_of("a", "b")
